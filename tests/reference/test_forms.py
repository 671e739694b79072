"""Whole pictures from models in every form, against the reference pipeline on the same (dequantised) weights.

Bounds are those of compare.py: f32 sums in another order, carried through the steps.
"""

import os
import pathlib

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import compare
import forms
import loras
from reference import Reference

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ.get("LIMN", ROOT / "build/release/limn")
PROMPT = "a yellow star,  Straße e\u0301 <|im_end|>猫"
BLOCKS = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
SCALED = ["fp8", "nvfp4", "nf4"]
SEED = 7
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def limn(tmp_path_factory):
    return compare.Limn(PROGRAM, tmp_path_factory.mktemp("dump"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {name: forms.Model(forms.write_model(folder, name)) for name in forms.SPECS}


@pytest.fixture(scope="module")
def plain(limn, models):
    """limn's own run of each diffusers folder."""
    return {name: limn.dump(model.folder, PROMPT, seed=SEED, compute="f32") for name, model in models.items()}


def run(reference):
    return reference.run(PROMPT, seed=SEED, everything=False)


def last(tensors):
    return max((k for k in tensors if k.startswith("step_") and k.endswith("_latents")), key=lambda k: int(k.split("_")[1]))


def distances(got, truth):
    """What a run is judged by: relative errors of the prompt's embeddings and of the last latents, levels that a picture is off."""
    assert set(np.unique(got["tokens"] == truth["tokens"])) == {True}
    assert ("empty_prompt_embeds" in got) == ("empty_prompt_embeds" in truth)
    texts = [k for k in ("prompt_embeds", "empty_prompt_embeds") if k in truth]
    return (max(compare.relative(got[k], truth[k]) for k in texts), compare.relative(got[last(truth)], truth[last(truth)]),
            compare.difference(got["picture"], truth["picture"]))


def agree(got, truth):
    text, latents, levels = distances(got, truth)
    assert text <= compare.REL_F32 and latents <= compare.REL_LATENTS_F32 and levels <= 1, (text, latents, levels)


def same(got, plain):
    assert set(got) == set(plain)
    assert [k for k in plain if got[k].tobytes() != plain[k].tobytes()] == []


# ---------------------------------------------------------------------------------------------------------- equal values


@pytest.mark.parametrize("name", forms.SPECS)
def test_the_folder_of_diffusers(models, plain, name):
    agree(plain[name], run(Reference(models[name].folder)))
    assert ("empty_tokens" in plain[name]) == (name == "base")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", ["base", "distilled"])
def test_klein_from_gguf(tmp_path, limn, models, plain, name, split):
    """Transformer with BFL's names as city96 and stable-diffusion.cpp have it, Qwen3 of llama.cpp with its tokenizer, BFL's autoencoder:
    the very bytes of the diffusers folder's run. Split, with and without a first part that has no tensors."""
    folder = models[name].form(tmp_path / "form", tokenizer=False)
    models[name].write_transformer_gguf(folder / "flux-2-klein.gguf", **(dict(split_max_tensors=9) if split else {}))
    models[name].write_text_gguf(folder / "Qwen3.gguf", **(dict(split_max_tensors=11, small_first_shard=True) if split else {}))
    forms.write_autoencoder(models[name], folder)
    assert (len(list(folder.glob("*.gguf"))) > 5) == split
    same(limn.dump(folder, PROMPT, seed=SEED, compute="f32"), plain[name])


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
@pytest.mark.parametrize("name", ["base", "distilled", "dev"])
def test_single_files(tmp_path, limn, models, plain, name, prefix):
    """BFL's transformer and autoencoder, the text encoder in one file with Hugging Face's names and no config.json (ComfyUI)."""
    model, folder = models[name], models[name].form(tmp_path / "form")
    bfl = forms.make_layouts.bfl_transformer(model.transformer)
    save_file({prefix + k: np.ascontiguousarray(v) for k, v in bfl.items()}, folder / "flux-2.safetensors")
    save_file({"model." + k.removeprefix("model."): v for k, v in model.text.items()}, folder / "text.safetensors")
    forms.write_autoencoder(model, folder)
    same(limn.dump(folder, PROMPT, seed=SEED, compute="f32"), plain[name])


@pytest.mark.parametrize("architecture", ["llama", "mistral3"])
def test_mistral_from_gguf(tmp_path, limn, models, plain, architecture):
    """llama.cpp's converter keeps q and k of both in pairs. Rows in another order: sums in another order."""
    folder = models["dev"].form(tmp_path / "form")
    models["dev"].write_transformer_gguf(folder / "flux2-dev.gguf")
    models["dev"].write_text_gguf(folder / "mistral.gguf", architecture=architecture, tokenizer=False)
    forms.write_autoencoder(models["dev"], folder)
    got = limn.dump(folder, PROMPT, seed=SEED, compute="f32")
    agree(got, plain["dev"])
    # Rows that are not in pairs under that name give other embeddings: the comparison above can fail.
    models["dev"].config["model_type"], kept = "qwen3", models["dev"].config["model_type"]
    try:
        models["dev"].write_text_gguf(folder / "mistral.gguf", architecture=architecture, tokenizer=False)
    finally:
        models["dev"].config["model_type"] = kept
    got = limn.dump(folder, PROMPT, seed=SEED, compute="f32")
    assert compare.relative(got["prompt_embeds"], plain["dev"]["prompt_embeds"]) > 0.01


# ------------------------------------------------------------------------------------------------------------- quantised


@pytest.mark.parametrize("kind", BLOCKS + SCALED)
@pytest.mark.parametrize("name", ["dev", "base"])
def test_quantised(tmp_path, limn, models, plain, name, kind):
    """Transformer and, for types of GGUF, text encoder in that type, one of them split; against the reference on what they decode to."""
    model, folder = models[name], models[name].form(tmp_path / "form")
    transformer, text = forms.quantised_transformer(model, folder, kind), None
    if kind in BLOCKS:
        model.write_text_gguf(folder / "text.gguf", forms.TYPES[kind], tokenizer=False, split_max_tensors=12)
        text = forms.text_of(model, forms.gguf_values(*folder.glob("text-*-of-*.gguf")))
        assert set(model.text) - set(text) <= {"lm_head.weight"}
    else:
        save_file(model.text, folder / "text.safetensors")
    forms.write_autoencoder(model, folder)
    truth = run(Reference(model.with_weights(tmp_path / "decoded", transformer, text)))
    agree(limn.dump(folder, PROMPT, seed=SEED, compute="f32"), truth)
    assert compare.relative(plain[name][last(truth)], truth[last(truth)]) > 1e-3  # these are other weights


@pytest.mark.parametrize("name", ["dev", "base"])
def test_without_keys(tmp_path, limn, models, name):
    """What stable-diffusion.cpp's converter makes of a text encoder: no keys, norms in Q8_0. The transformer has its own prefix there."""
    model, folder = models[name], models[name].form(tmp_path / "form")
    bfl = forms.make_layouts.bfl_transformer(model.transformer)
    forms.make_layouts.write_gguf_transformer(folder / "transformer.gguf", {f"model.diffusion_model.{k}": v for k, v in bfl.items()}, forms.TYPES.F32)
    model.write_text_gguf(folder / "text.gguf", forms.TYPES.Q8_0, tokenizer=False, bare=True)
    reader = forms.gguf.GGUFReader(folder / "text.gguf")
    assert not [f for f in reader.fields if not f.startswith("GGUF.")] and len({t.tensor_type for t in reader.tensors}) == 1
    forms.write_autoencoder(model, folder)
    text = forms.text_of(model, forms.gguf_values(folder / "text.gguf"))
    agree(limn.dump(folder, PROMPT, seed=SEED, compute="f32"), run(Reference(model.with_weights(tmp_path / "decoded", text=text))))


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K", "Q8_0"])
def test_converted(tmp_path, limn, models, kind):
    """What `limn convert` makes of a model, as gguf-py decodes it."""
    model = models["base"]
    compare.subprocess.run([PROGRAM, "convert", "-q", model.folder, "-o", tmp_path / "form", "--type", kind], check=True)
    for part in ("transformer", "text_encoder"):
        assert any(t.tensor_type == forms.TYPES[kind] for t in forms.gguf.GGUFReader(next((tmp_path / "form" / part).glob("*.gguf"))).tensors)
    transformer = forms.transformer_of(model, forms.gguf_values(*(tmp_path / "form/transformer").glob("*.gguf")))
    text = forms.text_of(model, forms.gguf_values(*(tmp_path / "form/text_encoder").glob("*.gguf")))
    truth = run(Reference(model.with_weights(tmp_path / "decoded", transformer, text)))
    agree(limn.dump(tmp_path / "form", PROMPT, seed=SEED, compute="f32"), truth)


# ------------------------------------------------------------------------------------------- LoRAs beside quantised weights


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", *SCALED])
@pytest.mark.parametrize("name", ["dev", "base"])
def test_lora_beside_quantised(tmp_path, limn, models, name, kind):
    """As merged into the dequantised weights, in both evaluations of [klein] base; the text encoder stays as it is."""
    model, folder = models[name], models[name].form(tmp_path / "form")
    transformer = forms.quantised_transformer(model, folder, kind)
    save_file(model.text, folder / "text.safetensors")
    forms.write_autoencoder(model, folder)
    reference = Reference(model.with_weights(tmp_path / "decoded", transformer))
    for seed, family in ((1, "diffusers"), (2, "kohya")):
        lora = loras.Lora(reference.pipe.transformer, seed)
        file = lora.write(tmp_path / "lora.safetensors", family)
        got = limn.dump(folder, PROMPT, seed=SEED, compute="f32", lora=[(file, 0.75)])
        with lora.merged(reference.pipe.transformer, 0.75):
            agree(got, run(reference))
        without = run(reference)
        assert compare.relative(got[last(got)], without[last(got)]) > 0.01
        if name == "base":
            assert compare.relative(got["step_0_empty_velocity"], without["step_0_empty_velocity"]) > 0.01
