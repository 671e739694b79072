"""Keys: who may ask for what, how often and for how much; and who may ask without one. On the stand-in worker."""
import http.client
import json
import os
import re
import subprocess
import urllib.error
import urllib.request

import openai
import pytest

from conftest import FAST, LIMN, model_folder, served_model, until
from test_calls import call, generate
from test_pictures import SMALL


def limn_key(state, *words):
    return subprocess.run([LIMN, "key", *words], env=dict(os.environ, XDG_STATE_HOME=str(state)), capture_output=True,
                          text=True, timeout=30, check=True).stdout


def make_key(state, name, *options):
    return re.search(r"limn_[a-z2-7]{12}\.[A-Za-z0-9_-]{43}", limn_key(state, "create", name, *options)).group()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    from conftest import Server
    state = tmp_path_factory.mktemp("keyed")
    prices = f"local:\n  prices:\n    {served_model()}: {{output_image: 0.01}}\n"
    keys = {"admin": make_key(state, "admin", "--admin"), "plain": make_key(state, "plain")}
    server = Server(state, *FAST, config=prices, key=keys["plain"])
    server.keys = keys
    yield server
    assert server.stop() == 0


def bearer(key):
    return {"Authorization": "Bearer " + key}


def with_key(server, name, *options):
    """A client with a fresh key that the running server has taken notice of."""
    key = make_key(server.state, name, *options)
    until(lambda: call(server, "/v1/models", headers=bearer(key))[0] != 401, 5, "a known key")
    return server.client.with_options(api_key=key)


def test_no_key_and_wrong_keys(keyed):
    plain = keyed.keys["plain"]
    for headers in ({}, bearer("sk-any"), bearer(plain[:-1] + ("A" if plain[-1] != "A" else "B")), bearer(plain + "x"),
                    {"Authorization": "Basic " + plain}, {"Authorization": plain}, bearer("limn_aaaaaaaaaaaa." + "A" * 43)):
        status, body, answer = generate(keyed, {"prompt": "a"}, headers)
        assert status == 401 and body["error"]["code"] == "AUTHENTICATION_FAILED", (headers, body)
        assert body["error"]["openai_code"] == "invalid_api_key" and answer["WWW-Authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        keyed.client.with_options(api_key="wrong").models.list()
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert call(keyed, path)[0] == 200


def test_key_serves(keyed):
    answer = keyed.client.images.generate(prompt="a", size=SMALL)
    with urllib.request.urlopen(answer.data[0].url) as picture:  # the URL is its own key
        assert picture.status == 200
    assert answer.metadata["cost"] == 0.01


def test_admin_endpoints(keyed):
    status, body, _ = call(keyed, "/v1/keys", headers=bearer(keyed.keys["plain"]))
    assert status == 403 and body["error"]["code"] == "KEY_NOT_ALLOWED"
    status, body, _ = call(keyed, "/v1/keys", headers=bearer(keyed.keys["admin"]))
    assert status == 200 and {"admin", "plain"} <= {key["name"] for key in body["data"]}
    text = json.dumps(body)
    assert keyed.keys["plain"].split(".")[1] not in text and '"hash"' not in text
    assert call(keyed, "/metrics", headers=bearer(keyed.keys["admin"]))[0] == 200


def test_own_requests_only(keyed):
    other = with_key(keyed, "other")
    _, made, _ = generate(keyed, {"prompt": "a"}, bearer(keyed.keys["plain"]))
    assert call(keyed, "/v1/requests/" + made["id"], headers=bearer(keyed.keys["plain"]))[0] == 200
    assert call(keyed, "/v1/requests/" + made["id"], headers=bearer(keyed.keys["admin"]))[0] == 200
    for path, method, data in ((f"/v1/requests/{made['id']}", "GET", None), (f"/v1/requests/{made['id']}/cancel", "POST", b""),
                               (f"/v1/requests/{made['id']}/payloads", "DELETE", None)):
        assert call(keyed, path, data, bearer(other.api_key), method)[0] == 404
    assert call(keyed, "/v1/requests", headers=bearer(other.api_key))[1]["data"] == []


def test_revoked_and_expired(keyed):
    client = with_key(keyed, "short-lived")
    limn_key(keyed.state, "revoke", "short-lived")
    until(lambda: call(keyed, "/v1/models", headers=bearer(client.api_key))[0] == 401, 5, "a refusal")
    gone = make_key(keyed.state, "gone", "--expires", "2030-01-01T00:00:00Z")
    until(lambda: call(keyed, "/v1/models", headers=bearer(gone))[0] == 200, 5, "a known key")


def test_models_of_a_key(keyed):
    client = with_key(keyed, "elsewhere", "--models", "flux.2-*")
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.images.generate(prompt="a", size=SMALL)
    assert caught.value.code == "KEY_NOT_ALLOWED"


def test_models_by_other_names(own_server, tmp_path):
    """A key that was made for an alias may use what the alias means, under any of its names, and nothing else."""
    state, settings = tmp_path / "state", tmp_path / "aliases.yaml"
    text = f"aliases:\n  gpt-image-*: {served_model()}\n  house: local/{served_model()}\n"
    settings.write_text(text)
    server = own_server(*FAST, state=state, config=text)
    environment = dict(os.environ, XDG_STATE_HOME=str(state), LIMN_MODEL=model_folder())

    def create(name, models):
        return subprocess.run([LIMN, "key", "create", name, "--models", models, "--config", str(settings)], env=environment,
                              capture_output=True, text=True, timeout=30)
    for name, models in (("one", "gpt-image-1"), ("two", "house"), ("three", "gpt-image-*"), ("four", f"local/{served_model()}"),
                         ("five", f"house,gpt-image-1,{served_model()}")):
        made = create(name, models)
        assert made.returncode == 0, made.stderr
        key = made.stdout.strip()
        until(lambda: call(server, "/v1/models", headers=bearer(key))[0] == 200, 5, "a known key")
        for model in (None, "gpt-image-1", "house", served_model()):
            assert generate(server, {"prompt": "a", **({"model": model} if model else {})}, bearer(key))[0] == 200, (models, model)
        listed = json.loads(limn_key(state, "list", "--json"))[0]
        assert listed["models"] == [served_model()], models
    for models, part in (("gpt-imag-1", "not found"), ("hause", "Did you mean 'house'"), ("flux.2-dev-turbi", "Did you mean 'flux.2-dev-turbo'"),
                         ("nothing-*", "fits"), ("house,,", "empty")):
        refused = create("bad", models)
        assert refused.returncode == 1 and part in refused.stderr and not refused.stdout, (models, refused.stderr)


def test_budget(keyed):
    client = with_key(keyed, "poor", "--budget-total", "0.025")
    client.images.generate(prompt="a", size=SMALL, n=2)
    status, body, headers = generate(keyed, {"prompt": "a"}, bearer(client.api_key))
    assert status == 402 and body["error"]["code"] == "BUDGET_EXCEEDED" and headers["x-should-retry"] == "false"
    balance = call(keyed, "/v1/balance", headers=bearer(client.api_key))[1]
    assert balance["billing_type"] == "prepaid" and balance["available"]["amount"] == pytest.approx(0.005)


def test_rate_limit(keyed):
    client = with_key(keyed, "hasty", "--requests-per-minute", "2")
    for _ in range(2):
        client.images.generate(prompt="a", size=SMALL)
    status, body, headers = generate(keyed, {"prompt": "a"}, bearer(client.api_key))
    assert status == 429 and body["error"]["code"] == "RATE_LIMITED"
    assert 1 <= int(headers["retry-after"]) <= 30 and 0 < int(headers["retry-after-ms"]) <= 30000
    with pytest.raises(openai.RateLimitError):
        client.images.generate(prompt="a", size=SMALL)


def test_images_per_day(keyed):
    client = with_key(keyed, "frugal", "--images-per-day", "2")
    client.images.generate(prompt="a", size=SMALL, n=2)
    status, body, headers = generate(keyed, {"prompt": "a"}, bearer(client.api_key))
    assert status == 429 and body["error"]["code"] == "RATE_LIMITED"
    # Midnight is far: nobody is to sleep so long.
    assert headers.get("x-should-retry") == "false" or int(headers["retry-after"]) <= 60


def test_projects(keyed):
    client = with_key(keyed, "two-projects", "--project", "one", "--project", "two")
    for project, allowed in (("one", True), ("two", True), ("three", False)):
        status, body, _ = generate(keyed, {"prompt": "a"}, {**bearer(client.api_key), "OpenAI-Project": project})
        assert status == (200 if allowed else 403), body
        if allowed:
            record = call(keyed, "/v1/requests/" + body["id"], headers=bearer(client.api_key))[1]
            assert record["project"] == project
    assert generate(keyed, {"prompt": "a"}, {**bearer(client.api_key), "OpenAI-Project": "a b"})[0] == 400


def test_first_key_ends_keyless_use(own_server):
    server = own_server(*FAST)
    assert generate(server, {"prompt": "a"})[0] == 200
    key = make_key(server.state, "first")
    until(lambda: generate(server, {"prompt": "a"})[0] == 401, 5, "a refusal")
    assert generate(server, {"prompt": "a"}, bearer(key))[0] == 200


def test_required_keys(own_server):
    server = own_server(*FAST, config="auth:\n  required: true\n")
    status, body, _ = generate(server, {"prompt": "a"})
    assert status == 401 and "limn key create" in body["error"]["message"]


def test_keyless_rate(own_server):
    server = own_server(*FAST, config="auth:\n  keyless_requests_per_minute: 1\n")
    assert generate(server, {"prompt": "a"})[0] == 200
    status, body, headers = generate(server, {"prompt": "a"})
    assert status == 429 and body["error"]["code"] == "RATE_LIMITED" and int(headers["retry-after"]) <= 60
