"""Models, sizes, prices and the configuration, as a program sees them."""
import base64
import io
import json
import os
import subprocess
import urllib.error
import urllib.request

import openai
import pytest
from openai import OpenAI
from PIL import Image

from conftest import LIMN, Server

CONFIG = """
server: {port: 0}
aliases: {gpt-image-*: pictogram, house-model: local/pictogram}
local: {prices: {pictogram: {input_megapixel: 0.008, output_megapixel: 0.008}}}
"""


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A server whose model has a price and other names."""
    folder = tmp_path_factory.mktemp("priced")
    (folder / "limn.yaml").write_text(CONFIG)
    running = Server(folder, "--config", str(folder / "limn.yaml"))
    yield running
    assert running.stop() == 0, running.output()


def get(server, path):
    with urllib.request.urlopen(server.url + path, timeout=30) as answer:
        return json.load(answer)


def post(server, path, body):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as answer:
        return answer.code, json.load(answer)


def picture(width, height):
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def data_uri(width, height):
    return "data:image/png;base64," + base64.b64encode(picture(width, height)).decode()


def test_models_are_listed(client):
    models = {model.id: model for model in client.models.list()}
    assert {"flux.2-dev-turbo", "flux.2-dev", "flux.2-klein-4b"} <= set(models)
    first = next(iter(models.values()))
    assert first.available and first.installed
    turbo = models["flux.2-dev-turbo"]
    assert turbo.owned_by == "fal" and turbo.created == 1766966400 and turbo.object == "model"
    assert turbo.licence["commercial_use"] is False and "non-commercial" in turbo.tags
    assert turbo.limits["max_resolution"] == "2048x2048" and turbo.limits["max_input_images"] == 4
    assert {model["text-to-image"]["id"] for model in (provider["models"] for provider in turbo.providers)} == {
        "local/flux.2-dev-turbo", "fal/flux.2-dev-turbo"}
    assert client.models.retrieve("flux.2-dev-turbo").faq[0]["question"]


def test_schema(server):
    schema = get(server, "/v1/models/flux.2-dev-turbo?schema=true")
    assert schema["id"] == "flux.2-dev-turbo"
    assert set(schema["modes"]) == {"text-to-image", "image-edit"}
    assert "image" in schema["modes"]["image-edit"]["required"]
    parameters = {parameter["name"]: parameter for parameter in schema["parameters"]}
    seed_page = {"prompt", "seed", "size", "aspect_ratio", "resolution", "image", "response_format", "output_format",
                 "output_compression", "n", "cfg_scale", "prompt_enhancement", "enable_safety_checker", "sync_mode"}
    assert seed_page <= set(parameters)
    assert parameters["prompt"]["handling"]["fal"]["behavior"] == "renamed"
    assert parameters["size"]["handling"]["local"]["behavior"] == "converted"
    assert parameters["n"]["handling"]["fal"] == {"behavior": "emulated", "field": "num_images"}


def test_unknown_and_absent_models(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="flux.2-dev-trubo", prompt="a")
    assert caught.value.code == "MODEL_NOT_FOUND" and "Did you mean 'flux.2-dev-turbo'?" in caught.value.message
    with pytest.raises(openai.NotFoundError) as caught:
        client.images.generate(model="flux.2-dev", prompt="a")
    assert caught.value.code == "MODEL_NOT_INSTALLED" and "limn pull flux.2-dev" in caught.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_aliases_and_formats(priced):
    """A program written for gpt-image-1 reads b64_json; under its own name the same model answers with a URL."""
    for name in ("gpt-image-1", "gpt-image-1.5"):
        answer = priced.client.images.generate(model=name, prompt="a", size="64x64", extra_body={"steps": 1})
        assert answer.data[0].b64_json and not answer.data[0].url
        assert answer.metadata["model"] == "pictogram" and answer.metadata["executed_model"] == "local/pictogram"
    for name in ("house-model", "local/pictogram", "pictogram"):
        answer = priced.client.images.generate(model=name, prompt="a", size="64x64", extra_body={"steps": 1})
        assert answer.data[0].url and not answer.data[0].b64_json


@pytest.mark.parametrize("asked, given", [
    ({}, "128x128"),
    ({"size": "auto"}, "128x128"),
    ({"size": "100x70"}, "100x70"),
    ({"size": "16:9"}, "176x96"),
    ({"aspect_ratio": "1:2"}, "96x176"),
    ({"resolution": "0.25K"}, "256x256"),
    ({"resolution": "4K"}, "256x256"),
    ({"size": "1:4", "aspect_ratio": "4:1", "resolution": "0.25K"}, "128x512"),
    ({"size": "80x64", "aspect_ratio": "4:1", "resolution": "2K"}, "80x64"),
])
def test_sizes_are_the_cards(priced, asked, given):
    answer = priced.client.images.generate(model="pictogram", prompt="a", response_format="b64_json",
                                           extra_body={"steps": 1, **asked})
    assert answer.size == given
    shown = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json)))
    assert "%dx%d" % shown.size == given


@pytest.mark.parametrize("body, references, micros", [
    ({"n": 1}, [], 8000),
    ({"n": 3}, [], 24000),
    ({"size": "1024x1024"}, [], 8000),
    ({"n": 2}, [(128, 128)], 8000 + 16000),
    ({"n": 1}, [(1100, 1000), (64, 64)], 16000 + 8000 + 8000),
])
def test_a_dry_run_agrees_with_the_bill(priced, body, references, micros):
    body = {"model": "pictogram", "prompt": "a", "steps": 1, "response_format": "b64_json", **body}
    path = "/v1/images/generations"
    if references:
        path = "/v1/images/edits"
        body.update(size="64x64", images=[{"image_url": data_uri(*reference)} for reference in references])
    status, estimate = post(priced, path + "?dryRun=true", body)
    assert status == 200 and estimate["estimated"] is True
    assert estimate["total_cost_micros"] == micros == sum(part["total_cost"] for part in estimate["components"])
    if "size" in body and body["size"] == "1024x1024":
        return  # a large picture of a small model: the price is enough
    status, answer = post(priced, path, body)
    assert status == 200
    assert round(answer["metadata"]["cost"] * 1e6) == micros


def test_configuration_is_checked(tmp_path):
    def run(*words, **environment):
        variables = {name: value for name, value in os.environ.items() if not name.startswith("LIMN_")}
        return subprocess.run([LIMN, "config", *words], env={**variables, **environment}, capture_output=True, text=True,
                              timeout=30, cwd=tmp_path)

    path = tmp_path / "limn.yaml"
    path.write_text("server:\n  prot: 1\n")
    done = run("check")
    assert done.returncode == 1 and 'limn.yaml:2: server.prot: there is no such key; did you mean "server.port"?' in done.stderr
    path.write_text(CONFIG)
    assert run("check").returncode == 0
    printed = run("print", LIMN_SERVER_PORT="81").stdout
    assert "  port: 81  # LIMN_SERVER_PORT\n" in printed and 'aliases: {"gpt-image-*": "pictogram"' in printed
    path.write_text(printed)  # what is printed can be used
    again = run("print").stdout
    assert [line.split("  #")[0] for line in again.splitlines() if not line.strip().startswith("#")] == [
        line.split("  #")[0] for line in printed.splitlines() if not line.strip().startswith("#")]
    assert run("frobnicate").returncode == 2
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "mine.yaml").write_text("card: 1\nid: mine\nname: 7\ncolour: red\n")
    done = run("check", LIMN_CATALOG_FOLDER=str(cards))
    assert done.returncode == 1 and f"{cards}/mine.yaml:4: colour: there is no such key" in done.stderr
