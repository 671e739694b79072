"""What the official SDKs make of errors: the class of each, and whether they come again. In Python and in Node, on the stand-in
worker."""
import json
import os
import pathlib
import subprocess
import threading
import time

import openai
import pytest

from conftest import BUILD_NODE, FAST, ROOT, served_model, until
from test_calls import generate
from test_keys import bearer, make_key
from test_pictures import SMALL, opened, picture

CONFIG = f"""
queue: {{depth: 1, stall: 2s}}
local:
  prices:
    {served_model()}: {{output_image: 0.01}}
"""
KEYS = {"plain": [], "poor": ["--budget-total", "0.005"], "narrow": ["--models", "flux.2-*"], "hasty": ["--requests-per-minute", "1"],
        "few": ["--images-per-day", "1"]}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A server with keys of every kind, and a set of them for each language."""
    from conftest import Server
    state = tmp_path_factory.mktemp("shop")
    keys = {language: {name: make_key(state, f"{language} {name}", *options) for name, options in KEYS.items()}
            for language in ("python", "node")}
    server = Server(state, *FAST, config=CONFIG, key=keys["python"]["plain"])
    server.keys = keys
    yield server
    assert server.stop() == 0, server.output()
    assert "Sanitizer" not in server.output()


class Counted:
    """A client that counts what it sends and notes when."""

    def __init__(self, server, name="plain", max_retries=2):
        self.sent = []
        http = openai.DefaultHttpxClient(event_hooks={"request": [lambda request: self.sent.append(time.monotonic())]})
        self.client = openai.OpenAI(api_key=server.keys["python"].get(name, name), base_url=server.url + "/openai/v1",
                                    max_retries=max_retries, timeout=60, http_client=http)

    def fails(self, kind, status, code, **fields):
        with pytest.raises(openai.APIStatusError) as caught:
            self.client.images.generate(**{"prompt": "a", "size": SMALL, **fields})
        error = caught.value
        assert (type(error), error.status_code, error.code) == (kind, status, code)
        assert error.request_id.startswith("req_") and error.message
        return error


def test_error_classes(shop):
    Counted(shop, "wrong").fails(openai.AuthenticationError, 401, "AUTHENTICATION_FAILED")
    assert Counted(shop, "poor").fails(openai.APIStatusError, 402, "BUDGET_EXCEEDED").type == "billing_error"
    Counted(shop, "narrow").fails(openai.PermissionDeniedError, 403, "KEY_NOT_ALLOWED")
    Counted(shop).fails(openai.NotFoundError, 404, "MODEL_NOT_FOUND", model="none")
    error = Counted(shop).fails(openai.BadRequestError, 400, "INVALID_REQUEST", n=11)
    assert error.param == "n" and error.type == "invalid_request_error"
    Counted(shop, max_retries=0).fails(openai.InternalServerError, 503, "OUT_OF_MEMORY", prompt="@memory=steps")
    Counted(shop).fails(openai.InternalServerError, 504, "GENERATION_TIMEOUT", prompt="@stall=steps")
    with pytest.raises(openai.APIStatusError) as caught:
        Counted(shop).client.images.edit(image=b"\x89PNG" + bytes(51 << 20), prompt="a")
    assert (caught.value.status_code, caught.value.code) == (413, "PAYLOAD_TOO_LARGE")


def test_conflicts_are_not_repeated(shop):
    """The SDK repeats a 409 by itself; limn tells it not to."""
    counted, headers = Counted(shop), {"Idempotency-Key": "sdk-%d" % time.monotonic_ns()}
    counted.client.images.generate(prompt="a", size=SMALL, extra_headers=headers)
    counted.fails(openai.ConflictError, 409, "IDEMPOTENCY_CONFLICT", prompt="b", extra_headers=headers)
    assert len(counted.sent) == 2


def test_limits(shop):
    """A minute's wait is the SDK's to sleep; longer ones, and what never fits, are told at once."""
    hasty = Counted(shop, "hasty", max_retries=0)
    hasty.client.images.generate(prompt="a", size=SMALL)
    error = hasty.fails(openai.RateLimitError, 429, "RATE_LIMITED")
    assert 1 <= int(error.response.headers["retry-after"]) <= 60
    few = Counted(shop, "few")
    error = few.fails(openai.RateLimitError, 429, "RATE_LIMITED", n=2)
    assert error.response.headers["x-should-retry"] == "false" and len(few.sent) == 1


def test_a_full_queue_is_waited_for(shop):
    """429 with retry-after: the SDK sleeps for as long as it is told, and then there is room."""
    counted = Counted(shop)
    plain = bearer(shop.keys["python"]["plain"])
    threads = [threading.Thread(target=lambda: generate(shop, {"prompt": "@ms=200"}, plain)) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: shop.health()["waiting"] == 1, 10, "a full queue")
    answer = counted.client.images.generate(prompt="a", size=SMALL)
    assert answer.data[0].url
    assert 2 <= len(counted.sent) <= 3 and counted.sent[1] - counted.sent[0] >= 1
    for thread in threads:
        thread.join(30)


def test_failures_are_repeated_where_that_may_help(shop):
    may = Counted(shop)
    may.fails(openai.InternalServerError, 503, "OUT_OF_MEMORY", prompt="@memory=steps")
    assert len(may.sent) == 3
    vain = Counted(shop)  # limn has run it twice itself
    error = vain.fails(openai.InternalServerError, 503, "WORKER_DIED", prompt="@crash=steps")
    assert error.response.headers["x-should-retry"] == "false" and len(vain.sent) == 1


def test_a_repetition_with_a_key_finds_the_answer(shop):
    """A client whose connection breaks comes again with its key and is charged once."""
    headers = {"Idempotency-Key": "sdk-%d" % time.monotonic_ns()}
    hurried = Counted(shop, max_retries=0).client.with_options(timeout=0.3)
    with pytest.raises(openai.APITimeoutError):
        hurried.images.generate(prompt="@ms=200", size=SMALL, extra_headers=headers)
    patient = Counted(shop).client
    first = patient.images.generate(prompt="@ms=200", size=SMALL, extra_headers=headers)
    again = patient.images.with_raw_response.generate(prompt="@ms=200", size=SMALL, extra_headers=headers)
    assert again.headers["Idempotency-Replayed"] == "true" and again.parse().id == first.id


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_edits_of_several_files(shop, count, tmp_path):
    """As bytes, as named tuples, as open files and as paths, in their order."""
    sizes = [(64, 64), (96, 64), (64, 96), (96, 96)][:count]
    files = []
    for index, size in enumerate(sizes):
        path = tmp_path / f"{index}.png"
        path.write_bytes(picture(*size))
        files.append((path.read_bytes(), ("a.png", path.read_bytes(), "image/png"), open(path, "rb"), path)[index])
    answer = Counted(shop).client.images.edit(image=files if count > 1 else files[0], prompt="a", response_format="b64_json")
    assert answer.usage.input_tokens_details.image_tokens == sum(w * h // 256 for w, h in sizes)
    assert opened(answer.data[0]).size == sizes[0]


def test_node(shop):
    if not (BUILD_NODE / "node_modules" / "openai").exists():
        pytest.skip("the Node SDK is not installed (./test installs it)")
    script = BUILD_NODE / "errors.test.mjs"
    script.write_text((ROOT / "tests" / "api" / "node" / "errors.test.mjs").read_text())
    ended = subprocess.run(["node", "--test", str(script)], capture_output=True, text=True, timeout=300,
                           env=dict(os.environ, LIMN_URL=shop.url, LIMN_KEYS=json.dumps(shop.keys["node"])))
    assert ended.returncode == 0, ended.stdout + ended.stderr
