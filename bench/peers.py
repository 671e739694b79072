#!/usr/bin/env python3
"""limn beside diffusers, on the CPU, in one run: a step of the FLUX.2 [klein] 4B transformer, the decoder of the FLUX.2
autoencoder, and the text encoder's 27 layers, with random bf16 weights, 512 text tokens, the same number of threads.

    python bench/peers.py [--build build/release] [--size 512] [--threads 2] [--rounds 3] [--divide 5]

The two take turns, round by round; what is printed is the median of each and their ratio. --divide runs a fifth of the
blocks (1 double, 4 single) on both sides: enough to see the ratio, and 1.6 instead of 7.8 GB of weights. Needs the
packages of tests/reference/requirements.txt, and bench_model and bench_text built."""

import argparse
import re
import statistics
import subprocess
import time

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3Model

TEXT = 512


def filled(make):
    """A module whose parameters are random and small, made without PyTorch's slow initialisation."""
    with torch.device("meta"):
        module = make().to(torch.bfloat16)
    module = module.to_empty(device="cpu").eval()
    for p in module.parameters():
        p.data.uniform_(-0.02, 0.02)
    for b in module.buffers():
        b.data.fill_(1)
    return module


def transformer(divide):
    return filled(lambda: Flux2Transformer2DModel(
        patch_size=1, in_channels=128, num_layers=5 // divide, num_single_layers=20 // divide, attention_head_dim=128,
        num_attention_heads=24, joint_attention_dim=7680, timestep_guidance_channels=256, mlp_ratio=3.0,
        axes_dims_rope=(32, 32, 32, 32), rope_theta=2000, eps=1e-6, guidance_embeds=False))


def step(model, side):
    n = side // 16
    image = torch.zeros(n * n, 4)
    image[:, 1:3] = torch.cartesian_prod(torch.arange(n), torch.arange(n)).float()
    text = torch.zeros(TEXT, 4)
    text[:, 3] = torch.arange(TEXT)
    x, c = torch.randn(1, n * n, 128).bfloat16(), torch.randn(1, TEXT, 7680).bfloat16()
    return lambda: model(hidden_states=x, encoder_hidden_states=c, timestep=torch.tensor([0.5]).bfloat16(), guidance=None,
                         img_ids=image[None], txt_ids=text[None], return_dict=False)


def decoder(side):
    vae = filled(lambda: AutoencoderKLFlux2())
    z = torch.randn(1, 32, side // 8, side // 8).bfloat16()
    return lambda: vae.decode(z, return_dict=False)


def text_encoder():
    model = filled(lambda: Qwen3Model(Qwen3Config(
        vocab_size=1024, hidden_size=2560, intermediate_size=9728, num_hidden_layers=27, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128)))
    ids = torch.arange(TEXT)[None]
    return lambda: model(input_ids=ids, use_cache=False)


def limn(command, pattern):
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True).stdout
    found = re.search(pattern, out)
    if not found:
        raise SystemExit(f"{command[0]}: no line like {pattern!r} in its output:\n{out}")
    return float(found.group(1))


def compare(name, peer, own, rounds):
    peers, owns = [], []
    with torch.no_grad():
        peer()  # the first run allocates and packs
        for _ in range(rounds):
            owns.append(own())
            start = time.perf_counter()
            peer()
            peers.append(time.perf_counter() - start)
    a, b = statistics.median(owns), statistics.median(peers)
    print(f"{name:28s} limn {a:7.3f} s, diffusers {b:7.3f} s: {b / a:.2f} times as fast", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--build", default="build/release")
    ap.add_argument("--size", type=int, default=512)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--divide", type=int, default=5, choices=(1, 5))
    ap.add_argument("--only", choices=("step", "decode", "text"))
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    base = [f"{a.build}/bench_model", "--threads", a.threads, "--rounds", 1, "--sizes", a.size]
    size = f"{a.size}x{a.size}"
    if a.only in (None, "step"):
        model = transformer(a.divide)
        compare(f"step {size}" + (" (a fifth)" if a.divide == 5 else ""), step(model, a.size), lambda: limn(
            base + ["--only", "transformer", "--blocks", a.divide, f"build/bench-peers-{a.divide}"],
            rf"step {size}\s+([\d.]+) s"), a.rounds)
        del model
    if a.only in (None, "decode"):
        compare(f"decode {size}", decoder(a.size), lambda: limn(
            base + ["--only", "autoencoder", "build/bench-peers-vae"], rf"decode {size}\s+([\d.]+) s"), a.rounds)
    if a.only in (None, "text"):
        compare("text encoder, 27 layers", text_encoder(),
                lambda: limn([f"{a.build}/bench_text", a.threads, 1], r"layers: ([\d.]+) s"), a.rounds)


if __name__ == "__main__":
    main()
