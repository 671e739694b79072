"""The log: a line a request with the id that the client got, as text and as JSON; and what is never in it."""
import base64
import json
import re

import pytest

from conftest import FAST, until
from test_calls import call, generate
from test_errors import FORM, form, part
from test_hostile import HEAD, raw
from test_keys import bearer, make_key
from test_pictures import SMALL, picture

SECRET = "a-very-secret-garden"


def requests_of(server, id):
    return until(lambda: [line for line in server.output().splitlines() if id in line and "method=" in line.replace('"method": "', "method=")
                          .replace('"method":"', "method=")], 10, "a line for " + id)


def ask_in_every_way(server, key):
    """Requests that succeed and fail in several places, each with the secret in it. Returns (id, status) of each."""
    headers, made = bearer(key), []
    json_type = {**headers, "Content-Type": "application/json"}
    calls = [("/v1/images/generations", json.dumps({"prompt": SECRET + words, "size": SMALL, **more}).encode(), json_type)
             for words, more in (("", {}), (" @refuse=prompt", {}), (" @memory=steps", {}), (" @crash=steps", {}), ("", {"n": 99}),
                                 ("", {"model": "none"}), ("", {"stream": True, "partial_images": 1}), ("", {"user": SECRET}))]
    calls += [("/v1/images/generations", b'{"prompt": "' + SECRET.encode(), json_type),
              ("/v1/images/generations", json.dumps({"prompt": SECRET * 4000}).encode(), json_type),
              ("/v1/images/edits", form(part("prompt", SECRET.encode()), part("image", picture(), "a.png")), {**headers, **FORM}),
              ("/v1/images/edits", form(part("prompt", SECRET.encode()), part("image", b"no picture", "a.png")), {**headers, **FORM}),
              ("/v1/images/generations?prompt=" + SECRET, b"{}", json_type)]
    for path, body, sent in calls:
        status, _, got = call(server, path, body, sent)
        made.append((got["x-request-id"], status))
    assert {status for _, status in made} >= {200, 400, 404, 503}, made
    return made


@pytest.mark.parametrize("form_of", ["text", "json"])
def test_lines(own_server, tmp_path, form_of):
    key = make_key(tmp_path / "state", "logged")
    server = own_server(*FAST, state=tmp_path / "state", key=key, config=f"log:\n  format: {form_of}\n  level: debug\n")
    for id, status in ask_in_every_way(server, key):
        line, = requests_of(server, id)
        if form_of == "text":
            fields = dict(re.findall(r"(\w+)=(\S+)", line))
        else:
            fields = {name: str(value) for name, value in json.loads(line).items()}
            assert {"time", "level", "part", "message"} <= set(fields)
        assert fields["request_id"] == id and int(float(fields["status"])) == status and fields["key"] == key[5:17]
        assert fields["client"] == "127.0.0.1" and fields["path"].startswith("/v1/images/") and "?" not in fields["path"]
        assert fields["method"] == "POST" and float(fields["seconds"]) >= 0 and float(fields["received"]) > 0 and float(fields["sent"]) > 0
    head = raw(server, HEAD + b"Content-Length: x\r\n\r\n")
    id = re.search(rb"x-request-id: (\S+)", head).group(1).decode()
    until(lambda: id in server.output(), 5, "a line for a refused head")
    trace = "0af7651916cd43dd8448eb211c80319c"
    _, _, got = generate(server, {"prompt": SECRET}, {**bearer(key), "traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert trace in requests_of(server, got["x-request-id"])[0]
    assert server.stop() == 0
    output = server.output()
    assert SECRET not in output and base64.b64encode(SECRET.encode())[:-4].decode() not in output
    assert key not in output and key.split(".")[1] not in output
    if form_of == "json":
        for line in output.splitlines():
            if line.startswith("{"):
                json.loads(line)


def test_no_lines_when_not_wanted(own_server):
    server = own_server(*FAST, config="log:\n  access: false\n")
    _, body, _ = generate(server, {"prompt": "a"})
    raw(server, b"nonsense\r\n\r\n")
    assert server.stop() == 0 and body["id"] not in server.output() and "refused at its head" not in server.output()
