"""Writes small random model folders in the FLUX.2 diffusers layout, each in f32 and in bf16 (the same weights rounded).

    make_models.py OUT_DIR [--fixtures]

The shapes are chosen to differ from each other wherever a real checkpoint may: head widths, guidance, number of text
taps, names and sharding of tensors, old and new spellings in config.json, latent channels, norm groups. Weights are
drawn with fixed seeds and scaled so that modulation, gates, norms and the softmax all matter. With --fixtures the two
tiny folders that the unit tests read are written instead.
"""

import argparse
import json
import math
import pathlib

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from safetensors.torch import save_file
from transformers import (
    Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, MistralModel, Qwen3Config, Qwen3ForCausalLM,
)

import tokenizers_small

SYSTEM_MESSAGE = "Name each thing,\nits colour and place."
TURBO_SIGMAS = [1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031]


def text_shape(hidden, layers, heads, kv, ffn, prefix, kind, head_dim=None, theta=1e9, eps=1e-5, new_rope=False, tied=True):
    return dict(hidden=hidden, layers=layers, heads=heads, kv=kv, ffn=ffn, prefix=prefix, kind=kind, head_dim=head_dim,
                theta=theta, eps=eps, new_rope=new_rope, tied=tied)


MODELS = {
    # Head width 128 as in FLUX.2 [dev]; Mistral3 with its vision tower, head width of the text encoder not hidden/heads.
    "a": dict(
        seed=1, heads=2, head_dim=128, axes=[32, 32, 32, 32], double=2, single=3, mlp_ratio=3.0, guidance=True,
        latent=8, vae=[32, 64, 64, 64], decoder=None, groups=32, layers_per_block=2,
        text=text_shape(64, 6, 4, 2, 160, "language_model.model.", "mistral3", head_dim=32),
        taps=[1, 3, 5], length=512, vocabulary=640, pattern="hf", ignore_merges=False, shards=3,
        limn=dict(default_size="96x64", steps=4, guidance=4.0),
    ),
    # Small heads, no guidance embedding, one tap, the plain Mistral names, head_dim left to be derived.
    "b": dict(
        seed=2, heads=2, head_dim=32, axes=[8, 8, 8, 8], double=2, single=2, mlp_ratio=3.0, guidance=False,
        latent=4, vae=[16, 32, 32, 32], decoder=None, groups=8, layers_per_block=1,
        text=text_shape(48, 4, 3, 3, 96, "model.", "mistral", theta=1e6, eps=1e-6, new_rope=True),
        taps=[3], length=64, vocabulary=512, pattern="tekken", ignore_merges=True, shards=1,
        limn=dict(default_size="64x64", steps=4, guidance=1.0, reference_area=96 * 96),
    ),
    # Eight blocks, uneven; odd widths; two taps, the second of them after the last layer, so that it has passed the
    # final norm; a decoder narrower than the encoder.
    "c": dict(
        seed=3, heads=3, head_dim=64, axes=[16, 16, 16, 16], double=3, single=5, mlp_ratio=2.5, guidance=True,
        latent=5, vae=[24, 40, 48, 56], decoder=[16, 24, 40, 48], groups=8, layers_per_block=2,
        text=text_shape(72, 4, 3, 1, 100, "", "mistral", head_dim=24, theta=1e8),
        taps=[2, 4], length=96, vocabulary=512, pattern="hf", ignore_merges=True, shards=2,
        limn=dict(default_size="80x112", steps=8, guidance=2.5, sigmas=TURBO_SIGMAS),
    ),
    # Deep, for the growth of the bf16 error; unequal axes.
    "d": dict(
        seed=4, heads=4, head_dim=32, axes=[4, 12, 12, 4], double=4, single=10, mlp_ratio=3.0, guidance=True,
        latent=32, vae=[32, 32, 64, 64], decoder=None, groups=16, layers_per_block=1,
        text=text_shape(64, 5, 4, 1, 128, "model.language_model.", "mistral3", head_dim=16, new_rope=True),
        taps=[1, 2, 4], length=80, vocabulary=512, pattern="hf", ignore_merges=False, shards=1,
        limn=dict(default_size="128x96", steps=6, guidance=3.5),
    ),
    # FLUX.2 [klein], distilled: Qwen3 with tied embeddings, padding behind the prompt.
    "e": dict(
        seed=5, klein="distilled", heads=3, head_dim=32, axes=[8, 8, 8, 8], double=2, single=4, mlp_ratio=3.0,
        guidance=False, latent=8, vae=[16, 32, 32, 32], decoder=None, groups=8, layers_per_block=1,
        text=text_shape(48, 6, 4, 2, 104, "model.", "qwen3", head_dim=16, theta=1e6, eps=1e-6, new_rope=True),
        taps=[2, 3, 5], length=112, vocabulary=620, pattern="qwen", ignore_merges=False, shards=2,
        limn=dict(default_size="96x64"),
    ),
    # [klein] base: guidance by two evaluations a step, and an embedder of guidance that is given nothing to read.
    "f": dict(
        seed=6, klein="base", heads=2, head_dim=64, axes=[16, 16, 16, 16], double=2, single=3, mlp_ratio=3.0,
        guidance=True, latent=4, vae=[16, 16, 32, 32], decoder=None, groups=8, layers_per_block=1,
        text=text_shape(40, 4, 4, 4, 72, "model.", "qwen3", head_dim=24, theta=1e6, eps=1e-6, tied=False),
        taps=[1, 3], length=72, vocabulary=560, pattern="qwen", ignore_merges=False, shards=1,
        limn=dict(default_size="64x80", steps=4, guidance=4.0),
    ),
}

# Committed: as small as the format allows.
FIXTURES = {
    "model-a": dict(
        seed=11, heads=1, head_dim=128, axes=[32, 32, 32, 32], double=1, single=2, mlp_ratio=1.0, guidance=True,
        latent=4, vae=[8, 16, 16, 16], decoder=None, groups=4, layers_per_block=1,
        text=text_shape(32, 4, 2, 1, 48, "language_model.model.", "mistral3", head_dim=24),
        taps=[1, 2, 3], length=64, vocabulary=384, pattern="hf", ignore_merges=False, shards=2,
        limn=dict(default_size="64x48", steps=4, guidance=4.0),
    ),
    "model-b": dict(
        seed=12, heads=2, head_dim=16, axes=[4, 4, 4, 4], double=2, single=3, mlp_ratio=3.0, guidance=False,
        latent=3, vae=[8, 8, 16, 16], decoder=[8, 8, 8, 16], groups=4, layers_per_block=1,
        text=text_shape(24, 3, 3, 3, 40, "model.", "mistral", theta=1e6, eps=1e-6, new_rope=True),
        taps=[2], length=48, vocabulary=384, pattern="tekken", ignore_merges=True, shards=1,
        limn=dict(default_size="64x64", steps=4, guidance=1.0, sigmas=[1.0, 0.7, 0.4, 0.1], reference_area=80 * 80),
    ),
    "model-k": dict(
        seed=13, klein="base", heads=1, head_dim=32, axes=[8, 8, 8, 8], double=1, single=2, mlp_ratio=2.0, guidance=False,
        latent=3, vae=[8, 8, 16, 16], decoder=None, groups=4, layers_per_block=1,
        text=text_shape(24, 4, 4, 2, 40, "model.", "qwen3", head_dim=8, theta=1e6, eps=1e-6, new_rope=True),
        taps=[1, 2, 3], length=40, vocabulary=330, pattern="qwen", ignore_merges=False, shards=1,
        limn=dict(default_size="48x64", steps=3),
    ),
}
FIXTURE_DTYPES = {"model-a": torch.bfloat16, "model-b": torch.float32, "model-k": torch.bfloat16}


def normal(shape, std, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float32) * std


def fill_linear(module, rules, generator):
    """Draws every weight with std gain / sqrt(fan in), the gain by the first rule whose key is in the name; norm
    weights lie around 1, biases around 0."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim >= 2:
                gain = next((g for key, g in rules if key in name), 1.0)
                fan_in = math.prod(parameter.shape[1:])
                parameter.copy_(normal(parameter.shape, gain / math.sqrt(fan_in), generator))
            elif name.endswith("bias"):
                parameter.copy_(normal(parameter.shape, 0.1, generator))
            else:
                parameter.copy_(1.0 + normal(parameter.shape, 0.25, generator))


def make_transformer(spec, generator):
    joint = len(spec["taps"]) * spec["text"]["hidden"]
    model = Flux2Transformer2DModel(
        patch_size=1, in_channels=4 * spec["latent"], num_layers=spec["double"], num_single_layers=spec["single"],
        attention_head_dim=spec["head_dim"], num_attention_heads=spec["heads"], joint_attention_dim=joint,
        timestep_guidance_channels=256, mlp_ratio=spec["mlp_ratio"], axes_dims_rope=tuple(spec["axes"]),
        rope_theta=2000, eps=1e-6, guidance_embeds=spec["guidance"],
    )
    rules = [
        ("timestep_embedder.linear_1", 2.5), ("guidance_embedder.linear_1", 2.0),
        ("stream_modulation", 0.55), ("norm_out.linear", 0.5),
    ]
    fill_linear(model, rules, generator)
    return model


def make_vae(spec, generator):
    model = AutoencoderKLFlux2(
        block_out_channels=tuple(spec["vae"]), decoder_block_out_channels=spec["decoder"] and tuple(spec["decoder"]),
        layers_per_block=spec["layers_per_block"], latent_channels=spec["latent"], norm_num_groups=spec["groups"],
        sample_size=1024,
    )
    fill_linear(model, [("decoder.conv_out", 0.6), ("conv2", 0.6)], generator)
    channels = 4 * spec["latent"]
    with torch.no_grad():
        model.bn.running_mean.copy_(normal((channels,), 0.5, generator))
        spread = torch.rand(channels, generator=generator) * 2 - 1
        model.bn.running_var.copy_(10.0**spread)
    return model


def text_config(spec):
    """config.json of the text encoder, as a dict; with the rotary base in its old or its new place."""
    text = spec["text"]
    rope = (
        {"rope_parameters": {"rope_theta": text["theta"], "rope_type": "default"}}
        if text["new_rope"] else {"rope_theta": text["theta"]}
    )
    qwen = text["kind"] == "qwen3"
    if qwen and not text["new_rope"]:
        rope["rope_scaling"] = None
    inner = {
        "model_type": "qwen3" if qwen else "mistral", "vocab_size": spec["vocabulary"], "hidden_size": text["hidden"],
        "intermediate_size": text["ffn"], "num_hidden_layers": text["layers"], "num_attention_heads": text["heads"],
        "num_key_value_heads": text["kv"], "hidden_act": "silu", "max_position_embeddings": 131072,
        "rms_norm_eps": text["eps"], "sliding_window": None, "tie_word_embeddings": qwen and text["tied"], "attention_dropout": 0.0,
        **rope,
    }
    if text["head_dim"]:
        inner["head_dim"] = text["head_dim"]
    if qwen:  # a few more rows of embeddings than the tokenizer has ids, as the published models have
        return {"architectures": ["Qwen3ForCausalLM"], **inner, "vocab_size": spec["vocabulary"] + 10, "attention_bias": False,
                "use_sliding_window": False, "max_window_layers": text["layers"]}
    if text["kind"] == "mistral":
        return {"architectures": ["MistralModel"], **inner}
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 1, "head_dim": 16, "image_size": 56, "patch_size": 14, "num_channels": 3,
        "hidden_act": "silu", "rope_theta": 10000.0,
    }
    return {
        "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": 10,
        "multimodal_projector_bias": False, "projector_hidden_act": "gelu", "spatial_merge_size": 2,
        "vision_feature_layer": -1, "tie_word_embeddings": False, "text_config": inner, "vision_config": vision,
    }


def text_encoder_from(config):
    """The reference's text encoder for a config.json given as a dict, with whatever weights it starts from."""
    config = json.loads(json.dumps(config))
    if config["model_type"] == "mistral3":
        model = Mistral3ForConditionalGeneration(Mistral3Config(**config))
    elif config["model_type"] == "qwen3":
        config.pop("architectures")
        model = Qwen3ForCausalLM(Qwen3Config(**config))
    else:
        config.pop("architectures", None)
        model = MistralModel(MistralConfig(**config))
    model.set_attn_implementation("sdpa")
    return model.eval()


def to_file_name(name, prefix):
    """The name in the file of the reference model's tensor `name`; `prefix` goes before the decoder's own names."""
    decoder = name
    if name.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
        return prefix + name[len("model."):]
    for start in ("model.language_model.", "language_model."):
        if name.startswith(start):
            decoder = name[len(start):]
            break
    else:
        if name.startswith("lm_head"):
            return {"language_model.model.": "language_model.lm_head.weight"}.get(prefix, "lm_head.weight")
        if name.startswith("model."):  # vision tower and projector of Mistral3
            return name if prefix.startswith("model.") else name[len("model."):]
    return prefix + decoder


def make_text_encoder(spec, generator):
    config = text_config(spec)
    model = text_encoder_from(config)
    fill_linear(model, [("embed_tokens", math.sqrt(spec["text"]["hidden"])), ("o_proj", 0.8), ("down_proj", 0.8)], generator)
    tensors = {to_file_name(k, spec["text"]["prefix"]): v for k, v in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        tensors.pop("lm_head.weight", None)
    return config, tensors


def save_tensors(folder, stem, tensors, shards, dtype):
    """One file STEM.safetensors, or `shards` of them with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to(dtype).contiguous() if v.is_floating_point() else v for k, v in tensors.items()}
    if shards == 1:
        save_file(tensors, folder / f"{stem}.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    weight_map = {}
    for index in range(shards):
        part = names[index * len(names) // shards : (index + 1) * len(names) // shards]
        file = f"{stem}-{index + 1:05d}-of-{shards:05d}.safetensors"
        save_file({k: tensors[k] for k in part}, folder / file, metadata={"format": "pt"})
        weight_map.update({k: file for k in part})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")


def diffusers_config(model):
    config = {k: v for k, v in dict(model.config).items() if not k.startswith("_")}
    return {"_class_name": type(model).__name__, "_diffusers_version": "0.42.1", **config}


def write_model(folder, name, spec, dtypes):
    """Writes FOLDER/NAME for one dtype, FOLDER/NAME-f32, FOLDER/NAME-bf16 and so on for several."""
    generator = torch.Generator().manual_seed(spec["seed"])
    transformer = make_transformer(spec, generator)
    vae = make_vae(spec, generator)
    config, text = make_text_encoder(spec, generator)
    form = tokenizers_small.train(spec["pattern"], spec["vocabulary"], spec["ignore_merges"])
    for dtype in dtypes:
        suffix = "" if len(dtypes) == 1 else {torch.float32: "-f32", torch.bfloat16: "-bf16", torch.float16: "-f16"}[dtype]
        out = pathlib.Path(folder) / (name + suffix)
        shards = spec["shards"]
        save_tensors(out / "transformer", "diffusion_pytorch_model", transformer.state_dict(), shards, dtype)
        save_tensors(out / "vae", "diffusion_pytorch_model", vae.state_dict(), 1, dtype)
        save_tensors(out / "text_encoder", "model", text, shards, dtype)
        write_json(out / "transformer/config.json", diffusers_config(transformer))
        write_json(out / "vae/config.json", diffusers_config(vae))
        write_json(out / "text_encoder/config.json", {**config, "torch_dtype": str(dtype).removeprefix("torch.")})
        write_json(out / "scheduler/scheduler_config.json", {
            "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.42.1",
            "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5,
            "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "time_shift_type": "exponential",
            "invert_sigmas": False, "shift_terminal": None, "stochastic_sampling": False, "use_beta_sigmas": False,
            "use_exponential_sigmas": False, "use_karras_sigmas": False,
        })
        klein = spec.get("klein")
        write_json(out / "model_index.json", {
            "_class_name": "Flux2KleinPipeline" if klein else "Flux2Pipeline", "_diffusers_version": "0.42.1",
            **({"is_distilled": klein == "distilled"} if klein else {}),
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", config["architectures"][0]],
            "tokenizer": ["transformers", "Qwen2TokenizerFast" if klein else "TokenizersBackend"],
            "transformer": ["diffusers", "Flux2Transformer2DModel"], "vae": ["diffusers", "AutoencoderKLFlux2"],
        })
        write_json(out / "limn.json", {
            "limn": 1, "name": f"random {name}", **({} if klein else {"system_message": SYSTEM_MESSAGE}),
            "text_taps": spec["taps"], "text_length": spec["length"], **spec["limn"],
        })
        tokenizers_small.write(out / "tokenizer", form, merges_as_strings=spec["pattern"] == "tekken")
        yield out


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("out_dir")
    arguments.add_argument("--fixtures", action="store_true", help="write the tiny folders of tests/fixtures")
    arguments.add_argument("--only", help="write only the model of this name")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for name, spec in (FIXTURES if options.fixtures else MODELS).items():
        if options.only in (None, name):
            dtypes = [FIXTURE_DTYPES[name]] if options.fixtures else [torch.float32, torch.bfloat16]
            for folder in write_model(options.out_dir, name, spec, dtypes):
                print(folder)


if __name__ == "__main__":
    main()
