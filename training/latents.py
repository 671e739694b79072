"""Encodes a pool of pictures once, so that the transformer trains on cached latents.

The pool is a list of scenes with their normalised latents, and a list of items (task, prompt, references, target) that
point into it. A text-to-image item draws a fresh caption whenever it is used; for the pose-and-character tasks fresh
references that show the same character, hair, clothes or ground are looked up in the pool. No held-out combination is
in any picture of the pool.
"""

import argparse
import functools
import multiprocessing
import os
import pickle
import time

import numpy as np

from training.analysis import analyse, patchify, statistics
from training.world import draw, edits, scenes

# How many items of each kind at scale 1.
SHAPES, PEOPLE = 24000, 6000
EDITS = {"recolour": 1800, "move": 1800, "add": 2400, "remove": 1200, "background": 1500, "dress": 1800, "ground": 1200,
         "pose": 1500, "put": 3000, "put two": 600, "pose character": 8000, "pose character ground": 1500}


def plan(rng, scale):
    """-> (scenes, items); an item is (task or None, prompt or None, reference indices, target index)."""
    pool, items = [], []

    def keep(sc):
        pool.append(sc)
        return len(pool) - 1

    for _ in range(int(SHAPES * scale)):
        items.append((None, None, (), keep(scenes.random_shapes(rng))))
    for _ in range(int(PEOPLE * scale)):
        items.append((None, None, (), keep(scenes.random_person(rng))))
    for task, n in EDITS.items():
        for _ in range(int(n * scale)):
            e = edits.random_edit(rng, task)
            refs = e["refs"][:1] if task.startswith("pose character") else e["refs"]
            items.append((task, e["prompt"], tuple(keep(r) for r in refs), keep(e["target"])))
    return pool, items


def normalisation(n=2048):
    """Batch-norm mean and deviation, [128] each, from pictures of the world; the same numbers go into the autoencoder."""
    rng = np.random.default_rng(77)
    mean, var = statistics(np.stack([draw.draw(scenes.random_scene(rng)) for _ in range(n)]))
    return mean, var


def tokens(u8, mean, var):
    """Pictures [B, 128, 128, 3] to normalised latent tokens [B, 64, 128]."""
    p = (patchify(analyse(u8)) - mean[:, None, None]) / np.sqrt(var + 1e-4)[:, None, None]
    return p.reshape(len(p), 128, -1).transpose(0, 2, 1)


def encoded(part, mean, var):
    return tokens(np.stack([draw.draw(sc) for sc in part]), mean, var).astype(np.float16)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--scale", type=float, default=1.0, help="how many times the 80,000 pictures of the pool")
    ap.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    ap.add_argument("--seed", type=int, default=20)
    ap.add_argument("--out", default="build/training/latents")
    a = ap.parse_args()
    mean, var = normalisation()
    pool, items = plan(np.random.default_rng(a.seed), a.scale)
    out = np.lib.format.open_memmap(a.out + ".npy", mode="w+", dtype=np.float16, shape=(len(pool), 64, 128))
    t0, step = time.time(), 256
    parts = [pool[i:i + step] for i in range(0, len(pool), step)]
    with multiprocessing.Pool(a.processes) as workers:
        for k, t in enumerate(workers.imap(functools.partial(encoded, mean=mean, var=var), parts)):
            out[k * step:k * step + len(t)] = t
            if k % 25 == 0:
                print(f"{k * step} of {len(pool)}, {k * step / (time.time() - t0 + 1e-9):.0f}/s", flush=True)
    out.flush()
    np.savez(a.out + ".npz", mean=mean, var=var)
    with open(a.out + ".pkl", "wb") as f:
        pickle.dump((pool, items), f)


if __name__ == "__main__":
    main()
