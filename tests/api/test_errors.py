"""What is wrong is told with the right status and the parameter's name, and the server stays up."""
import http.client
import json
import socket

import openai
import pytest

from test_pictures import SMALL, picture


def post(server, path, body, headers=None, method="POST"):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, headers or {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.headers["x-request-id"].startswith("req_")
        return answer.status, json.loads(text) if text else None, answer.headers
    finally:
        connection.close()


def check_error(status, body, wanted, param=None, part=""):
    error = body["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert (status, error["param"]) == (wanted, param), error
    assert part in error["message"] and "\n" not in error["message"], error


@pytest.mark.parametrize("fields, param, part", [
    ({}, "prompt", "missing"),
    ({"prompt": None}, "prompt", "missing"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": 5}, "prompt", "string"),
    ({"prompt": "x" * 32001}, "prompt", "32001"),
    ({"prompt": "a", "n": 0}, "n", "1 to 10"),
    ({"prompt": "a", "n": 11}, "n", "1 to 10"),
    ({"prompt": "a", "n": "2"}, "n", "integer"),
    ({"prompt": "a", "n": 1.5}, "n", "integer"),
    ({"prompt": "a", "n": 1e300}, "n", "integer"),
    ({"prompt": "a", "size": "64"}, "size", "WIDTHxHEIGHT"),
    ({"prompt": "a", "size": "0x64"}, "size", "1 to 65536"),
    ({"prompt": "a", "size": "64x64x64"}, "size", "WIDTHxHEIGHT"),
    ({"prompt": "a", "size": "99999999999999999999x1"}, "size", "WIDTHxHEIGHT"),
    ({"prompt": "a", "size": "-64x64"}, "size", "WIDTHxHEIGHT"),
    ({"prompt": "a", "size": 64}, "size", "string"),
    ({"prompt": "a", "size": "16:0"}, "size", "WIDTHxHEIGHT"),
    ({"prompt": "a", "aspect_ratio": "16x9"}, "aspect_ratio", "16:9"),
    ({"prompt": "a", "sigmas": [1, 0.5], "steps": 3}, "steps", "2 sigmas"),
    ({"prompt": "a", "seed": 18446744073709551615}, None, "number that is too large"),
    ({"prompt": "a", "resolution": "1G"}, "resolution", "1K"),
    ({"prompt": "a", "response_format": "xml"}, "response_format", "url b64_json"),
    ({"prompt": "a", "output_format": "tiff"}, "output_format", "png jpeg gif webp avif"),
    ({"prompt": "a", "output_compression": 101}, "output_compression", "0 to 100"),
    ({"prompt": "a", "background": "transparent", "output_format": "jpeg"}, "background", "transparent"),
    ({"prompt": "a", "quality": "best"}, "quality", "one of"),
    ({"prompt": "a", "stream": "yes"}, "stream", "true or false"),
    ({"prompt": "a", "stream": True, "partial_images": 4}, "partial_images", "0 to 3"),
    ({"prompt": "a", "seed": -1}, "seed", "integer"),
    ({"prompt": "a", "seed": 2**63}, None, ""),
    ({"prompt": "a", "steps": 0}, "steps", "1 to 200"),
    ({"prompt": "a", "steps": 1000}, "steps", "1 to 200"),
    ({"prompt": "a", "guidance": "high"}, "guidance", "number"),
    ({"prompt": "a", "guidance": 1, "cfg_scale": 2}, "cfg_scale", "other name"),
    ({"prompt": "a", "sigmas": []}, "sigmas", "array"),
    ({"prompt": "a", "sigmas": [1, "x"]}, "sigmas", "number"),
    ({"prompt": "a", "sigmas": [0.5, 0]}, "sigmas", "above 0"),
    ({"prompt": "a", "image": "data:image/png;base64,AA"}, "image", "/images/edits"),
    ({"prompt": "a", "sync_mode": "on"}, "sync_mode", "true or false"),
    ({"prompt": "a", "prompt_enhancement": "on"}, "prompt_enhancement", "does not offer"),
    ({"prompt": "a", "lora": "x"}, "lora", "there is no \"x\" for model"),
    ({"prompt": "a", "lora": {"path": "/etc/passwd"}}, "lora", "files cannot be"),
    ({"prompt": "a", "enable_safety_checker": True}, "enable_safety_checker", "does not offer"),
])
def test_wrong_fields(server, fields, param, part):
    status, body, _ = post(server, "/v1/images/generations", json.dumps(fields))
    check_error(status, body, 400, param, part)
    assert body["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"text"', '{"prompt":"a","prompt":"b"}', '{"prompt":"\\ud800"}',
                                  '{"prompt":"a\\u0000b"}', "[" * 100000, '{"prompt":"\xff"}'.encode("latin-1"),
                                  '{"a":' * 5000 + "1" + "}" * 5000])
def test_malformed_json(server, text):
    status, body, _ = post(server, "/v1/images/generations", text)
    check_error(status, body, 400)


def test_sdk_exceptions(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a", n=99)
    assert caught.value.param == "n" and caught.value.code == "INVALID_REQUEST" and caught.value.request_id
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a", model="dall-e-2")
    assert caught.value.code == "MODEL_NOT_FOUND" and caught.value.param == "model"
    assert caught.value.body["openai_code"] == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    with pytest.raises(openai.BadRequestError):
        client.images.edit(image=b"not a picture", prompt="a")
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=picture(), mask=picture(64, 64), prompt="a")
    assert caught.value.param == "mask"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="x", messages=[])
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve("video_1")


def test_did_you_mean(client):
    name = client.models.list().data[0].id
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(prompt="a", model=name[:-1] + "q")
    assert f"Did you mean '{name}'?" in str(caught.value)


def test_methods_and_paths(server):
    status, body, headers = post(server, "/v1/images/generations", None, {}, "GET")
    check_error(status, body, 405)
    assert "POST" in headers["Allow"]
    check_error(*post(server, "/v1/models", b"x", {}, "DELETE")[:2], 405)
    check_error(*post(server, "/v1/images/variations", b"x")[:2], 404)
    check_error(*post(server, "/" + "x" * 3000, None, {}, "GET")[:2], 404)
    for name in ("x", "0" * 32 + ".png", "../../etc/passwd", "%2e%2e%2fpasswd", "0" * 32 + ".gif", "." * 500):
        check_error(*post(server, "/media/" + name, None, {}, "GET")[:2], 404)


def test_content_types(server):
    check_error(*post(server, "/v1/images/generations", "prompt=a", {"Content-Type": "text/plain"})[:2], 415)
    check_error(*post(server, "/v1/images/generations", "prompt=a",
                      {"Content-Type": "application/x-www-form-urlencoded"})[:2], 415)
    check_error(*post(server, "/v1/images/edits", '{"prompt":"a"}')[:2], 400, "image", "missing")
    check_error(*post(server, "/v1/images/edits", "x", {"Content-Type": "text/plain"})[:2], 415, part="multipart/form-data")
    check_error(*post(server, "/v1/images/edits", "x", {"Content-Type": "multipart/form-data"})[:2], 400, part="boundary")


def test_large_bodies(server):
    check_error(*post(server, "/v1/images/generations", b" " * (2 << 20))[:2], 413)
    # Announced as far too large: answered before it is sent.
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=30) as connection:
        connection.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
                           b"boundary=x\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in connection.recv(4096)


def form(*parts, boundary="XX"):
    """parts: (headers, body) as bytes."""
    line = boundary.encode()
    body = b"".join(b"--" + line + b"\r\n" + headers + b"\r\n\r\n" + content + b"\r\n" for headers, content in parts)
    return body + b"--" + line + b"--\r\n"


def part(name, content, filename=None, kind=None):
    headers = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        headers += f'; filename="{filename}"'
    if kind:
        headers += f"\r\nContent-Type: {kind}"
    return headers.encode(), content


FORM = {"Content-Type": "multipart/form-data; boundary=XX"}
PROMPT = part("prompt", b"a")
STEPS = part("steps", b"1")


def edit(server, body):
    return post(server, "/v1/images/edits", body, FORM)


def test_form_names(server):
    """image, image[], image[0] and repeated, in any mix."""
    picture_part = picture(64, 64)
    for names in (["image"], ["image[]"] * 4, ["image", "image"], ["image[0]", "image[1]"], ["image", "image[]", "image[7]"]):
        status, body, _ = edit(server, form(PROMPT, STEPS, *(part(name, picture_part, "a.png") for name in names)))
        assert status == 200, body
        assert body["usage"]["input_tokens_details"]["image_tokens"] == 16 * len(names)


def test_form_values(server):
    image = part("image", picture(64, 64), "a.png", "image/png")
    status, body, _ = edit(server, form(PROMPT, image, part("n", b"2"), part("steps", b"2"), part("guidance", b"3.5"),
                                        part("seed", b"11"), part("stream", b"false"), part("size", b"64x80"),
                                        part("sigmas[]", b"1"), part("sigmas[]", b"0.5")))
    assert status == 200, body
    assert [datum["seed"] for datum in body["data"]] == [11, 12] and body["size"] == "64x80"
    for name, value in (("n", b"two"), ("n", b""), ("steps", b"0x10"), ("guidance", b"inf"), ("guidance", b"nan"),
                        ("seed", b"99999999999999999999"), ("stream", b"yes"), ("size", b"a"), ("sigmas[]", b"2"),
                        ("prompt", b"again"), ("user", b"\xff\xfe")):
        status, body, _ = edit(server, form(PROMPT, image, part(name, value)))
        check_error(status, body, 400, name.removesuffix("[]"))


@pytest.mark.parametrize("content, message", [
    (b"", "empty"),
    (b"hello", "not a picture"),
    (b"GIF89a" + b"\x10\0\x10\0" + b"\0" * 20, "gif"),
    (b"\x89PNG\r\n\x1a\n", "header"),
    (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\2\0\0\0\0\0\0\0", "pixels"),
    (picture(200, 200)[:150], "truncated"),
    (picture(8, 8), "64"),
    (picture(2000, 64), "8"),
])
def test_hostile_pictures(server, content, message):
    for index, before in ((0, []), (1, [part("image[]", picture(64, 64), "a.png")])):
        status, body, _ = edit(server, form(PROMPT, *before, part("image[]", content, "a.png")))
        check_error(status, body, 400, f"image[{index}]" if index else "image", message)


def test_many_pixels(server):
    """A small file that would unfold to 900 megapixels."""
    png = picture(64, 64)
    huge = png[:16] + (30000).to_bytes(4, "big") * 2 + png[24:]
    status, body, _ = edit(server, form(PROMPT, part("image", huge, "a.png")))
    check_error(status, body, 400, "image", "pixels")


def test_hostile_forms(server):
    image = part("image", picture(64, 64), "a.png")
    check_error(*edit(server, form(PROMPT))[:2], 400, "image", "missing")
    check_error(*edit(server, form(image))[:2], 400, "prompt", "missing")
    check_error(*edit(server, form(PROMPT, *[image] * 5))[:2], 400, "image", "at most 4")
    check_error(*edit(server, form(PROMPT, part("image", b"text")))[:2], 400, "image", "data URI")
    check_error(*edit(server, form(PROMPT, image, part("mask", picture(80, 80), "m.png")))[:2], 400, "mask")
    check_error(*edit(server, form(PROMPT, image, part("other", b"x", "m.bin")))[:2], 400, "other", "file")
    check_error(*edit(server, form(PROMPT, (b"Content-Type: text/plain", b"x")))[:2], 400)
    check_error(*edit(server, form((b"", b"x")))[:2], 400)
    check_error(*edit(server, form((b"X: " + b"y" * 20000, b"x")))[:2], 400)
    check_error(*edit(server, form(*[part(f"p{i}", b"x") for i in range(300)]))[:2], 400, part="parts")
    check_error(*edit(server, form(PROMPT, part("a" * 100, b"x")))[:2], 400)
    check_error(*edit(server, form(part("prompt", b"x" * 300000)))[:2], 413, "prompt")
    for body in (b"", b"--XX", b"--XX--", b"garbage", b"--YY\r\n", form(PROMPT, image)[:-8], b"--XXjunk\r\n",
                 b"\r\n" * 1000, b"--XX\r\n" * 1000):
        status, answer, _ = edit(server, body)
        check_error(status, answer, 400, answer["error"]["param"])
    assert server.spool_files() == []


def test_form_in_small_pieces(server):
    """The body arrives byte by byte."""
    body = form(PROMPT, STEPS, part("image", picture(64, 64), "a.png"))
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection(address, timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                           b"multipart/form-data; boundary=XX\r\nContent-Length: %d\r\n\r\n" % len(body))
        for at in range(len(body)):
            connection.sendall(body[at:at + 1])
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_foreign_callers(server):
    body = json.dumps({"prompt": "a"})
    for headers in ({"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example"}, {"Origin": "https://evil.example"},
                    {"Origin": "null"}, {"X-Forwarded-For": "10.0.0.1"}, {"Forwarded": "for=10.0.0.1"}):
        status, answer, given = post(server, "/v1/images/generations", body, {"Content-Type": "application/json", **headers})
        check_error(status, answer, 403)
        assert "Access-Control-Allow-Origin" not in given


def test_cors(own_server):
    server = own_server("--allow-origin", "https://app.example")
    headers = {"Origin": "https://app.example", "Access-Control-Request-Headers": "authorization"}
    status, _, given = post(server, "/v1/images/generations", None, headers, "OPTIONS")
    assert status == 204 and given["Access-Control-Allow-Origin"] == "https://app.example"
    assert given["Access-Control-Allow-Headers"] == "authorization"
    status, _, given = post(server, "/v1/models", None, {"Origin": "https://other.example"}, "GET")
    assert status == 403 and "Access-Control-Allow-Origin" not in given
