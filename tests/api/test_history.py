"""What a server keeps of requests: their contents where the owner asks, a record of each that was refused, figures of each
project. On the stand-in worker."""
import base64
import json
import pathlib
import sqlite3
import time
import urllib.error
import urllib.request

import openai
import pytest

from conftest import FAST, served_model, until
from test_calls import call, generate
from test_errors import FORM, form, part
from test_keys import bearer, make_key, with_key
from test_pictures import SMALL, picture

KEEPS = "store:\n  keep_payloads: true\n  payload_retention: 2d\n"


def record_of(server, id, headers=None):
    """The record of a request that has ended."""
    def ended():
        status, body, _ = call(server, "/v1/requests/" + id, headers=headers or {})
        return status == 200 and body["status"] not in ("pending", "processing", "queued") and body
    return until(ended, 10, "the record of " + id)


def media_files(server):
    return {path.name: path for path in (server.state / "limn" / "media").iterdir()}


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read()


# --------------------------------------------------------------------------------------------------- what the owner keeps


@pytest.fixture(scope="module")
def keeps(tmp_path_factory):
    from conftest import Server
    server = Server(tmp_path_factory.mktemp("keeps"), *FAST, config=KEEPS)
    yield server
    assert server.stop() == 0


def check_kept(server, id, delivered):
    """The record has the answer without bytes, and each delivered picture as media until the retention's end."""
    record = record_of(server, id)
    outputs = [one for one in record["media"] if one["kind"] == "output"]
    assert [fetch(one["url"]) for one in outputs] == delivered
    assert [one["url"] for one in record["answer"]["data"]] == [one["url"] for one in outputs]
    assert all("b64_json" not in one for one in record["answer"]["data"])
    until_time = time.mktime(time.strptime(outputs[0]["expires_at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert abs(until_time - time.time() - 2 * 86400) < 60
    return record


def test_base64_is_kept(keeps):
    answer = keeps.client.images.generate(prompt="a secret garden", size=SMALL, n=2, response_format="b64_json")
    record = check_kept(keeps, answer.id, [base64.b64decode(one.b64_json) for one in answer.data])
    assert record["payload"] == {"prompt": "a secret garden", "size": SMALL, "n": 2, "response_format": "b64_json"}
    assert [one["number"] for one in record["media"]] == [0, 1]


def test_urls_are_kept(keeps):
    answer = keeps.client.images.generate(prompt="a garden", size=SMALL)
    record = check_kept(keeps, answer.id, [fetch(answer.data[0].url)])
    assert record["answer"]["data"][0]["url"] == answer.data[0].url
    with urllib.request.urlopen(answer.data[0].url) as got:
        assert "Last-Modified" in got.headers
        assert time.mktime(time.strptime(got.headers["Last-Modified"], "%a, %d %b %Y %H:%M:%S GMT")) - time.timezone <= time.time() + 2


def test_streams_are_kept(keeps):
    events = list(keeps.client.images.generate(prompt="a garden", size=SMALL, stream=True))
    assert not getattr(events[-1], "url", None)
    check_kept(keeps, events[-1].id, [base64.b64decode(events[-1].b64_json)])


def test_what_came_in_is_kept(keeps):
    sent = [picture(64, 48), picture(32, 32)]
    answer = keeps.client.images.edit(image=sent, mask=picture(64, 48), prompt="blue", response_format="b64_json")
    record = check_kept(keeps, answer.id, [base64.b64decode(answer.data[0].b64_json)])
    kept = [(one["kind"], one["number"], fetch(one["url"])) for one in record["media"][1:]]
    assert kept == [("reference", 1, sent[0]), ("reference", 2, sent[1]), ("mask", 1, picture(64, 48))]
    uri = "data:image/png;base64," + base64.b64encode(sent[0]).decode()
    status, body, _ = call(keeps, "/v1/images/edits", json.dumps({"prompt": "a", "images": [{"image_url": uri}]}).encode(),
                           {"Content-Type": "application/json"})
    assert status == 200
    record = record_of(keeps, body["id"])
    assert [fetch(one["url"]) for one in record["media"] if one["kind"] == "reference"] == [sent[0]]
    assert record["payload"] == {"prompt": "a"}


def test_sync_mode_keeps_nothing(keeps):
    before = set(media_files(keeps))
    for more in ({}, {"response_format": "b64_json"}):
        status, body, _ = generate(keeps, {"prompt": "a", "size": SMALL, "sync_mode": True, **more})
        assert status == 200
        record = record_of(keeps, body["id"])
        assert record["payload"] is None and record["answer"] is None and record["media"] == []
    assert set(media_files(keeps)) == before


def test_purge_removes_all(keeps):
    answer = keeps.client.images.edit(image=picture(), prompt="a secret", response_format="b64_json")
    urls = [one["url"] for one in record_of(keeps, answer.id)["media"]]
    assert len(urls) == 2
    status, body, _ = call(keeps, f"/v1/requests/{answer.id}/payloads", method="DELETE")
    assert status == 200 and body["media_deleted"] == 2 and not body["already_purged"]
    record = record_of(keeps, answer.id)
    assert record["purged"] and record["payload"] is None and record["answer"] is None and record["media"] == []
    for url in urls:
        with pytest.raises(urllib.error.HTTPError) as caught:
            fetch(url)
        assert caught.value.code == 404
    assert not {url.rsplit("/", 1)[1] for url in urls} & set(media_files(keeps))


def test_a_full_quota_does_not_stop_answers(own_server):
    """What cannot be kept is missing in the history; the caller has it."""
    server = own_server(*FAST, config=KEEPS + "media:\n  quota: 1\n")
    for more in ({}, {"stream": True}):
        status, body, headers = generate(server, {"prompt": "a", "response_format": "b64_json", **more})
        assert status == 200
        record = record_of(server, headers["x-request-id"])
        assert record["media"] == [] and record["status"] == "completed" and record["payload"]["prompt"] == "a"
        assert [one["url"] for one in record["answer"]["data"]] == [None]
    assert generate(server, {"prompt": "a"})[0] == 507  # a URL needs the room


def test_retention_ends(own_server):
    server = own_server(*FAST, config="store:\n  keep_payloads: true\n  payload_retention: 1s\n")
    answer = server.client.images.generate(prompt="a", size=SMALL, response_format="b64_json")
    assert record_of(server, answer.id)["answer"]
    record = until(lambda: (r := record_of(server, answer.id))["answer"] is None and r, 10, "the end of the answer")
    assert record["payload"] is None and [one["url"] for one in record["media"]] == [None]
    until(lambda: not media_files(server), 60, "an empty media folder")


def test_kept_pictures_survive_a_restart(own_server, tmp_path):
    server = own_server(*FAST, config=KEEPS, state=tmp_path / "state")
    answer = server.client.images.generate(prompt="a", size=SMALL, response_format="b64_json")
    names = [one["name"] for one in record_of(server, answer.id)["media"]]
    assert server.stop() == 0
    stray = server.state / "limn" / "media" / ("0" * 32 + ".png")
    stray.write_bytes(b"of a request that was cut short")
    import os
    os.utime(stray, (time.time() + 86400,) * 2)
    server = own_server(*FAST, config=KEEPS, state=tmp_path / "state")
    assert fetch(record_of(server, answer.id)["media"][0]["url"]) and set(media_files(server)) == set(names)


def test_nothing_is_kept_unless_asked(own_server):
    server = own_server(*FAST)
    for more in ({"response_format": "b64_json"}, {"stream": True, "response_format": "b64_json"}):
        status = call(server, "/v1/images/generations", json.dumps({"prompt": "a secret garden", "size": SMALL, **more}).encode(),
                      {"Content-Type": "application/json"})[0]
        assert status == 200
    server.client.images.edit(image=picture(), prompt="a secret garden", response_format="b64_json")
    for one in call(server, "/v1/requests")[1]["data"]:
        record = record_of(server, one["id"])
        assert record["payload"] is None and record["answer"] is None and record["media"] == []
    assert media_files(server) == {}
    assert server.stop() == 0
    for path in (server.state / "limn").rglob("*"):
        assert not path.is_file() or b"secret garden" not in path.read_bytes(), path
    assert "secret garden" not in server.output()


# ------------------------------------------------------------------------------------------- what was refused is recorded


PRICES = f"local:\n  prices:\n    {served_model()}: {{output_image: 0.01}}\n"


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    from conftest import Server
    state = tmp_path_factory.mktemp("records")
    keys = {"admin": make_key(state, "admin", "--admin"), "plain": make_key(state, "plain")}
    server = Server(state, *FAST, config=PRICES, key=keys["plain"])
    server.keys = keys
    yield server
    assert server.stop() == 0


def check_refusal(server, key, answer, status, code):
    """The record of a refused call, as its key sees it."""
    got, body, headers = answer
    assert (got, body["error"]["code"]) == (status, code)
    record = record_of(server, headers["x-request-id"], bearer(key))
    assert (record["status"], record["http_status"], record["error_code"]) == ("rejected", status, code)
    assert record["key_id"] == key[5:17] and record["cost_micros"] == 0 and record["error_message"] == body["error"]["message"]
    assert record["endpoint"].startswith("/v1/images/")
    return record


def test_refused_requests_have_a_record(keyed):
    poor = with_key(keyed, "poor-one", "--budget-total", "0.001", "--project", "shop").api_key
    record = check_refusal(keyed, poor, generate(keyed, {"prompt": "a"}, bearer(poor)), 402, "BUDGET_EXCEEDED")
    assert record["project"] == "shop" and record["model"] == served_model()
    frugal = with_key(keyed, "frugal-one", "--images-per-day", "1").api_key
    assert generate(keyed, {"prompt": "a"}, bearer(frugal))[0] == 200
    check_refusal(keyed, frugal, generate(keyed, {"prompt": "a"}, bearer(frugal)), 429, "RATE_LIMITED")
    hasty = with_key(keyed, "hasty-one", "--requests-per-minute", "1").api_key
    assert generate(keyed, {"prompt": "a"}, bearer(hasty))[0] == 200
    check_refusal(keyed, hasty, generate(keyed, {"prompt": "a"}, bearer(hasty)), 429, "RATE_LIMITED")
    plain = keyed.keys["plain"]
    check_refusal(keyed, plain, generate(keyed, {"prompt": "a"}, {**bearer(plain), "OpenAI-Project": "others"}), 403, "KEY_NOT_ALLOWED")
    check_refusal(keyed, plain, generate(keyed, {"prompt": "a", "n": 99}, bearer(plain)), 400, "INVALID_REQUEST")
    check_refusal(keyed, plain, generate(keyed, {"prompt": "a", "model": "none"}, bearer(plain)), 404, "MODEL_NOT_FOUND")
    json_type = {**bearer(plain), "Content-Type": "application/json"}
    record = check_refusal(keyed, plain, call(keyed, "/v1/images/generations", b"{", json_type), 400, "INVALID_REQUEST")
    assert record["model"] is None and record["request_size_bytes"] == 1
    check_refusal(keyed, plain, call(keyed, "/v1/images/edits", b"x" * (2 << 20), json_type), 400, "INVALID_REQUEST")
    check_refusal(keyed, plain, call(keyed, "/v1/images/generations", b" " * (2 << 20), json_type), 413, "PAYLOAD_TOO_LARGE")
    check_refusal(keyed, plain, call(keyed, "/v1/images/edits", b"x", {**bearer(plain), "Content-Type": "text/plain"}), 415,
                  "UNSUPPORTED_MEDIA_TYPE")
    check_refusal(keyed, plain, call(keyed, "/v1/images/edits", form(part("prompt", b"a"), part("image", b"no picture", "a.png")),
                                     {**bearer(plain), **FORM}), 400, "INVALID_REQUEST")


def test_conflicts_have_a_record(keyed):
    plain = keyed.keys["plain"]
    headers = {**bearer(plain), "Idempotency-Key": "taken-by-another-body"}
    assert generate(keyed, {"prompt": "a"}, headers)[0] == 200
    check_refusal(keyed, plain, generate(keyed, {"prompt": "b"}, headers), 409, "IDEMPOTENCY_CONFLICT")


def test_strangers_and_dry_runs_leave_no_record(keyed):
    plain, admin = keyed.keys["plain"], bearer(keyed.keys["admin"])
    _, _, stranger = generate(keyed, {"prompt": "a"}, bearer("limn_aaaaaaaaaaaa." + "A" * 43))
    _, _, dry = generate(keyed, {"prompt": "a", "n": 99}, bearer(plain), "?dryRun=true")
    _, _, broken = call(keyed, "/v1/images/generations?dryRun=true", b"{", {**bearer(plain), "Content-Type": "application/json"})
    for headers in (stranger, dry, broken):
        assert call(keyed, "/v1/requests/" + headers["x-request-id"], headers=admin)[0] == 404


def test_a_flood_of_refusals_is_bounded(own_server, tmp_path):
    key, admin = make_key(tmp_path / "state", "flood", "--requests-per-minute", "1"), make_key(tmp_path / "state", "admin", "--admin")
    other = make_key(tmp_path / "state", "other")
    server = own_server(*FAST, "--quiet", state=tmp_path / "state")
    assert generate(server, {"prompt": "a"}, bearer(key))[0] == 200
    for _ in range(300):
        assert generate(server, {"prompt": "a"}, bearer(key))[0] == 429
    summary = call(server, "/v1/requests?summary=true&status=rejected", headers=bearer(admin))[1]["summary"]
    assert 100 <= summary["count"] <= 110
    metrics = call(server, "/metrics", headers=bearer(admin))[1].decode()
    left_out = int(metrics.split("\nlimn_refusals_unrecorded_total ")[1].split("\n")[0])
    assert summary["count"] + left_out == 300
    # Others have room of their own.
    check_refusal(server, other, generate(server, {"prompt": "a", "n": 99}, bearer(other)), 400, "INVALID_REQUEST")


# -------------------------------------------------------------------------------------------------- figures of a project


def stats(server, key, query="", **headers):
    status, body, _ = call(server, "/v1/stats" + query, headers={**bearer(key), **headers})
    return (status, body["totals"]["requests"], body["project"]) if status == 200 else (status, body["error"]["code"], None)


def test_figures_are_a_projects_own(own_server, tmp_path):
    state = tmp_path / "state"
    admin, one, two = (make_key(state, name, *options) for name, options in (
        ("admin", ["--admin"]), ("one", ["--project", "first"]), ("two", ["--project", "second", "--project", "third"])))
    server = own_server(*FAST, state=state, config=PRICES)
    for key, project, count in ((one, None, 2), (two, None, 1), (two, "third", 3)):
        for _ in range(count):
            assert generate(server, {"prompt": "a"}, {**bearer(key), **({"OpenAI-Project": project} if project else {})})[0] == 200
    # The caller's own faults count nowhere.
    assert generate(server, {"prompt": "a", "n": 99}, bearer(one))[0] == 400
    assert generate(server, {"prompt": "@refuse=prompt"}, bearer(one))[0] == 400
    assert stats(server, admin) == (200, 7, None)
    body = call(server, "/v1/stats", headers=bearer(admin))[1]
    assert [(group["ok"], group["failed"], group["not_counted"], group["success_rate"]) for group in body["data"]] == [(6, 0, 1, 100.0)]
    assert "project" not in body["data"][0]
    assert stats(server, one) == (200, 3, "first") and stats(server, two) == (200, 1, "second")
    assert stats(server, two, **{"OpenAI-Project": "third"}) == (200, 3, "third")
    assert stats(server, two, "?project=third") == (200, 3, "third")
    assert stats(server, admin, "?project=first") == (200, 3, "first")
    assert stats(server, admin, **{"OpenAI-Project": "second"}) == (200, 1, "second")
    assert stats(server, admin, "?project=nobody") == (200, 0, "nobody")
    assert stats(server, one, "?project=second") == (403, "KEY_NOT_ALLOWED", None)
    assert stats(server, one, **{"OpenAI-Project": "second"}) == (403, "KEY_NOT_ALLOWED", None)
    assert stats(server, two, "?project=second", **{"OpenAI-Project": "third"}) == (400, "INVALID_REQUEST", None)

    # The same header chooses among the records and what was spent.
    def listed(key, query="", **headers):
        status, body, _ = call(server, "/v1/requests?status=completed" + query, headers={**bearer(key), **headers})
        return len(body["data"]) if status == 200 else status
    assert listed(two) == 4 and listed(two, **{"OpenAI-Project": "third"}) == 3 and listed(two, "&project=second") == 1
    assert listed(admin) == 6 and listed(admin, **{"OpenAI-Project": "first"}) == 2 and listed(admin, "&project=third") == 3
    assert listed(one, **{"OpenAI-Project": "third"}) == 403 and listed(one, "&project=third") == 0
    assert listed(admin, "&project=first", **{"OpenAI-Project": "third"}) == 400
    some = call(server, "/v1/requests?limit=1", headers={**bearer(two), "OpenAI-Project": "third"})[1]["data"][0]["id"]
    assert call(server, "/v1/requests/" + some, headers={**bearer(two), "OpenAI-Project": "third"})[0] == 200
    assert call(server, "/v1/requests/" + some, headers={**bearer(two), "OpenAI-Project": "second"})[0] == 404
    page = call(server, "/v1/requests?limit=2&project=third", headers=bearer(two))[1]
    assert "project=third" in page["next_page_url"]
    assert len(call(server, page["next_page_url"], headers=bearer(two))[1]["data"]) == 1
    for key, project, spent in ((two, "third", 30000), (two, "second", 10000), (admin, "first", 20000)):
        status, body, _ = call(server, "/v1/balance", headers={**bearer(key), "OpenAI-Project": project})
        assert status == 200 and body["project"]["id"] == project and body["project"]["month"]["spent_micros"] == spent
    assert "project" not in call(server, "/v1/balance", headers=bearer(two))[1]
    assert call(server, "/v1/balance", headers={**bearer(one), "OpenAI-Project": "third"})[0] == 403


# ------------------------------------------------------------------------------------------------------- wrong questions


@pytest.mark.parametrize("path, param, part", [
    ("requests?limit=0", "limit", "1 to 100"), ("requests?limit=-1", "limit", "1 to 100"), ("requests?limit=101", "limit", "1 to 100"),
    ("requests?limit=" + "9" * 30, "limit", "1 to 100"), ("requests?limit", "limit", "1 to 100"), ("requests?limit=1&limit=2", "limit", "twice"),
    ("requests?starting_after=", "starting_after", "1 to"), ("requests?starting_after=%ff", "starting_after", "ASCII"),
    ("requests?starting_after=%00", "starting_after", "0 byte"), ("requests?user=a%00b", "user", "0 byte"), ("requests?us%00er=a", "us", "0 byte"),
    ("requests?user=%ff%fe", "user", "UTF-8"), ("requests?model=%ff", "model", "ASCII"), ("requests?stat=completed", "stat", "status"),
    ("requests?nonsense=1", "nonsense", "starting_after"), ("requests?Limit=5", "Limit", "limit"), ("requests?status=", "status", "pending"),
    ("requests?created_after=2026-02-31", "created_after", "a time"), ("requests?summary=1", "summary", "true or false"),
    ("requests?starting_after=a&ending_before=b", "ending_before", "together"), ("requests?%ff=1", None, ""),
    ("keys?limit=0", "limit", "1 to 100"), ("keys?state=active", "state", "status"), ("keys?status=expired", "status", "active or revoked"),
    ("keys?project=", "project", "1 to 63"), ("stats?mode=video", "mode", "image-edit"), ("stats?models=x", "models", "model"),
    ("balance?project=x", "project", "none"),
])
def test_wrong_filters_are_refused(fast, path, param, part):
    status, body, _ = call(fast, "/v1/" + path)
    assert status == 400 and body["error"]["code"] == "INVALID_REQUEST", body
    assert (param is None or body["error"]["param"] == param) and part in body["error"]["message"], body


def test_cursors_that_lead_nowhere(keyed):
    """Also one of somebody else's request."""
    admin, plain = bearer(keyed.keys["admin"]), bearer(keyed.keys["plain"])
    other = with_key(keyed, "cursor").api_key
    _, made, _ = generate(keyed, {"prompt": "a"}, bearer(other))
    for headers, path, status in ((plain, "requests?starting_after=req_none", 404), (plain, "requests?ending_before=" + made["id"], 404),
                                  (admin, "requests?starting_after=" + made["id"], 200), (admin, "keys?starting_after=none", 404),
                                  (admin, "keys?limit=100&ending_before=none", 404)):
        assert call(keyed, "/v1/" + path, headers=headers)[0] == status, path
