#!/usr/bin/env python3
"""Draws the same pictures with a model's weights in every type that `limn convert` writes, and prints how far each type's pictures
lie from those of the model as it is: the mean and the largest difference of a value, in levels of 255.

    python bench/weight_types.py [--model models/pictogram] [--limn build/release/limn] [--count 24]

Needs numpy and Pillow."""

import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
TYPES = ["F32", "BF16", "F16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"]


def draw(limn, model, entries, out, *more):
    pictures = []
    for entry in entries:
        subprocess.run([limn, "generate", entry["caption"], "--seed", str(entry["seed"]), "--model", model, "-q", "-o", out, *more],
                       check=True, stderr=subprocess.DEVNULL)
        pictures.append(np.asarray(Image.open(out).convert("RGB")).astype(int))
    return np.stack(pictures)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default=ROOT / "models/pictogram")
    ap.add_argument("--limn", default=ROOT / "build/release/limn")
    ap.add_argument("--count", type=int, default=24)
    a = ap.parse_args()
    captions = json.loads((ROOT / "training/judge/heldout.json").read_text())["captions"]
    entries = [captions[i] for i in np.linspace(0, len(captions) - 1, a.count).astype(int)]
    print("| type | transformer and text encoder | mean difference | largest |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.png"
        own = draw(a.limn, a.model, entries, out)
        for name in TYPES:
            model = pathlib.Path(folder) / name
            subprocess.run([a.limn, "convert", a.model, "-o", model, "--type", name, "-q"], check=True)
            size = sum(f.stat().st_size for part in ("transformer", "text_encoder") for f in (model / part).glob("*.*") if f.suffix != ".json")
            off = np.abs(draw(a.limn, model, entries, out) - own)
            print(f"| {name} | {size / 1e6:.1f} MB | {off.mean():.3f} | {off.max()} |", flush=True)
        for compute in ("f32", "int8"):
            off = np.abs(draw(a.limn, a.model, entries, out, "--compute", compute) - own)
            print(f"| as it is, computed in {compute} | | {off.mean():.3f} | {off.max()} |", flush=True)


if __name__ == "__main__":
    main()
