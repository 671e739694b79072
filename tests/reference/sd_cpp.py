"""Holds limn against stable-diffusion.cpp on a small model of the shape of FLUX.2 [klein], in files that `limn convert` wrote.

    sd_cpp.py --limn PROGRAM --sd-cli PROGRAM --tokenizer FOLDER --vae FILE [TYPE]...

Weights of transformer and text encoder are random; stable-diffusion.cpp reads their sizes off the tensors, but for heads of 128, 32 of
queries and 8 of keys in the text encoder. FOLDER is the tokenizer of a published [klein] model and FILE the published autoencoder in
diffusers' names, since stable-diffusion.cpp has the vocabulary and the statistics of the latents in its code. Both programs draw the
same prompt from the same noise; every row is a type: the most and the mean that the pictures differ by, in levels of 255.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

import make_models

PROMPT, SEED, STEPS, SIDE = "a red circle above a blue square", 5, 2, 128
LAYERS, VOCABULARY = 30, 151936
# Activations are rounded to 8 bits before each product there, and to 16 in convolutions.
LEVELS, MEAN = 3, 0.5


def make_model(folder, tokenizer, vae):
    """A distilled [klein] in f32 with the tokenizer and the autoencoder that are given."""
    spec = dict(seed=41, klein="distilled", heads=2, head_dim=128, axes=[32] * 4, double=2, single=3, mlp_ratio=3.0, guidance=False,
                latent=32, vae=[128, 256, 512, 512], decoder=None, groups=32, layers_per_block=2,
                text=make_models.text_shape(256, LAYERS, 32, 8, 512, "model.", "qwen3", head_dim=128, theta=1e6, eps=1e-6, new_rope=True),
                taps=[9, 18, 27], length=512, vocabulary=VOCABULARY - 10, pattern="qwen", ignore_merges=False, shards=1,
                limn=dict(default_size=f"{SIDE}x{SIDE}", steps=STEPS))
    fill, train = make_models.fill_linear, make_models.tokenizers_small.train

    def small(module, rules, generator):
        """So many layers add up: each adds less."""
        fill(module, [("o_proj", 0.3), ("down_proj", 0.3), *rules], generator)

    make_models.fill_linear, make_models.tokenizers_small.train = small, lambda *_: train("qwen", 620, False)
    try:
        model = next(iter(make_models.write_model(folder, "klein", spec, [torch.float32])))
    finally:
        make_models.fill_linear, make_models.tokenizers_small.train = fill, train
    shutil.rmtree(model / "tokenizer")
    shutil.copytree(tokenizer, model / "tokenizer")
    shutil.copy(vae, model / "vae/diffusion_pytorch_model.safetensors")
    return model


def draw_with_limn(limn, model, files, scratch):
    folder = scratch / "form"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in files:
        (folder / file.name).symlink_to(file)
    (folder / "vae").symlink_to(model / "vae")
    settings = json.loads((model / "limn.json").read_text())
    (folder / "limn.json").write_text(json.dumps({**settings, "pipeline": "Flux2KleinPipeline", "distilled": True}))
    out = scratch / "limn.safetensors"
    subprocess.run([limn, "dump", "--model", folder, "--prompt", PROMPT, "--seed", str(SEED), "--compute", "f32", "-o", out], check=True)
    return load_file(out)["picture"].astype(int)


def draw_with_sd(sd, model, files, scratch):
    out = scratch / "sd.png"
    words = [sd, "--diffusion-model", files[0], "--llm", files[1], "--vae", model / "vae/diffusion_pytorch_model.safetensors", "-p", PROMPT,
             "-W", SIDE, "-H", SIDE, "--steps", STEPS, "--seed", SEED, "--cfg-scale", 1, "--rng", "cpu", "--sampling-method", "euler", "-o", out]
    run = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{sd}: exit status {run.returncode}: {(run.stdout + run.stderr)[-1000:]}")
    return np.array(Image.open(out).convert("RGB")).astype(int)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--limn", required=True, help="the program")
    arguments.add_argument("--sd-cli", required=True, help="stable-diffusion.cpp's program")
    arguments.add_argument("--tokenizer", required=True, type=pathlib.Path)
    arguments.add_argument("--vae", required=True, type=pathlib.Path)
    arguments.add_argument("types", nargs="*", default=["F32", "Q8_0", "Q4_K"])
    options = arguments.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="limn-sd-cpp-") as scratch:
        scratch = pathlib.Path(scratch)
        model = make_model(scratch, options.tokenizer, options.vae)
        for kind in options.types:
            files = [scratch / f"{part}-{kind}.gguf" for part in ("transformer", "text_encoder")]
            for file in files:
                subprocess.run([options.limn, "convert", "-q", model, "-o", file, "--part", file.name.split("-")[0], "--type", kind], check=True)
            mine, theirs = draw_with_limn(options.limn, model, files, scratch), draw_with_sd(options.sd_cli, model, files, scratch)
            off = np.abs(mine - theirs)
            good = off.max() <= LEVELS and off.mean() <= MEAN and mine.std() > 10
            failed += not good
            print(f"{'ok' if good else 'FAIL':4} {kind:5} at most {off.max()} levels, {off.mean():.3f} on average; deviation of the picture "
                  f"{mine.std():.0f}", flush=True)
    print(f"{len(options.types) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
