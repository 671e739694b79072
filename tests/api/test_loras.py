"""LoRAs by the names that the owner has set up, through the API and on the real engine."""
import json
import pathlib
import random
import struct

import pytest
from openai import BadRequestError
from conftest import Server, model_folder, served_model


def write_lora(path, seed, width=None):
    """A LoRA of rank 2 on the output layer, as ComfyUI spells it."""
    config = json.loads((pathlib.Path(model_folder()) / "transformer/config.json").read_text())
    hidden = width or config["num_attention_heads"] * config["attention_head_dim"]
    numbers, header, data = random.Random(seed), {}, b""
    for name, shape in (("lora_A", (2, hidden)), ("lora_B", (config["in_channels"], 2))):
        values = [numbers.uniform(-0.2, 0.2) for _ in range(shape[0] * shape[1])]
        begin, data = len(data), data + struct.pack(f"<{len(values)}f", *values)
        header[f"diffusion_model.final_layer.linear.{name}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.fixture(scope="module")
def lora_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loras")
    config = json.dumps({"loras": {  # YAML reads JSON
        "ink": str(write_lora(folder / "ink.safetensors", 1)),
        "wash": {"file": str(write_lora(folder / "wash.safetensors", 2)), "models": [served_model()], "scale": 0.5},
        "other": {"file": str(folder / "ink.safetensors"), "models": ["flux.2-*"]},
        "narrow": str(write_lora(folder / "narrow.safetensors", 3, width=7)),
    }})
    server = Server(folder / "state", config=config)
    yield server
    assert server.stop() == 0, server.output()
    assert "Sanitizer" not in server.output()


def draw(server, lora=None, **more):
    extra = {"seed": 5, "steps": 2, **({} if lora is None else {"lora": lora})}
    answer = server.client.images.generate(prompt="a red circle", response_format="b64_json", extra_body=extra, **more)
    return answer.data[0].b64_json


def test_each_spelling_of_the_parameter(lora_server):
    plain = draw(lora_server)
    ink = draw(lora_server, "ink")
    assert ink != plain
    assert draw(lora_server, {"name": "ink"}) == draw(lora_server, ["ink"]) == draw(lora_server, {"name": "ink", "scale": 1}) == ink
    assert draw(lora_server, {"name": "ink", "scale": 0}) == draw(lora_server, []) == plain
    both = draw(lora_server, ["ink", "wash"])
    assert both not in (plain, ink)
    assert draw(lora_server, ["ink", {"name": "wash", "scale": 0.5}]) == both  # the owner's scale
    assert draw(lora_server) == plain


def test_the_model_says_which_there_are(lora_server):
    model = lora_server.client.models.retrieve(served_model())
    assert model.loras == ["ink", "wash", "narrow"]


@pytest.mark.parametrize("lora, part", [
    ("inc", '(did you mean "ink"?)'),
    ("other", "this server has for it: ink, wash, narrow"),
    ({"name": "ink", "scale": 5}, "from -4 to 4"),
    ({"path": "/etc/passwd"}, "files cannot be sent or named"),
    ("../ink.safetensors", "there is no"),
    (["ink", "ink"], "given twice"),
    ("narrow", "cannot be applied to this model"),
])
def test_what_is_refused(lora_server, lora, part):
    with pytest.raises(BadRequestError) as refused:
        draw(lora_server, lora)
    assert refused.value.param == "lora" and part in refused.value.message
    assert "safetensors" not in refused.value.message.replace("../ink.safetensors", "")  # no path of the server's
