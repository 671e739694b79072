"""Writes a model folder in the layout of FLUX.2 [dev]: transformer, vae, text_encoder, tokenizer, scheduler,
model_index.json and limn.json. Weights are bf16 (the batch-norm statistics f32)."""

import argparse
import json
import os
import shutil

import numpy as np
import torch
from safetensors.torch import save_file

from training.autoencoder import CONFIG as VAE_CONFIG
from training.autoencoder import build
from training.common import load
from training.text import CONFIG as TEXT_CONFIG
from training.text import TAPS
from training.tokenizer import SYSTEM_MESSAGE, TEXT_LENGTH
from training.transformer import CONFIG, GUIDANCE, TURBO, Model, interleave


def write(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=1)
        f.write("\n")


def weights(folder, name, state, keep=()):
    os.makedirs(folder, exist_ok=True)
    out = {k: (v.float() if k in keep else v.to(torch.bfloat16)).contiguous() for k, v in state.items()}
    save_file(out, os.path.join(folder, name), metadata={"format": "pt"})
    os.chmod(os.path.join(folder, name), 0o644)
    return sum(v.numel() for v in out.values())


def export(folder, model, vae, tokenizer, trained):
    """model: a training.transformer.Model; vae: an AutoencoderKLFlux2; tokenizer: a folder; -> parameters written."""
    os.makedirs(folder, exist_ok=True)
    n = weights(f"{folder}/transformer", "diffusion_pytorch_model.safetensors", interleave(model.dit.state_dict()))
    write(f"{folder}/transformer/config.json",
          {"_class_name": "Flux2Transformer2DModel", "_diffusers_version": "0.42.1", "out_channels": None, **CONFIG})
    state = {k: v for k, v in vae.state_dict().items() if not k.endswith("num_batches_tracked")}
    n += weights(f"{folder}/vae", "diffusion_pytorch_model.safetensors", state, ("bn.running_mean", "bn.running_var"))
    blocks = len(VAE_CONFIG["block_out_channels"])
    write(f"{folder}/vae/config.json", {
        "_class_name": "AutoencoderKLFlux2", "_diffusers_version": "0.42.1", "in_channels": 3, "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * blocks, "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "batch_norm_eps": 1e-4,
        "batch_norm_momentum": 0.1, "patch_size": [2, 2], "force_upcast": True, **VAE_CONFIG})
    text = {k: v.clone() for k, v in model.text.lm.state_dict().items() if k != "lm_head.weight"}
    for k in text:  # the layers behind the last tap are never run
        if k.startswith("model.layers.") and int(k.split(".")[2]) >= max(TAPS):
            text[k] = torch.zeros_like(text[k])
    n += weights(f"{folder}/text_encoder", "model.safetensors", text)
    write(f"{folder}/text_encoder/config.json", {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu", "rope_theta": 10000.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "attention_dropout": 0.0,
        "initializer_range": 0.02, "use_cache": False, "dtype": "bfloat16", "torch_dtype": "bfloat16", **TEXT_CONFIG})
    os.makedirs(f"{folder}/tokenizer", exist_ok=True)
    for f in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(f"{tokenizer}/{f}", f"{folder}/tokenizer/{f}")
    os.makedirs(f"{folder}/scheduler", exist_ok=True)
    write(f"{folder}/scheduler/scheduler_config.json", {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "_diffusers_version": "0.42.1", "base_image_seq_len": 256,
        "base_shift": 0.5, "invert_sigmas": False, "max_image_seq_len": 4096, "max_shift": 1.15,
        "num_train_timesteps": 1000, "shift": 3.0, "shift_terminal": None, "stochastic_sampling": False,
        "time_shift_type": "exponential", "use_beta_sigmas": False, "use_dynamic_shifting": True,
        "use_exponential_sigmas": False, "use_karras_sigmas": False})
    write(f"{folder}/model_index.json", {
        "_class_name": "Flux2Pipeline", "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "MistralForCausalLM"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"], "vae": ["diffusers", "AutoencoderKLFlux2"]})
    write(f"{folder}/limn.json", {
        "limn": 1, "name": "pictogram", "system_message": SYSTEM_MESSAGE, "text_taps": list(TAPS),
        "text_length": TEXT_LENGTH, "default_size": "128x128", "sizes": ["128x128"], "steps": 8, "guidance": GUIDANCE,
        "sigmas": TURBO, "reference_area": 16384, "trained": trained, "licence": "Apache-2.0",
        "software": "AI generated;limn", "make": "limn"})
    return n


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="build/training/model.pt")
    ap.add_argument("--autoencoder", default="build/training/autoencoder.pt")
    ap.add_argument("--tokenizer", default="build/training/tokenizer")
    ap.add_argument("--out", default="models/pictogram")
    ap.add_argument("--untrained", action="store_true", help="say in limn.json that the pictures mean nothing yet")
    a = ap.parse_args()
    ck, av = load(a.model), load(a.autoencoder)
    model = Model()
    model.load_state_dict(ck["model"])
    vae = build(np.zeros(128), np.ones(128))
    vae.load_state_dict(av["model"])
    n = export(a.out, model, vae, a.tokenizer, not a.untrained)
    print(f"{n} parameters, {ck['step']} transformer steps, {ck['seen']} samples, {av['step']} decoder steps")


if __name__ == "__main__":
    main()
