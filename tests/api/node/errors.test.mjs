// What the official Node SDK makes of errors, against the live server at LIMN_URL with the keys in LIMN_KEYS.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI, { toFile } from "openai";

const keys = JSON.parse(process.env.LIMN_KEYS);

// A client, and the times at which it sends.
function counted(name = "plain", maxRetries = 2) {
  const sent = [];
  const client = new OpenAI({
    apiKey: keys[name] ?? name, baseURL: process.env.LIMN_URL + "/openai/v1", maxRetries, timeout: 60000,
    fetch: (...call) => {
      sent.push(performance.now());
      return fetch(...call);
    },
  });
  return { client, sent };
}

async function fails(one, kind, status, code, fields = {}, options = {}) {
  let caught;
  await assert.rejects(one.client.images.generate({ prompt: "a", size: "64x64", ...fields }, options), (error) => {
    caught = error;
    return true;
  });
  assert.equal(caught.constructor, kind, String(caught));
  assert.deepEqual([caught.status, caught.code], [status, code]);
  assert.ok(caught.requestID.startsWith("req_"));
  return caught;
}

test("error classes", async () => {
  await fails(counted("wrong"), OpenAI.AuthenticationError, 401, "AUTHENTICATION_FAILED");
  assert.equal((await fails(counted("poor"), OpenAI.APIError, 402, "BUDGET_EXCEEDED")).type, "billing_error");
  await fails(counted("narrow"), OpenAI.PermissionDeniedError, 403, "KEY_NOT_ALLOWED");
  await fails(counted(), OpenAI.NotFoundError, 404, "MODEL_NOT_FOUND", { model: "none" });
  assert.equal((await fails(counted(), OpenAI.BadRequestError, 400, "INVALID_REQUEST", { n: 11 })).param, "n");
  await fails(counted("plain", 0), OpenAI.InternalServerError, 503, "OUT_OF_MEMORY", { prompt: "@memory=steps" });
});

test("a conflict is not repeated", async () => {
  const one = counted();
  const options = { headers: { "Idempotency-Key": "node-" + process.hrtime.bigint() } };
  await one.client.images.generate({ prompt: "a", size: "64x64" }, options);
  await fails(one, OpenAI.ConflictError, 409, "IDEMPOTENCY_CONFLICT", { prompt: "b" }, options);
  assert.equal(one.sent.length, 2);
});

test("limits", async () => {
  const hasty = counted("hasty", 0);
  await hasty.client.images.generate({ prompt: "a", size: "64x64" });
  const error = await fails(hasty, OpenAI.RateLimitError, 429, "RATE_LIMITED");
  const seconds = Number(error.headers.get("retry-after"));
  assert.ok(seconds >= 1 && seconds <= 60);
  const few = counted("few");
  await fails(few, OpenAI.RateLimitError, 429, "RATE_LIMITED", { n: 2 });
  assert.equal(few.sent.length, 1);
});

test("a full queue is waited for", async () => {
  const others = counted("plain", 5);
  const slow = [0, 1].map(() => others.client.images.generate({ prompt: "@ms=200", size: "64x64" }));
  const health = async () => (await (await fetch(process.env.LIMN_URL + "/healthz")).json()).waiting;
  const deadline = performance.now() + 10000;
  while ((await health()) !== 1) assert.ok(performance.now() < deadline, "the queue is never full");
  const one = counted();
  assert.ok((await one.client.images.generate({ prompt: "a", size: "64x64" })).data[0].url);
  assert.ok(one.sent.length >= 2 && one.sent[1] - one.sent[0] >= 1000, String(one.sent));
  await Promise.all(slow);
});

test("failures are repeated where that may help", async () => {
  const may = counted();
  await fails(may, OpenAI.InternalServerError, 503, "OUT_OF_MEMORY", { prompt: "@memory=steps" });
  assert.equal(may.sent.length, 3);
  const vain = counted();
  await fails(vain, OpenAI.InternalServerError, 503, "WORKER_DIED", { prompt: "@crash=steps" });
  assert.equal(vain.sent.length, 1);
});

test("edits of one to four files", async () => {
  const { client } = counted();
  const made = await client.images.generate({ prompt: "a", size: "64x64", response_format: "b64_json" });
  const bytes = Buffer.from(made.data[0].b64_json, "base64");
  for (const count of [1, 2, 3, 4]) {
    const files = await Promise.all(Array.from({ length: count }, (_, k) => toFile(bytes, `${k}.png`, { type: "image/png" })));
    const answer = await client.images.edit({ image: count > 1 ? files : files[0], prompt: "a" });
    assert.equal(answer.usage.input_tokens_details.image_tokens, 16 * count);
  }
});
