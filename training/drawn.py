"""Draws with a finished transformer and finds, for each latent that comes out, the picture of the world that it means.

A decoder trained on true latents has never seen what the transformer makes of them: at small shapes, a token wide, that is
another thing than noise. So true latents are noised to one of the levels of the eight steps, pure noise among
them, the remaining steps are run with the caption, and the scene's positions and sizes, of which captions do not speak, are
moved to where the result has them (least squares over the latents). autoencoder.py learns on these pairs beside plain ones.
"""

import argparse
import copy
import functools
import multiprocessing
import os
import pickle
import time

import numpy as np
import torch

from training.common import load, setup
from training.fit import fit
from training.latents import normalisation, tokens
from training.text import pack
from training.tokenizer import Encoder
from training.transformer import GUIDANCE, TURBO, Model, shifted
from training.world import captions, draw, scenes

LEVELS = shifted(TURBO, 8)
STARTS = [(0, 0.55), (3, 0.15), (4, 0.15), (5, 0.15)]  # (index of the first level, share of the pairs)
SEVERAL = [("pair", 0.38), ("row", 0.12), ("column", 0.08), ("inside", 0.2), ("places", 0.22)]  # layouts of several shapes
MET = 0.1  # a shape is there if the latents hold at least this share of what drawing it changes


def open_model(path, device):
    """A checkpoint of the transformer, for drawing in bf16."""
    model = Model()
    model.load_state_dict(load(path)["model"])
    half = copy.deepcopy(model).to(torch.bfloat16).to(device).requires_grad_(False)
    half.text.cos, half.text.sin = model.text.cos.to(device), model.text.sin.to(device)  # stay f32
    return half


@torch.no_grad()
def sample(model, encoder, prompts, x, first, guidance=GUIDANCE):
    """Runs the eight steps from level number `first` on. x: [B, 64, 128] f32 at that level -> latents of the same shape."""
    ids, lengths = (torch.from_numpy(t).to(x.device) for t in pack(encoder, prompts))
    context = model.text(ids, lengths)
    scale = torch.full((len(x),), guidance, device=x.device)
    levels = LEVELS[first:] + [0.0]
    for now, then in zip(levels, levels[1:]):
        v = model.velocity(x.bfloat16(), None, torch.full_like(scale, now), scale, context)
        x = x + (then - now) * v.float()
    return x


def _fit_one(job, mean, var):
    return fit(*job, mean, var)


def chosen(rng, table):
    shares = np.array([share for _, share in table])
    return table[rng.choice(len(table), p=shares / shares.sum())][0]


def wanted(rng, people, single):
    u = rng.random()
    if u < people:
        return scenes.random_person(rng)
    return scenes.random_shapes(rng, layout="single" if u < people + single else chosen(rng, SEVERAL))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--processes", type=int, default=1, help="processes that fit scenes to latents, while the next are drawn")
    ap.add_argument("--pairs", type=int, default=8000)
    ap.add_argument("--minutes", type=float, default=60, help="stop here, with fewer pairs")
    ap.add_argument("--batch", type=int, default=32)
    ap.add_argument("--people", type=float, default=0.15, help="share of people among the pictures")
    ap.add_argument("--single", type=float, default=0.12, help="share of single shapes")
    ap.add_argument("--seed", type=int, default=31)
    ap.add_argument("--model", default="build/training/model.pt")
    ap.add_argument("--tokenizer", default="build/training/tokenizer")
    ap.add_argument("--out", default="build/training/drawn.pkl")
    a = ap.parse_args()
    mean, var = normalisation()
    rng, t0 = np.random.default_rng(a.seed), time.time()
    with multiprocessing.Pool(a.processes) as workers:  # forked before the device is touched
        dev = setup(a.device, a.threads)
        torch.manual_seed(a.seed)
        model, enc = open_model(a.model, dev), Encoder(a.tokenizer)

        def draw_batch():
            first = chosen(rng, STARTS)
            part = [wanted(rng, a.people, a.single) for _ in range(a.batch)]
            true = torch.from_numpy(tokens(np.stack([draw.draw(sc) for sc in part]), mean, var)).float().to(dev)
            x = torch.lerp(true, torch.randn_like(true), LEVELS[first])
            return part, sample(model, enc, [captions.caption(sc, rng) for sc in part], x, first).cpu().numpy()

        found, drawn, waiting = [], 0, None
        while len(found) < a.pairs and time.time() - t0 < a.minutes * 60:
            part, x = draw_batch()
            before, waiting = waiting, (x, workers.map_async(functools.partial(_fit_one, mean=mean, var=var), list(zip(part, x))))
            if before is None:
                continue
            for latent, (scene, held) in zip(before[0], before[1].get()):
                if held >= MET:
                    found.append((scene, latent.astype(np.float16)))
            drawn += a.batch
            if drawn // a.batch % 20 == 1:
                print(f"{len(found)} of {a.pairs} pairs, {drawn} drawn, {drawn / (time.time() - t0):.1f}/s", flush=True)
    with open(a.out + ".part", "wb") as f:
        pickle.dump(found, f)
    os.replace(a.out + ".part", a.out)
    print(f"{len(found)} pairs of {drawn} drawn", flush=True)


if __name__ == "__main__":
    main()
