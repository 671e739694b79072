"""Makes the checkpoints of training again from a model folder that export.py wrote, so that training can go on where only
the folder is left. Weights come back as bf16 values; the optimisers begin anew."""

import argparse

import numpy as np
from safetensors.torch import load_file

from training.autoencoder import build
from training.common import save
from training.transformer import Model, split_pairs


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


def read_autoencoder(folder):
    """-> its AutoencoderKLFlux2, in f32."""
    vae = build(np.zeros(128), np.ones(128))
    state = {k: v.float() for k, v in load_file(f"{folder}/vae/diffusion_pytorch_model.safetensors").items()}
    missing, unknown = vae.load_state_dict(state, strict=False)
    if unknown or set(missing) - {"bn.num_batches_tracked"}:
        raise SystemExit(f"{folder}/vae: missing {missing}, unknown {unknown}")
    return vae


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--folder", default="models/pictogram")
    ap.add_argument("--out", default="build/training/model.pt")
    ap.add_argument("--autoencoder", help="write the autoencoder's weights here, for autoencoder.py --begin")
    a = ap.parse_args()
    state = read(a.folder).state_dict()
    save(a.out, {"model": state, "raw": state, "ema": None, "step": 0, "share": 0.0, "seen": 0})
    if a.autoencoder:
        save(a.autoencoder, {"model": read_autoencoder(a.folder).state_dict(), "step": 0})


if __name__ == "__main__":
    main()
