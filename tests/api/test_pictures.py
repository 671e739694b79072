"""The official Python SDK makes and edits pictures."""
import base64
import io
import urllib.request

import pytest
from PIL import Image

SMALL = "64x64"


def picture(width=96, height=80, colour=(200, 30, 30), form="PNG"):
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, form)
    return data.getvalue()


def opened(datum):
    if datum.b64_json:
        return Image.open(io.BytesIO(base64.b64decode(datum.b64_json, validate=True)))
    with urllib.request.urlopen(datum.url) as answer:
        image = Image.open(io.BytesIO(answer.read()))
        assert answer.headers["Content-Type"] == image.get_format_mimetype()
    return image


def test_generate_b64(client):
    answer = client.images.generate(prompt="a red circle", size=SMALL, response_format="b64_json")
    assert len(answer.data) == 1 and answer.data[0].url is None
    image = opened(answer.data[0])
    image.load()
    assert image.format == "PNG" and image.size == (64, 64) and image.mode == "RGB"
    assert answer.size == SMALL and answer.output_format == "png"
    assert answer.created > 1_700_000_000
    usage = answer.usage
    assert usage.output_tokens == 16
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens == usage.input_tokens_details.text_tokens > 0
    assert usage.input_tokens_details.image_tokens == 0


def test_generate_url_is_the_default(client, server):
    answer = client.images.generate(prompt="a red circle", size=SMALL)
    assert answer.data[0].b64_json is None
    assert answer.data[0].url.startswith(server.url + "/media/")
    assert opened(answer.data[0]).size == (64, 64)


def test_no_size_is_the_models_own(client):
    first, second = (client.images.generate(prompt="a square", **size) for size in ({}, {"size": "auto"}))
    assert first.size == second.size
    assert "%dx%d" % opened(first.data[0]).size == first.size


def test_several(client):
    answer = client.images.generate(prompt="a red circle", n=2, size=SMALL, response_format="b64_json",
                                    extra_body={"seed": 7})
    assert [datum.seed for datum in answer.data] == [7, 8]
    assert answer.data[0].b64_json != answer.data[1].b64_json
    alone = client.images.generate(prompt="a red circle", size=SMALL, response_format="b64_json", extra_body={"seed": 8})
    assert opened(alone.data[0]).tobytes() == opened(answer.data[1]).tobytes()


def test_seed_is_drawn(client):
    seeds = {client.images.generate(prompt="a", size=SMALL).data[0].seed for _ in range(3)}
    assert len(seeds) == 3


def test_size_is_exact(client):
    """Sides that are no multiples of 16 are rendered larger and cut; sides beyond the limits are brought within them."""
    for asked, given in (("70x90", (70, 90)), ("16x16", (64, 64)), ("30x120", (64, 256))):
        answer = client.images.generate(prompt="a red circle", size=asked, extra_body={"steps": 1})
        assert opened(answer.data[0]).size == given
        assert answer.size == "%dx%d" % given


@pytest.mark.parametrize("form", ["png", "jpeg", "webp"])
def test_formats(client, form):
    for response_format in ("b64_json", "url"):
        answer = client.images.generate(prompt="a red circle", size=SMALL, output_format=form,
                                        response_format=response_format)
        image = opened(answer.data[0])
        image.load()
        assert image.format == form.upper() and answer.output_format == form
        exif = image.getexif()
        assert exif[0x0131].startswith("AI generated;")
        assert f"seed {answer.data[0].seed}" in exif[0x010E]


def test_compression(client):
    sizes = [len(client.images.generate(prompt="a", size="256x256", output_format="jpeg", output_compression=quality,
                                        response_format="b64_json", extra_body={"seed": 1, "steps": 1}).data[0].b64_json)
             for quality in (5, 100)]
    assert sizes[0] < sizes[1]


def test_engine_parameters(client):
    def draw(**more):
        answer = client.images.generate(prompt="a", size=SMALL, response_format="b64_json", extra_body={"seed": 3, **more})
        return opened(answer.data[0]).tobytes()

    assert draw(steps=3) == draw(steps=3)
    assert draw(steps=3) != draw(steps=2)
    assert draw(sigmas=[1.0, 0.6, 0.2]) != draw(steps=3)
    assert draw(steps=2, guidance=1.5) == draw(steps=2, cfg_scale=1.5) == draw(steps=2, cfg_scale=1.5, guidance=1.5)


def test_ignored_parameters_are_named(client):
    answer = client.images.generate(prompt="a", size=SMALL, quality="high", style="vivid", moderation="low", user="me",
                                    background="opaque", extra_body={"frobnicate": True, "negative_prompt": None})
    assert set(answer.metadata["ignored_parameters"]) == {"quality", "style", "moderation", "frobnicate"}
    assert answer.metadata["provider"] == "local"


def test_edit_one(client):
    answer = client.images.edit(image=picture(), prompt="make it blue", response_format="b64_json")
    assert answer.size == "96x80"
    assert opened(answer.data[0]).size == (96, 80)
    assert answer.usage.input_tokens_details.image_tokens == 6 * 5


def test_edit_several_in_order(client):
    red, blue = picture(), picture(64, 64, (0, 0, 220), "WEBP")

    def edit(images):
        answer = client.images.edit(image=images, prompt="use Image 1 and Image 2", size=SMALL, n=1,
                                    response_format="b64_json", extra_body={"seed": 5, "steps": 2})
        return answer, opened(answer.data[0]).tobytes()

    answer, first = edit([("a.png", red, "image/png"), ("b.webp", blue, "image/webp")])
    assert answer.usage.input_tokens_details.image_tokens == 6 * 5 + 4 * 4
    assert edit([red, blue])[1] == first
    assert edit([blue, red])[1] != first


def test_edit_formats_and_orientation(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.new("RGB", (128, 64)).save(data, "JPEG", exif=exif)
    answer = client.images.edit(image=data.getvalue(), prompt="a", extra_body={"steps": 1})
    assert answer.size == "64x128"
    for form, mode in (("JPEG", "CMYK"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA")):
        data = io.BytesIO()
        Image.new(mode, (64, 64)).save(data, form)
        assert client.images.edit(image=data.getvalue(), prompt="a", extra_body={"steps": 1}).size == "64x64"


def test_models(client):
    models = client.models.list().data
    here = [model for model in models if model.installed]
    assert {model.object for model in models} == {"model"} and here[0].id == models[0].id
    assert client.models.retrieve(models[-1].id).id == models[-1].id
    for name in (here[0].id, "local/" + here[0].id):
        answer = client.images.generate(model=name, prompt="a", size=SMALL)
        assert answer.metadata["model"] == here[0].id


def test_both_bases(server):
    for base in ("/v1", "/openai/v1"):
        with_base = server.client.with_options(base_url=server.url + base)
        assert with_base.images.generate(prompt="a", size=SMALL).data[0].url


def test_long_prompt(client):
    assert client.images.generate(prompt="円" * 32000, size=SMALL, extra_body={"steps": 1}).data[0].url


def test_a_mask_mixes_by_its_alpha(client):
    """The model is not told of the mask: what it draws without one is mixed with the picture, pixel by pixel; soft edges are the
    mask's own."""
    source, alphas = Image.effect_mandelbrot((96, 80), (-2, -1.5, 1, 1.5), 60).convert("RGB"), Image.new("L", (96, 80))
    for x in range(96):
        alphas.paste(min(255, max(0, (x - 32) * 8)), (x, 0, x + 1, 80))  # 0 on the left, a ramp, 255 on the right
    mask, data, mask_data = Image.new("RGBA", (96, 80)), io.BytesIO(), io.BytesIO()
    mask.putalpha(alphas)
    mask.save(mask_data, "PNG")
    source.save(data, "PNG")
    fields = dict(image=data.getvalue(), prompt="a red circle", size="96x80", response_format="b64_json", extra_body={"seed": 3})
    drawn = opened(client.images.edit(**fields).data[0])
    mixed = opened(client.images.edit(mask=mask_data.getvalue(), **fields).data[0])
    for x in (0, 20, 32, 33, 40, 50, 63, 64, 80, 95):
        for y in (0, 37, 79):
            alpha = alphas.getpixel((x, y))
            expected = tuple((alpha * a + (255 - alpha) * b + 127) // 255
                             for a, b in zip(source.getpixel((x, y)), drawn.getpixel((x, y))))
            assert mixed.getpixel((x, y)) == expected, (x, y, alpha)
    assert source.crop((64, 0, 96, 80)).tobytes() == mixed.crop((64, 0, 96, 80)).tobytes()
    assert drawn.crop((0, 0, 32, 80)).tobytes() == mixed.crop((0, 0, 32, 80)).tobytes() != source.crop((0, 0, 32, 80)).tobytes()
