"""/openapi.json is true: schemathesis makes requests of it, right and wrong ones, and holds the answers against it.
LIMN_OPENAPI_EXAMPLES says how many an operation (default 30)."""
import json
import os
import pathlib
import re
import subprocess
import sys
import urllib.request

import pytest

from conftest import FAST
from test_keys import make_key

HERE = pathlib.Path(__file__).parent
EXAMPLES = os.environ.get("LIMN_OPENAPI_EXAMPLES", "30")


def document(server):
    with urllib.request.urlopen(server.url + "/openapi.json") as answer:
        return json.load(answer)


def test_document(fast):
    made = document(fast)
    assert made["openapi"] == "3.1.0"
    paths = made["paths"]
    for base in ("/v1", "/openai/v1"):
        assert {"/images/generations", "/images/edits", "/models", "/models/{id}"} <= {
            path.removeprefix(base) for path in paths if path.startswith(base)}
    for path in ("/v1/requests", "/v1/requests/{id}", "/v1/requests/{id}/cancel", "/v1/requests/{id}/payloads", "/v1/keys",
                 "/v1/stats", "/v1/balance", "/media/{name}", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert path in paths
    ids = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    # Every reference leads somewhere.
    for name in set(re.findall(r'"#/components/(\w+/\w+)"', json.dumps(made))):
        kind, key = name.split("/")
        assert key in made["components"][kind], name
    codes = made["components"]["schemas"]["ErrorCode"]["enum"]
    assert {"INVALID_REQUEST", "QUEUE_FULL", "BUDGET_EXCEEDED", "INTERRUPTED", "STORAGE_FULL"} <= set(codes)
    assert all(operation["security"] == [] for item in paths.values() for operation in item.values())  # no key is needed yet


def lora_of(server, kind):
    content = document(server)["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]
    return content[kind]["schema"]["properties"].get("lora") if kind in content else None


def test_loras_in_the_document(fast, own_server, tmp_path):
    """It names those that there are, and nothing where there are none."""
    none = lora_of(fast, "application/json")
    assert (none["type"], none["maxItems"]) == (["array", "null"], 0)
    (tmp_path / "x.safetensors").write_bytes(b"")
    server = own_server(*FAST, config=f"loras: {{watercolour: {tmp_path}/x.safetensors, ink: {tmp_path}/x.safetensors}}\n")
    some = lora_of(server, "application/json")["anyOf"]
    assert some[1]["anyOf"][0]["enum"] == ["watercolour", "ink"] and some[2]["maxItems"] == 4


def test_schemathesis(own_server, tmp_path):
    pytest.importorskip("schemathesis")
    key = make_key(tmp_path / "state", "schema", "--admin")
    server = own_server(*FAST, "--quiet", state=tmp_path / "state", key=key)
    ended = subprocess.run(
        [str(pathlib.Path(sys.executable).with_name("schemathesis")), "run", server.url + "/openapi.json", "--checks", "all",
         "--max-examples", EXAMPLES, "--header", f"Authorization: Bearer {key}", "--suppress-health-check", "all",
         "--no-color", "--generation-database", "none", "--generation-allow-x00", "false", "--phases", "coverage,fuzzing,stateful"],
        cwd=tmp_path, env=dict(os.environ, SCHEMATHESIS_HOOKS="hooks", PYTHONPATH=str(HERE / "openapi")), capture_output=True,
        text=True, timeout=3000)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    tested = re.search(r"Tested: (\d+)", ended.stdout)
    operations = sum(len(item) for item in document(server)["paths"].values())
    # Everything but the document itself, which schemathesis leaves out.
    assert tested and int(tested.group(1)) == operations - 1, ended.stdout[-8000:]
