// The official Node SDK against the live server at LIMN_URL.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI, { toFile } from "openai";

const client = new OpenAI({ apiKey: "any", baseURL: process.env.LIMN_URL + "/openai/v1", maxRetries: 0 });

function size(png) {
  assert.equal(png.toString("latin1", 1, 4), "PNG");
  return [png.readUInt32BE(16), png.readUInt32BE(20)];
}

test("generate as b64_json", async () => {
  const answer = await client.images.generate({ prompt: "a red circle", n: 2, size: "64x80", response_format: "b64_json" });
  assert.equal(answer.data.length, 2);
  for (const datum of answer.data) assert.deepEqual(size(Buffer.from(datum.b64_json, "base64")), [64, 80]);
  assert.equal(answer.size, "64x80");
});

test("generate as url, edit several", async () => {
  const made = await client.images.generate({ prompt: "a red circle", size: "64x64" });
  const answer = await fetch(made.data[0].url);
  assert.equal(answer.headers.get("content-type"), "image/png");
  const bytes = Buffer.from(await answer.arrayBuffer());
  assert.deepEqual(size(bytes), [64, 64]);
  const files = [await toFile(bytes, "a.png", { type: "image/png" }), await toFile(bytes, "b.png", { type: "image/png" })];
  const edited = await client.images.edit({ image: files, prompt: "make it blue", response_format: "b64_json" });
  assert.deepEqual(size(Buffer.from(edited.data[0].b64_json, "base64")), [64, 64]);
  assert.equal(edited.usage.input_tokens_details.image_tokens, 32);
  const one = await client.images.edit({ image: files[0], prompt: "make it blue", size: "80x64" });
  assert.match(one.data[0].url, /\/media\/[0-9a-f]{32}\.png$/);
});

test("errors", async () => {
  await assert.rejects(client.images.generate({ prompt: "a", n: 11 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "n");
    assert.ok(error.requestID.startsWith("req_"));
    return true;
  });
  await assert.rejects(client.images.generate({ prompt: "a", model: "dall-e-3" }), OpenAI.NotFoundError);
});

test("models", async () => {
  const models = await client.models.list();
  const here = models.data.filter((model) => model.installed);
  assert.ok(here.length >= 1);
  assert.equal((await client.models.retrieve(here[0].id)).id, here[0].id);
});

test("streams with partial images", async () => {
  const stream = await client.images.generate({ prompt: "a red circle", size: "64x64", stream: true, partial_images: 2 });
  const types = [];
  let last;
  for await (const event of stream) {
    types.push(event.type);
    assert.deepEqual(size(Buffer.from(event.b64_json, "base64")).length, 2);
    last = event;
  }
  assert.equal(types.at(-1), "image_generation.completed");
  assert.ok(types.slice(0, -1).every((type) => type === "image_generation.partial_image") && types.length <= 3);
  assert.equal(last.usage.output_tokens, 16);
});

test("streams an edit of four pictures", async () => {
  const made = await client.images.generate({ prompt: "a", size: "64x64", response_format: "b64_json" });
  const bytes = Buffer.from(made.data[0].b64_json, "base64");
  const image = await Promise.all([1, 2, 3, 4].map((k) => toFile(bytes, `${k}.png`, { type: "image/png" })));
  const types = [];
  for await (const event of await client.images.edit({ image, prompt: "make it blue", stream: true })) types.push(event.type);
  assert.deepEqual(types, ["image_edit.completed"]);
  await assert.rejects(client.images.edit({ image: [...image, image[0]], prompt: "a" }), OpenAI.BadRequestError);
});
