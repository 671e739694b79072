"""What a client gets, when and for how much: streams of several pictures, what is stopped half-way, what is kept for whoever comes
back. On the stand-in worker where its words say how long a picture takes, on the engine where the numbers are the engine's."""
import base64
import json
import os
import pathlib
import re
import socket
import sqlite3
import threading
import time
import urllib.request

import openai
import pytest

from conftest import FAST, served_model, until
from test_calls import call, generate
from test_errors import FORM, form, part
from test_keys import bearer, make_key
from test_pictures import SMALL, picture

PRICES = f"""
local:
  prices:
    {served_model()}: {{input_megapixel: 0.003, output_megapixel: 0.008}}
"""


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A server whose worker draws at once, for money."""
    from conftest import Server
    server = Server(tmp_path_factory.mktemp("priced"), *FAST, config=PRICES)
    yield server
    assert server.stop() == 0, server.output()
    assert "Sanitizer" not in server.output()


def raw(server, body, headers):
    """The bytes of an answer, and its headers."""
    request = urllib.request.Request(server.url + "/v1/images/generations", json.dumps({"size": SMALL, **body}).encode(),
                                     {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read(), answer.headers


def record_of(server, id):
    return call(server, "/v1/requests/" + id)[1]


def fresh_key():
    return {"Idempotency-Key": "k-%d" % time.monotonic_ns()}


# ------------------------------------------------------------------------------------------------------------- streams


def test_pictures_come_when_they_are_ready(priced):
    """200 ms apart, each with its own part of usage and price."""
    events, times = [], []
    for event in priced.client.images.generate(prompt="one two @decode=200", size=SMALL, n=3, stream=True):
        events.append(event)
        times.append(time.monotonic())
    assert [event.index for event in events] == [0, 1, 2]
    assert times[1] - times[0] > 0.1 and times[2] - times[1] > 0.1
    whole = priced.client.images.generate(prompt="one two @decode=0", size=SMALL, n=3)
    assert [event.usage.output_tokens for event in events] == [16, 16, 16]
    assert [event.usage.input_tokens for event in events] == [whole.usage.input_tokens, 0, 0]
    assert sum(event.usage.total_tokens for event in events) == whole.usage.total_tokens
    assert [event.metadata["cost_micros"] for event in events] == [8000] * 3
    record = record_of(priced, events[0].id)
    assert record["cost_micros"] == 24000 and record["images"] == 3
    assert record["usage"]["total_tokens"] == whole.usage.total_tokens


def test_parts_of_an_edit_come_to_the_whole(priced):
    """References are paid once: with the first picture."""
    events = list(priced.client.images.edit(image=[picture(), picture(64, 64)], prompt="a", size=SMALL, n=2, stream=True))
    assert [event.metadata["cost_micros"] for event in events] == [8000 + 2 * 3000, 8000]
    assert [event.usage.input_tokens_details.image_tokens for event in events] == [6 * 5 + 4 * 4, 0]
    assert record_of(priced, events[0].id)["cost_micros"] == 22000


def test_stream_of_the_engine(server):
    """The engine decodes one picture after the other: each is out before the next is decoded."""
    fields = dict(prompt="a red circle", size=SMALL, n=3, extra_body={"seed": 9})
    events = list(server.client.images.generate(stream=True, **fields))
    whole = server.client.images.generate(response_format="b64_json", **fields)
    assert [event.index for event in events] == [0, 1, 2]
    assert [event.b64_json for event in events] == [datum.b64_json for datum in whole.data]
    assert sum(event.usage.output_tokens for event in events) == whole.usage.output_tokens == 48
    assert sum(event.usage.input_tokens for event in events) == whole.usage.input_tokens > 0


def test_stream_that_fails_half_way(priced):
    """The SDK hands out what came and then raises; what came is charged."""
    events = []
    with pytest.raises(openai.APIError) as caught:
        for event in priced.client.images.generate(prompt="@memory=image", size=SMALL, n=2, stream=True):
            events.append(event)
    assert "memory" in str(caught.value) and [event.type for event in events] == ["image_generation.completed"]
    record = until(lambda: (r := record_of(priced, events[0].id))["status"] == "completed" and r, 10, "the record")
    assert record["cost_micros"] == 8000 and record["images"] == 1 and record["usage"]["output_tokens"] == 16


def test_partial_failure_counts_what_came(priced):
    status, body, _ = generate(priced, {"prompt": "@memory=image", "n": 3})
    assert status == 200 and len(body["data"]) == 1 and len(body["metadata"]["errors"]) == 2
    assert body["usage"]["output_tokens"] == 16 and body["usage"]["input_tokens"] == 1
    assert body["metadata"]["cost_micros"] == 8000
    assert record_of(priced, body["id"])["usage"]["total_tokens"] == 17


def stream_until(server, body, marks, count):
    """Reads a stream until [marks] came [count] times, and leaves. Returns the id of its request."""
    body = json.dumps({"size": SMALL, "stream": True, **body}).encode()
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=30) as connection:
        connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        got = b""
        while got.count(marks) < count:
            piece = connection.recv(65536)
            assert piece, got
            got += piece
    return re.search(rb"\r\nx-request-id: (req_[0-9a-f]{24})\r\n", got).group(1).decode()


@pytest.mark.parametrize("body, marks, count, micros", [
    ({"prompt": "@ms=20000"}, b"\n: req_", 1, 0),  # nothing was shown
    ({"prompt": "@ms=100 @steps=40", "partial_images": 3}, b".partial_image\ndata", 1, 8000),
    ({"prompt": "@decode=300", "n": 4}, b".completed\ndata", 2, 16000),
])
def test_who_leaves_pays_for_what_was_shown(priced, body, marks, count, micros):
    id = stream_until(priced, body, marks, count)
    record = until(lambda: (r := record_of(priced, id))["status"] == "cancelled" and r, 10, "the cancelled request")
    assert record["cost_micros"] == micros and record["images"] == micros // 8000
    assert ("charged" in record["error_message"]) == (micros > 0)


# ---------------------------------------------------------------------------------------------------------------- kept


def answers_in(server):
    with sqlite3.connect(f"file:{server.state / 'limn' / 'limn.db'}?mode=ro", uri=True) as database:
        return database.execute("SELECT length(body), body FROM answers ORDER BY request DESC").fetchall()


def test_kept_pictures_lie_in_media(own_server, tmp_path):
    """An answer of 2 MB takes little of the database, and comes back to the byte, after a restart, too."""
    server = own_server(*FAST, state=tmp_path / "state")
    headers, body = fresh_key(), {"prompt": "@noise", "size": "724x724", "n": 2, "response_format": "b64_json"}
    first, _ = raw(server, body, headers)
    assert len(first) > 4_000_000
    (length, kept), = answers_in(server)
    assert length < 2000 and b'"b64_json":""' in kept
    media = sorted((server.state / "limn" / "media").iterdir())
    assert len(media) == 2 and all(path.stat().st_mtime > time.time() + 80000 for path in media)  # as long as the answer
    assert {path.read_bytes() for path in media} == {base64.b64decode(datum["b64_json"]) for datum in json.loads(first)["data"]}
    again, given = raw(server, body, headers)
    assert again == first and given["Idempotency-Replayed"] == "true"
    assert server.stop() == 0
    later = own_server(*FAST, state=tmp_path / "state")
    assert raw(later, body, headers)[0] == first
    id = json.loads(first)["id"]
    assert record_of(later, id)["answer"] == json.loads(first)
    assert call(later, f"/v1/requests/{id}/payloads", method="DELETE")[1]["media_deleted"] == 2
    assert list((later.state / "limn" / "media").iterdir()) == []
    status, error, given = generate(later, body, headers)
    assert status == 409 and error["error"]["code"] == "IDEMPOTENCY_CONFLICT" and given["x-should-retry"] == "false"


def test_kept_urls_live_as_long_as_the_answer(own_server):
    server = own_server(*FAST)
    headers, body = fresh_key(), {"prompt": "a"}
    first, _ = raw(server, body, headers)
    url = json.loads(first)["data"][0]["url"]
    file = server.state / "limn" / "media" / url.rsplit("/", 1)[1]
    plain = json.loads(raw(server, {"prompt": "a"}, {})[0])["data"][0]["url"]
    for path in file, file.with_name(plain.rsplit("/", 1)[1]):
        os.utime(path, (path.stat().st_mtime - 7200,) * 2)
    assert raw(server, body, headers)[0] == first
    with urllib.request.urlopen(url) as answer:  # two hours old
        assert answer.status == 200 and answer.read() == file.read_bytes()
    assert call(server, plain.removeprefix(server.url))[0] == 404


def test_kept_streams_come_again(fast):
    body, headers = {"prompt": "a", "n": 2, "stream": True}, fresh_key()
    first, _ = raw(fast, body, headers)
    again, given = raw(fast, body, headers)
    assert given["Content-Type"].startswith("text/event-stream")
    assert first[first.index(b"event: "):] == again and again.count(b"event: image_generation.completed") == 2


def test_asynchronous_base64(fast):
    _, accepted, _ = generate(fast, {"prompt": "a", "response_format": "b64_json"}, {"Prefer": "respond-async"})
    record = until(lambda: (r := record_of(fast, accepted["id"]))["status"] == "completed" and r, 10, "the end")
    assert base64.b64decode(record["answer"]["data"][0]["b64_json"]).startswith(b"\x89PNG")


def test_sync_mode_keeps_nothing(own_server):
    """Not even for an Idempotency-Key: that only keeps the request from being made and paid again."""
    server = own_server(*FAST, config=PRICES)
    headers, body = fresh_key(), {"prompt": "a", "sync_mode": True}
    status, made, _ = generate(server, body, headers)
    assert status == 200 and made["data"][0]["url"].startswith("data:image/png;base64,")
    status, error, given = generate(server, body, headers)
    assert status == 409 and error["error"]["code"] == "IDEMPOTENCY_CONFLICT" and "sync_mode" in error["error"]["message"]
    assert given["x-should-retry"] == "false"
    assert list((server.state / "limn" / "media").iterdir()) == [] and answers_in(server) == []
    assert record_of(server, made["id"])["answer"] is None
    status, error, _ = generate(server, body, {"Prefer": "respond-async"})
    assert status == 400 and error["error"]["param"] == "sync_mode"


# ------------------------------------------------------------------------------------------------------ keys and queues


def in_threads(*calls):
    threads = [threading.Thread(target=one) for one in calls]
    for thread in threads:
        thread.start()
    return threads


def test_full_queue_does_not_keep_out_what_needs_no_place(own_server):
    server = own_server(*FAST, "--queue-depth", "1")
    headers = fresh_key()
    edit = form(part("prompt", b"a"), part("image", picture(64, 64), "a.png", "image/png"))
    first = raw(server, {"prompt": "a"}, headers)[0]
    edit_headers = {**FORM, **fresh_key()}
    assert call(server, "/v1/images/edits", edit, edit_headers)[0] == 200
    slow = in_threads(*[lambda: generate(server, {"prompt": "@ms=400"})] * 2)
    until(lambda: server.health()["waiting"] == 1, 10, "a full queue")
    status, error, given = generate(server, {"prompt": "b"})
    assert status == 429 and error["error"]["code"] == "QUEUE_FULL" and int(given["retry-after"]) >= 1
    assert raw(server, {"prompt": "a"}, headers)[0] == first
    assert call(server, "/v1/images/edits", edit, edit_headers)[2]["Idempotency-Replayed"] == "true"
    assert generate(server, {"prompt": "b"}, query="?dryRun=true")[0] == 200
    assert call(server, "/v1/images/edits?dryRun=1", edit, FORM)[0] == 200
    status, error, _ = generate(server, {"prompt": "new"}, fresh_key())  # a key alone is no place
    assert status == 429 and error["error"]["code"] == "QUEUE_FULL"
    assert server.health()["waiting"] == 1
    for thread in slow:
        thread.join(30)


def test_priorities(own_server, tmp_path):
    """A request of a key with a higher priority overtakes those that wait."""
    state = tmp_path / "state"
    keys = {level: make_key(state, level, "--priority", level) for level in ("low", "normal", "high")}
    admin = make_key(state, "admin", "--admin")
    server = own_server(*FAST, state=state, key=admin)
    done = []

    def run(level, prompt):
        assert generate(server, {"prompt": prompt}, bearer(keys[level]))[0] == 200
        done.append(level)

    def waiting(count):
        until(lambda: (h := server.health())["running"] == 1 and h["waiting"] == count, 10, f"{count} that wait")

    threads = in_threads(lambda: run("normal", "@ms=300"))
    waiting(0)
    for count, level in enumerate(("low", "normal", "high"), 1):
        threads += in_threads(lambda level=level: run(level, "@ms=20"))
        waiting(count)
    for thread in threads:
        thread.join(30)
    assert done == ["normal", "high", "normal", "low"]
    listed = call(server, "/v1/keys", headers=bearer(admin))[1]["data"]
    assert {key["name"]: key["priority"] for key in listed} == {"low": "low", "normal": "normal", "high": "high", "admin": "normal"}


def test_kept_answers_are_the_projects(own_server, tmp_path):
    """Keys of one project share them; one that may not make the request cannot read its answer so."""
    from test_keys import limn_key
    state = tmp_path / "state"
    options = {"first": [], "second": [], "narrow": ["--models", "flux.2-*"], "late": ["--expires", "1h"], "broke": ["--budget-total", "0.000001"],
               "elsewhere": ["--project", "elsewhere"], "gone": []}
    keys = {name: make_key(state, name, *more) for name, more in options.items()}
    server = own_server(*FAST, state=state, config=PRICES, key=keys["first"])
    headers, body = fresh_key(), {"prompt": "a"}

    def ask(name):
        return generate(server, body, {**headers, **bearer(keys[name])})

    made = ask("first")[1]
    status, same, given = ask("second")
    assert status == 200 and same == made and given["Idempotency-Replayed"] == "true"
    assert ask("broke")[1] == made  # it costs nothing
    assert call(server, "/v1/balance", headers=bearer(keys["broke"]))[1]["available"]["amount"] == 0.000001
    status, error, _ = ask("narrow")
    assert status == 403 and error["error"]["code"] == "KEY_NOT_ALLOWED"
    status, other, _ = ask("elsewhere")
    assert status == 200 and other["id"] != made["id"]
    with sqlite3.connect(state / "limn" / "limn.db") as database:
        database.execute("UPDATE keys SET expires_at = 1 WHERE name = 'late'")
    limn_key(state, "revoke", "gone")
    for name, code in (("late", "EXPIRED_KEY"), ("gone", "AUTHENTICATION_FAILED")):
        status, error, _ = until(lambda: (a := ask(name))[0] == 401 and a, 5, "a refusal")
        assert error["error"]["code"] == code


def test_what_never_fits_is_not_to_be_retried(own_server, tmp_path):
    state = tmp_path / "state"
    few, poor = make_key(state, "few", "--images-per-day", "2"), make_key(state, "poor", "--budget-day", "0.01")
    server = own_server(*FAST, state=state, config=PRICES, key=few)
    for key, status, code in ((few, 429, "RATE_LIMITED"), (poor, 402, "BUDGET_EXCEEDED")):
        got, error, given = generate(server, {"prompt": "a", "n": 3}, bearer(key))
        assert (got, error["error"]["code"], given["x-should-retry"]) == (status, code, "false")
        assert "retry-after" not in given
        assert generate(server, {"prompt": "a"}, bearer(key))[0] == 200


def test_days_of_an_address_are_for_new_pictures(own_server):
    server = own_server(*FAST, config="auth:\n  keyless_images_per_day: 2\n")
    headers = fresh_key()
    first = raw(server, {"prompt": "a", "n": 2}, headers)[0]
    assert raw(server, {"prompt": "a", "n": 2}, headers)[0] == first
    status, _, given = generate(server, {"prompt": "b"}, fresh_key())
    assert status == 429 and (given.get("x-should-retry") == "false" or int(given["retry-after"]) <= 60)  # until midnight
    assert generate(server, {"prompt": "b", "n": 3})[2]["x-should-retry"] == "false"
