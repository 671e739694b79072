#!/usr/bin/env python3
"""Draws the same pictures with a model's weights in every type that `limn convert` writes, and prints how far each type's pictures
lie from those of the model as it is: the mean and the largest difference of a value, in levels of 255. Beside each type stands
where it went: matrices whose rows are no whole number of its blocks have another one.

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
TYPES = ["F32", "BF16", "F16", "F8_E4M3", "F8_E4M3 --row-scales", "F8_E5M2", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "NVFP4", "NF4",
         "Q4_K", "IQ4_XS", "IQ4_NL", "Q4_1", "Q4_0", "Q3_K", "Q2_K"]
PLAIN = {"F32", "BF16", "F16", "I64"}


def placed(limn, model, name):
    """Which parts' matrices have the type, and what the others have instead."""
    text = subprocess.run([limn, "inspect", "--json", model], check=True, capture_output=True, text=True).stdout
    places = []
    for part in json.loads(text)["parts"]:
        if part["part"] not in ("transformer", "text_encoder"):
            continue
        types = {kind: count["values"] for kind, count in part["totals"]["types"].items() if kind not in PLAIN or kind == name}
        if name in PLAIN:
            types = {name: types[name]}
        total = sum(types.values())
        shares = [kind if values == total else f"{kind} {100 * values / total:.0f} %" for kind, values in sorted(types.items(), key=lambda t: -t[1])]
        places.append(", ".join(shares))
    return places[0] if places[0] == places[1] else f"{places[0]}; text encoder {places[1]}"



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
    print("| `--type` | matrices | transformer and text encoder | mean difference | largest |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.png"
        own = draw(a.limn, a.model, entries, out)
        for name in TYPES:
            model = pathlib.Path(folder) / name
            subprocess.run([a.limn, "convert", a.model, "-o", model, "-q", "--type", *name.split()], check=True)
            size = sum(f.stat().st_size for part in ("transformer", "text_encoder") for f in (model / part).glob("*.*") if f.suffix != ".json")
            off = np.abs(draw(a.limn, model, entries, out) - own)
            print(f"| {name} | {placed(a.limn, model, name.split()[0])} | {size / 1e6:.1f} MB | {off.mean():.3f} | {off.max()} |", flush=True)
        for compute in ("f32", "int8"):
            off = np.abs(draw(a.limn, a.model, entries, out, "--compute", compute) - own)
            print(f"| as it is, computed in {compute} | | | {off.mean():.3f} | {off.max()} |", flush=True)


if __name__ == "__main__":
    main()
