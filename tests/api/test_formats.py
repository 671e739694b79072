"""What the real worker writes: every format with its marks, the level of compression, masks to the pixel, transparent
backgrounds, turned references, and the same picture from what it has kept of an earlier request."""
import base64
import io

import pytest
from PIL import Image, ImageDraw

FORMATS = ["png", "jpeg", "webp", "gif", "avif"]


def drawn(answer, index=0):
    return base64.b64decode(answer.data[index].b64_json, validate=True)


def generate(client, prompt="a red circle", **more):
    extra = {name: more.pop(name) for name in ("seed", "steps") if name in more}
    return client.images.generate(prompt=prompt, size=more.pop("size", "64x64"), response_format="b64_json",
                                  extra_body={"steps": 2, "seed": 7, **extra}, **more)


def waves(width, height):
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 5 % 256, y * 7 % 256, (x + y) * 3 % 256) for y in range(height) for x in range(width)])
    return image


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@pytest.mark.parametrize("form", FORMATS)
def test_marks(client, form):
    content = drawn(generate(client, output_format=form, seed=77))
    image = Image.open(io.BytesIO(content))
    image.load()
    assert image.format == form.upper() and image.size == (64, 64)
    if form == "gif":
        marks = image.info["comment"].decode().split("\n")
        assert marks[0].startswith("AI generated") and "seed 77" in marks[-1]
    else:
        exif = image.getexif()
        assert exif[0x0131].startswith("AI generated")  # Software
        assert "seed 77" in exif[0x010E]  # ImageDescription


@pytest.mark.parametrize("form", ["jpeg", "webp", "avif"])
def test_compression(client, form):
    sizes = [len(drawn(generate(client, output_format=form, output_compression=level, size="128x128")))
             for level in (0, 60, 100)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert len(drawn(generate(client, output_format=form, size="128x128"))) == sizes[2]  # 100 is what is taken


def test_png_is_lossless_at_every_level(client):
    one, other = (Image.open(io.BytesIO(drawn(generate(client, output_compression=level)))) for level in (0, 100))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("size", [(96, 80), (90, 70), (200, 131)])
def test_what_a_mask_keeps(client, size):
    width, height = size
    picture = waves(width, height)
    mask = picture.convert("RGBA")
    ImageDraw.Draw(mask).rectangle((width // 4, height // 4, width // 2, height // 2), fill=(0, 0, 0, 0))
    answer = client.images.edit(image=("a.png", encoded(picture)), mask=("m.png", encoded(mask)), prompt="a blue square",
                                response_format="b64_json", extra_body={"steps": 2, "seed": 3})
    made = Image.open(io.BytesIO(drawn(answer))).convert("RGB")
    assert made.size == size and answer.size == f"{width}x{height}"
    inside = changed = 0
    for y in range(height):
        for x in range(width):
            same = made.getpixel((x, y)) == picture.getpixel((x, y))
            if width // 4 <= x <= width // 2 and height // 4 <= y <= height // 2:
                inside, changed = inside + 1, changed + (not same)
            else:
                assert same, (x, y)
    assert changed > inside / 2


def test_a_mask_of_a_turned_picture(client):
    """The mask is held against the picture as it is seen."""
    turned = Image.Exif()
    turned[0x0112] = 6
    reference = ("a.jpg", encoded(waves(128, 64), "JPEG", quality=95, exif=turned))
    answer = client.images.edit(image=reference, mask=("m.png", encoded(Image.new("RGBA", (64, 128)))), prompt="a",
                                response_format="b64_json", extra_body={"steps": 1})
    assert answer.size == "64x128"
    assert Image.open(io.BytesIO(drawn(answer))).size == (64, 128)


def test_transparent(client):
    """The picture's own background decides; the answer and the file say the same."""
    for form in ("png", "webp", "gif", "avif"):
        answer = generate(client, "a red circle on a white background", background="transparent", output_format=form,
                          size="128x128", steps=8)
        image = Image.open(io.BytesIO(drawn(answer)))
        clear = image.convert("RGBA").getchannel("A").getextrema()[0] == 0
        assert answer.background == ("transparent" if clear else "opaque")


def test_kept_encodings_change_nothing(own_server):
    kept, none = (own_server(config=f"local: {{cache: {size}}}\n").client for size in ("64MiB", "0"))
    picture = ("a.png", encoded(waves(96, 80)))
    for _ in range(3):
        one, other = (Image.open(io.BytesIO(drawn(client.images.edit(
            image=picture, prompt="make it blue", response_format="b64_json", extra_body={"steps": 2, "seed": 5}))))
            for client in (kept, none))
        assert one.tobytes() == other.tobytes()
