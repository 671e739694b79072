"""Makes the checkpoints of training again from a model folder that export.py wrote, so that training can go on where only
the folder is left. Weights come back as bf16 values; the optimisers begin anew."""

import argparse

import torch
from safetensors.torch import load_file

from training.common import save
from training.transformer import HEAD, HEADS, WIDTH, Model


def split_pairs(state):
    """The inverse of transformer.interleave: from pairs (2 i, 2 i + 1) of a head's channels to pairs (i, i + HEAD / 2)."""
    order = torch.arange(HEAD).view(HEAD // 2, 2).T.flatten()  # training's channel k HEAD / 2 + i is the file's 2 i + k
    rows = (torch.arange(HEADS)[:, None] * HEAD + order).flatten()
    out = {}
    for name, t in state.items():
        if name.endswith(("norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")):
            t = t[order]
        elif name.endswith(("to_q.weight", "to_k.weight", "add_q_proj.weight", "add_k_proj.weight")):
            t = t[rows]
        elif name.endswith("to_qkv_mlp_proj.weight"):
            t = torch.cat([t[:WIDTH][rows], t[WIDTH:2 * WIDTH][rows], t[2 * WIDTH:]])
        out[name] = t
    return out


def read(folder):
    """-> a training.transformer.Model with the folder's transformer and text encoder, in f32."""
    model = Model()
    dit = load_file(f"{folder}/transformer/diffusion_pytorch_model.safetensors")
    model.dit.load_state_dict(split_pairs({k: v.float() for k, v in dit.items()}))
    text = {k: v.float() for k, v in load_file(f"{folder}/text_encoder/model.safetensors").items()}
    missing, unknown = model.text.lm.load_state_dict(text, strict=False)
    if unknown or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"{folder}/text_encoder: missing {missing}, unknown {unknown}")
    return model


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--folder", default="models/pictogram")
    ap.add_argument("--out", default="build/training/model.pt")
    a = ap.parse_args()
    state = read(a.folder).state_dict()
    save(a.out, {"model": state, "raw": state, "ema": None, "step": 0, "share": 0.0, "seen": 0})


if __name__ == "__main__":
    main()
