"""What a call can be beside making a picture at once: priced, deferred, repeated, stopped, streamed; and its records. On the
stand-in worker, whose words in the prompt (tests/standin) say how long it takes."""
import base64
import hashlib
import io
import json
import re
import threading
import time
import urllib.error
import urllib.request

import openai
import pytest
from PIL import Image

from conftest import FAST, served_model, until
from test_errors import FORM, form, part
from test_pictures import SMALL, opened, picture


def call(server, path, body=None, headers=None, method=None):
    """Returns (status, JSON or bytes, headers)."""
    data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
    request = urllib.request.Request(server.url + path, data, method=method)
    if isinstance(body, (dict, list)):
        request.add_header("Content-Type", "application/json")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        content = answer.read()
        kind = answer.headers.get("Content-Type") or ""
        return answer.status, json.loads(content) if kind.startswith("application/json") else content, answer.headers


def generate(server, body, headers=None, query=""):
    return call(server, "/v1/images/generations" + query, {"size": SMALL, **body}, headers)


# ----------------------------------------------------------------------------------------------------------- dry runs


def test_dry_run(fast):
    before = fast.health()
    status, body, _ = generate(fast, {"prompt": "a", "n": 3}, query="?dryRun=true")
    assert status == 200 and body["estimated"] is True and body["currency"] == "USD"
    assert body["model"] == served_model() and body["provider"] == "local" and body["total_cost_micros"] == 0
    assert fast.health() == before  # nothing was run
    for query in ("?dryRun=yes", "?dryRun="):
        status, body, _ = generate(fast, {"prompt": "a"}, query=query)
        assert status == 400 and body["error"]["param"] == "dryRun"
    status, body, _ = generate(fast, {"prompt": "a", "n": 11}, query="?dryRun=1")
    assert status == 400 and body["error"]["param"] == "n"


def test_dry_run_agrees_with_the_charge(own_server):
    server = own_server(*FAST, config=f"""
local:
  prices:
    {served_model()}: {{input_megapixel: 0.008, output_megapixel: 0.008}}
""")
    fields = (part("prompt", b"a"), part("n", b"2"), part("size", b"64x64"),
              *(part("image[]", picture(1100, 1000), "a.png", "image/png") for _ in range(2)))
    status, estimate, _ = call(server, "/v1/images/edits?dryRun=true", form(*fields), FORM)
    assert status == 200 and estimate["total_cost_micros"] == 8000 * (2 * 2 + 2 * 1)
    status, made, _ = call(server, "/v1/images/edits", form(*fields), FORM)
    assert status == 200 and made["metadata"]["cost"] == pytest.approx(estimate["total_cost_micros"] / 1e6)
    record = call(server, "/v1/requests/" + made["id"])[1]
    assert record["cost_micros"] == record["estimated_cost_micros"] == estimate["total_cost_micros"]


# ------------------------------------------------------------------------------------------------------- asynchronous


def ended(server, id):
    record = call(server, "/v1/requests/" + id)[1]
    return record if record["status"] not in ("pending", "processing", "queued") else None


def test_asynchronous(fast):
    status, body, headers = generate(fast, {"prompt": "@ms=60"}, {"Prefer": "respond-async, wait=1"})
    assert status == 202 and headers["Location"] == "/v1/requests/" + body["id"]
    assert headers["Preference-Applied"] == "respond-async"
    record = call(fast, headers["Location"])[1]
    assert record["status"] in ("pending", "processing", "queued") and "progress" in record
    record = until(lambda: ended(fast, body["id"]), 20, "the end of the job")
    assert record["status"] == "completed" and record["http_status"] == 200
    answer = record["answer"]
    with urllib.request.urlopen(answer["data"][0]["url"]) as image:
        assert Image.open(io.BytesIO(image.read())).size == (64, 64)


def test_cancel(fast):
    _, body, _ = generate(fast, {"prompt": "@ms=2000 @steps=50"}, {"Prefer": "respond-async"})
    until(lambda: fast.health()["running"] == 1, 10, "a running job")
    status, reply, _ = call(fast, f"/v1/requests/{body['id']}/cancel", b"", method="POST")
    assert status == 200 and reply["cancelled"] is True and reply["status"] == "cancelled"
    assert until(lambda: ended(fast, body["id"]), 10, "the end")["status"] == "cancelled"
    status, reply, _ = call(fast, f"/v1/requests/{body['id']}/cancel", b"", method="POST")
    assert status == 200 and reply["cancelled"] is False and reply["status"] == "cancelled"
    assert call(fast, "/v1/requests/req_none/cancel", b"", method="POST")[0] == 404


def test_purge(fast):
    _, made, _ = generate(fast, {"prompt": "a"})
    url = made["data"][0]["url"]
    status, reply, _ = call(fast, f"/v1/requests/{made['id']}/payloads", method="DELETE")
    assert (status, reply) == (200, {"id": made["id"], "purged": True, "already_purged": False, "media_deleted": 1})
    assert call(fast, url.removeprefix(fast.url))[0] == 404
    _, reply, _ = call(fast, f"/v1/requests/{made['id']}/payloads", method="DELETE")
    assert reply["already_purged"] is True and reply["media_deleted"] == 0
    assert call(fast, "/v1/requests/" + made["id"])[1]["purged"] is True


# -------------------------------------------------------------------------------------------------------- idempotency


def test_idempotency(fast):
    headers = {"Idempotency-Key": "k-%d" % time.monotonic_ns()}
    status, first, _ = generate(fast, {"prompt": "a", "response_format": "b64_json"}, headers)
    again_status, second, again = generate(fast, {"prompt": "a", "response_format": "b64_json"}, headers)
    assert status == again_status == 200 and first == second and again["Idempotency-Replayed"] == "true"
    status, body, answer = generate(fast, {"prompt": "another"}, headers)
    assert status == 409 and body["error"]["code"] == "IDEMPOTENCY_CONFLICT" and answer["x-should-retry"] == "false"
    assert generate(fast, {"prompt": "a"}, {"Idempotency-Key": "x" * 257})[0] == 400


def test_idempotent_calls_at_once_share_one_run(fast):
    headers = {"Idempotency-Key": "k-%d" % time.monotonic_ns()}
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(generate(fast, {"prompt": "@ms=100"}, headers)))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(answers) == 4 and {status for status, _, _ in answers} == {200}
    assert len({body["id"] for _, body, _ in answers}) == 1
    assert len({body["data"][0]["url"] for _, body, _ in answers}) == 1


# ------------------------------------------------------------------------------------------------------------ streams


def test_stream_generate(fast):
    stream = fast.client.images.generate(prompt="@ms=30", size=SMALL, stream=True, partial_images=2)
    events = list(stream)
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    for event in events:
        image = Image.open(io.BytesIO(base64.b64decode(event.b64_json)))
        image.load()
        assert event.output_format == "png" and event.quality == "auto" and event.background == "opaque"
    assert events[-1].size == SMALL and events[-1].usage.output_tokens == 16
    assert events[-1].usage.total_tokens == events[-1].usage.input_tokens + 16


def test_stream_edit(fast):
    stream = fast.client.images.edit(image=[picture(), picture(64, 64)], prompt="@ms=10", size=SMALL, stream=True,
                                     partial_images=1)
    events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]


def test_stream_of_several(fast):
    events = list(fast.client.images.generate(prompt="a", size=SMALL, n=3, stream=True))
    assert [event.type for event in events] == ["image_generation.completed"] * 3
    assert sorted(event.index for event in events) == [0, 1, 2]


def test_stream_events_on_the_wire(fast):
    request = urllib.request.Request(fast.url + "/v1/images/generations", json.dumps(
        {"prompt": "a", "size": SMALL, "stream": True}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream") and answer.headers["x-request-id"]
        text = answer.read().decode()
    events = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    assert len(events) == 1
    name, data = events[0].split("\n")
    assert name == "event: image_generation.completed" and json.loads(data.removeprefix("data: "))["type"] == name[7:]


def test_stream_failure_is_an_event(fast):
    with pytest.raises(openai.APIError) as caught:
        list(fast.client.images.generate(prompt="@refuse=size", size=SMALL, stream=True))
    assert "size" in str(caught.value)
    with pytest.raises(openai.BadRequestError):  # what is wrong with the request itself comes before the stream
        fast.client.images.generate(prompt="a", size=SMALL, stream=True, partial_images=4)


def test_stream_heartbeats(fast):
    """A comment every 10 s while nothing happens; the client that leaves then ends the work."""
    import socket
    body = json.dumps({"prompt": "@ms=60000", "size": SMALL, "stream": True}).encode()
    with socket.create_connection(fast.url.removeprefix("http://").split(":"), timeout=30) as connection:
        connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        begin, got = time.monotonic(), b""
        while got.count(b"\n: still at work\n") + got.count(b"\r\n: still at work\n") < 1:
            got += connection.recv(65536)
            assert time.monotonic() - begin < 15
        assert b" 200 OK" in got and time.monotonic() - begin > 8
    until(fast.idle, 10, "an idle server")


def test_slow_reader_of_a_stream(fast):
    """A client that takes its time gets every completed event."""
    import socket
    body = json.dumps({"prompt": "@noise", "size": "724x724", "n": 4, "stream": True, "partial_images": 3}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    host, port = fast.url.removeprefix("http://").split(":")
    connection.connect((host, int(port)))
    connection.sendall(b"POST /v1/images/generations HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    until(fast.idle, 30, "the end of the work")  # it does not wait for its reader
    got = bytearray()
    while piece := connection.recv(1 << 20):
        got += piece
    connection.close()
    assert got.count(b"event: image_generation.completed") == 4


# ------------------------------------------------------------------------------------------------- pictures in and out


def data_uri(content, kind="png"):
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def test_json_edits(fast):
    images = [{"image_url": data_uri(picture())}, {"image_url": data_uri(picture(64, 64, form="WEBP"), "webp")}]
    status, body, _ = call(fast, "/v1/images/edits", {"prompt": "a", "images": images})
    assert status == 200, body
    assert body["size"] == "96x80" and body["usage"]["input_tokens_details"]["image_tokens"] == 6 * 5 + 4 * 4
    for wrong, where in (([{"file_id": "file-1"}], "file_id"), ([{"image_url": "https://example.com/a.png"}], "image_url.enabled"),
                         ([{"image_url": "data:text/plain,a"}], "image"), ([], "image"), (images * 3, "4")):
        status, body, _ = call(fast, "/v1/images/edits", {"prompt": "a", "images": wrong})
        assert status == 400 and where in body["error"]["message"], body


def mask(width, height):
    image = Image.new("RGBA", (width, height), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, width // 2, height))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def test_mask(fast):
    answer = fast.client.images.edit(image=picture(), mask=mask(96, 80), prompt="a", response_format="b64_json")
    assert opened(answer.data[0]).size == (96, 80)
    with pytest.raises(openai.BadRequestError) as caught:
        fast.client.images.edit(image=picture(), mask=mask(64, 64), prompt="a")
    assert caught.value.param == "mask"
    status, body, _ = call(fast, "/v1/images/edits", {"prompt": "a", "images": [{"image_url": data_uri(picture())}],
                                                      "mask": {"image_url": data_uri(mask(96, 80))}})
    assert status == 200, body


@pytest.mark.parametrize("form_name", ["png", "jpeg", "webp", "gif", "avif"])
def test_every_format(fast, form_name):
    _, body, _ = generate(fast, {"prompt": "a", "output_format": form_name})
    assert body["output_format"] == form_name
    status, content, headers = call(fast, body["data"][0]["url"].removeprefix(fast.url))
    assert status == 200 and headers["Content-Type"] == "image/" + form_name
    assert content[:4] in {"png": (b"\x89PNG",), "jpeg": (b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1"), "webp": (b"RIFF",),
                           "gif": (b"GIF8",), "avif": (b"\0\0\0\x1c", b"\0\0\0\x20")}[form_name]


def test_sync_mode(fast):
    _, body, _ = generate(fast, {"prompt": "a", "sync_mode": True})
    url = body["data"][0].get("url") or body["data"][0].get("b64_json")
    assert url.startswith("data:image/png;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).size == (64, 64)


def test_media_ranges(fast):
    _, body, _ = generate(fast, {"prompt": "a"})
    path = body["data"][0]["url"].removeprefix(fast.url)
    _, whole, headers = call(fast, path)
    etag = headers["ETag"]
    assert headers["Accept-Ranges"] == "bytes" and int(headers["Content-Length"]) == len(whole)
    for asked, first, last in (("bytes=0-9", 0, 9), ("bytes=10-", 10, len(whole) - 1),
                               ("bytes=-7", len(whole) - 7, len(whole) - 1)):
        status, content, headers = call(fast, path, headers={"Range": asked})
        assert status == 206 and content == whole[first:last + 1]
        assert headers["Content-Range"] == f"bytes {first}-{last}/{len(whole)}"
    status, body, headers = call(fast, path, headers={"Range": f"bytes={len(whole)}-"})
    assert status == 416 and headers["Content-Range"] == f"bytes */{len(whole)}" and body["error"]["code"] == "INVALID_REQUEST"
    assert call(fast, path, headers={"If-None-Match": etag})[:2] == (304, b"")
    assert call(fast, path, headers={"Range": "bytes=0-0", "If-Range": etag})[0] == 206
    assert call(fast, path, headers={"Range": "bytes=0-0", "If-Range": '"other"'})[0] == 200
    status, content, headers = call(fast, path, method="HEAD")
    assert (status, content, int(headers["Content-Length"])) == (200, b"", len(whole))


# ----------------------------------------------------------------------------------------------------- models, records


def test_model_and_schema(fast):
    name = served_model()
    for base in ("/v1", "/openai/v1"):
        status, model, _ = call(fast, f"{base}/models/{name}")
        assert status == 200 and model["object"] == "model" and model["installed"] is True
        status, schema, _ = call(fast, f"{base}/models/{name}?schema=true")
        assert status == 200 and set(schema["modes"]) == {"text-to-image", "image-edit"}
        assert {"prompt", "seed", "size", "n"} <= {parameter["name"] for parameter in schema["parameters"]}
    assert call(fast, f"/v1/models/local/{name}")[1]["id"] == name
    assert call(fast, f"/v1/models/{name}?schema=perhaps")[0] == 400
    ids = [model["id"] for model in call(fast, "/v1/models")[1]["data"]]
    assert {"flux.2-dev-turbo", "flux.2-dev", "flux.2-klein-4b", "pictogram", name} <= set(ids)


def test_absent_model_says_how_to_get_it(fast):
    with pytest.raises(openai.NotFoundError) as caught:
        fast.client.images.generate(model="flux.2-dev-turbo", prompt="a")
    assert caught.value.code == "MODEL_NOT_INSTALLED" and "limn pull flux.2-dev-turbo" in str(caught.value)


def test_program_for_gpt_image_1(fast):
    """Nothing but the base URL changed: it cannot ask for base64, and reads it."""
    result = fast.client.images.generate(model="gpt-image-1", prompt="a children's book drawing", size="1024x1024",
                                         quality="high", background="auto", moderation="low", output_format="jpeg",
                                         output_compression=80)
    image = Image.open(io.BytesIO(base64.b64decode(result.data[0].b64_json)))
    assert image.format == "JPEG" and result.data[0].url is None and result.usage.total_tokens > 0
    edited = fast.client.images.edit(model="gpt-image-1", image=[("a.png", picture(), "image/png")], prompt="a",
                                     input_fidelity="high")
    assert Image.open(io.BytesIO(base64.b64decode(edited.data[0].b64_json)))


def test_records(fast):
    trace = "0af7651916cd43dd8448eb211c80319c"
    _, made, headers = generate(fast, {"prompt": "a", "user": "jo"}, {"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert headers["x-request-id"] == made["id"] and headers["x-limn-provider"] == "local"
    record = call(fast, "/v1/requests/" + made["id"])[1]
    assert record["user"] == "jo" and record["trace_id"] == trace and record["status"] == "completed"
    assert record["size"] == SMALL and record["request_size_bytes"] > 0 and record["response_size_bytes"] > 0
    assert len(record["attempts"]) == 1 and record["attempts"][0]["provider"] == "local"
    assert record.get("payload") is None  # prompts are not kept
    page = call(fast, "/v1/requests?limit=1&user=jo&status=completed&summary=true")[1]
    assert page["data"][0]["id"] == made["id"] and page["summary"]["count"] >= 1
    older = call(fast, "/v1/requests?limit=100&starting_after=" + made["id"])[1]
    assert made["id"] not in [item["id"] for item in older["data"]]
    for query in ("limit=0", "limit=x", "status=odd", "created_after=yesterday", "starting_after=a&ending_before=b"):
        assert call(fast, "/v1/requests?" + query)[0] == 400, query
    assert call(fast, "/v1/requests/req_none")[0] == 404


def test_figures(fast):
    generate(fast, {"prompt": "a"})
    stats = call(fast, "/v1/stats")[1]
    assert stats["object"] == "statistics" and stats["window_days"] == 30
    balance = call(fast, "/v1/balance")[1]
    assert balance["billing_type"] == "postpaid" and balance["available"] == {"amount": None, "currency": "usd"}
    status, text, headers = call(fast, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = text.decode().splitlines()
    # Every sample has its HELP and TYPE, and a number.
    named = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert re.sub(r"_(bucket|sum|count)$|\{.*", "", name.split("{")[0]) in named | {"limn_http_request_seconds"}
            float(value)
    served = [line for line in lines if line.startswith('limn_http_requests_total{status="2xx"}')]
    assert int(served[0].split()[-1]) > 0
    assert call(fast, "/readyz")[1]["ready"] is True and call(fast, "/healthz")[0] == 200


def test_json_log(own_server):
    server = own_server(*FAST, config="log:\n  format: json\n")
    _, _, headers = generate(server, {"prompt": "a"})
    lines = until(lambda: [line for line in server.output().splitlines() if headers["x-request-id"] in line], 5, "a line")
    entry = json.loads(lines[-1])
    assert entry["message"] == "request" and entry["status"] == 200 and entry["path"] == "/v1/images/generations"
    assert entry["level"] == "info" and entry["part"] == "server" and entry["client"] == "127.0.0.1"


def test_body_is_the_same_whichever_way(fast):
    """The bytes of a picture as URL and as base64 agree."""
    digests = set()
    for response_format in ("url", "b64_json"):
        answer = fast.client.images.generate(prompt="a", size=SMALL, response_format=response_format, extra_body={"seed": 5})
        image = opened(answer.data[0])
        digests.add(hashlib.sha256(image.tobytes()).hexdigest())
    assert len(digests) == 1
