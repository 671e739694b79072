#!/usr/bin/env python3
"""Draws entries of the held-out list with limn, lets the judge read the pictures, and prints facts held of facts asked.

A class passes when its share is not below the share that models/pictogram/figures.json records for the whole list, less
three standard deviations of a sample of this size: so a broken engine or broken weights fail, and luck does not. Every
picture that limn draws as asked passes too. The last line counts: "N passed, N failed"."""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

import numpy as np
from PIL import Image

from training.judge import heldout, judge
from training.world import draw


def limn(binary, model, words, out):
    """-> (picture or None, what went wrong)."""
    done = subprocess.run([binary, *words, "--model", model, "-o", out], capture_output=True, text=True, timeout=300)
    if done.returncode:
        return None, (done.stderr or done.stdout).strip()
    with open(out, "rb") as f:
        picture = np.asarray(Image.open(io.BytesIO(f.read())).convert("RGB"))
    return (picture, None) if picture.shape == (128, 128, 3) else (None, f"a picture of shape {picture.shape}")


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--limn", required=True, help="the limn program")
    ap.add_argument("--model", default=os.path.join(ROOT, "models/pictogram"))
    ap.add_argument("--count", type=int, default=12, help="pictures; every fourth is a pose-and-character edit")
    ap.add_argument("--all", action="store_true", help="the whole list: 500 captions and 200 edits")
    ap.add_argument("--out", help="write the figures here as JSON")
    a = ap.parse_args()
    lists = heldout.load()
    n_edits = 200 if a.all else a.count // 4
    n_caps = 500 if a.all else a.count - n_edits
    caps = [lists["captions"][i] for i in np.linspace(0, 499, n_caps).astype(int)]
    eds = [lists["edits"][i] for i in np.linspace(0, 199, n_edits).astype(int)]
    table, drawn, broken = {}, 0, 0

    def tally(cls, held):
        t = table.setdefault(cls, [0, 0])
        t[0] += int(held)
        t[1] += 1

    with tempfile.TemporaryDirectory() as tmp:
        out = os.path.join(tmp, "out.png")
        for e in caps + eds:
            words = ["edit" if "refs" in e else "generate", e.get("caption") or e["prompt"], "--seed", str(e["seed"])]
            for k, ref in enumerate(e.get("refs", [])):
                path = os.path.join(tmp, f"ref{k}.png")
                Image.fromarray(draw.draw(ref)).save(path)
                words += ["-i", path]
            picture, why = limn(a.limn, a.model, words, out)
            drawn, broken = drawn + (picture is not None), broken + (picture is None)
            if picture is None:
                print(f"not drawn: {words[1]!r}: {why}")
                continue
            v = judge.verdict(picture, e.get("scene") or e["target"])
            if "refs" in e:
                held = {f[0]: h for _, f, h in v}
                tally("edits: pose and character", all(held[k] for k in ("pose", "hair", "shirt", "trousers")))
            else:
                for cls, _, h in v:
                    tally(cls, h)
    with open(os.path.join(a.model, "figures.json")) as f:
        figures = json.load(f)
    passed, failed = drawn, broken
    for cls, (h, n) in sorted(table.items()):
        share = figures[cls]["held"] / figures[cls]["of"]
        least = share - 3 * (max(share * (1 - share), 0.01) / n) ** 0.5
        good = h / n >= least
        passed, failed = passed + good, failed + (not good)
        print(f"{cls}: {h} of {n} facts held ({100 * h / n:.1f} %; the whole list: {100 * share:.1f} %)"
              + ("" if good else f"  below {100 * least:.1f} %"))
    if a.out:
        with open(a.out, "w") as f:
            json.dump({k: {"held": h, "of": n} for k, (h, n) in sorted(table.items())}, f, indent=1)
            f.write("\n")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not drawn else 0


if __name__ == "__main__":
    sys.exit(main())
