"""Writes the held-out list: 500 captions and 200 pose-and-character edits, each with a combination that training never
shows and the seed of the one picture that is drawn for it. The list is frozen: heldout.json is what counts, this script
says how it came to be."""

import json
import os

import numpy as np

from training.world import captions, edits, scenes

PATH = os.path.join(os.path.dirname(__file__), "heldout.json")
COUNTS = [("single", 170), ("pair", 90), ("row", 25), ("column", 20), ("inside", 25), ("person", 170)]


def rounded(x):
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [rounded(v) for v in x]
    return round(x, 2) if isinstance(x, float) else x


def make():
    rng = np.random.default_rng(20261122)
    out = {"captions": [], "edits": []}
    for layout, n in COUNTS:
        for _ in range(n):
            sc = scenes.random_person(rng, True) if layout == "person" else scenes.random_shapes(rng, True, layout)
            out["captions"].append({"class": layout, "caption": captions.caption(sc, rng), "scene": rounded(sc),
                                    "seed": 1000 + len(out["captions"])})
    for _ in range(200):
        e = edits.random_edit(rng, "pose character", True)
        out["edits"].append({"prompt": e["prompt"], "refs": rounded(e["refs"]), "target": rounded(e["target"]),
                             "seed": 5000 + len(out["edits"])})
    return out


def load():
    with open(PATH) as f:
        return json.load(f)


if __name__ == "__main__":
    with open(PATH, "w") as f:
        json.dump(make(), f, separators=(",", ":"))
        f.write("\n")
