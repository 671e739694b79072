"""Trains the autoencoder's decoder on pictures of the world.

The encoder is not trained: analysis.py writes a fixed linear map into it. So the latents are known before any training,
the transformer can train beside the decoder, and a decoder step costs no encoder. The decoder sees its latents with
noise added, so that small errors of the transformer do not show; with --pairs it goes on with what a finished transformer
makes of captions (drawn.py) in part of each batch, and looks harder at small shapes.
"""

import argparse
import pickle
import time

import numpy as np
import torch
from diffusers import AutoencoderKLFlux2

from training.analysis import analyse, build_encoder, unpatchify
from training.common import Clock, Ema, Mixer, Muon, feed, load, run_workers, save, setup
from training.fast import quicken
from training.latents import normalisation
from training.world import draw, scenes
from training.world.names import SIZES

CONFIG = dict(block_out_channels=(16, 32, 64, 128), layers_per_block=1, latent_channels=32, norm_num_groups=8,
              sample_size=128, mid_block_add_attention=True)


class Source:
    """Batches for the decoder: plain pictures of the world, and pairs of a drawn latent with the picture that it means."""

    def __init__(self, rng, batch, pairs=(), share=0.5, emphasis=0.0):
        """pairs: [(scene, latent tokens [64, 128], normalised)]; share: of them in a batch; emphasis: see `importance`."""
        self.rng, self.batch, self.pairs, self.emphasis = rng, batch, pairs, emphasis
        self.drawn = int(round(share * batch)) if pairs else 0
        self.mean, self.var = normalisation() if pairs else (None, None)

    def __call__(self):
        """-> pictures uint8 [B, 128, 128, 3], latents of the first drawn ones [drawn, 32, 16, 16], weights of the pixels
        [B, 128, 128] or None."""
        rng = self.rng
        chosen = [self.pairs[i] for i in rng.integers(len(self.pairs), size=self.drawn)] if self.drawn else []
        every = [sc for sc, _ in chosen] + [scenes.random_scene(rng) for _ in range(self.batch - self.drawn)]
        z = untoken(np.stack([t for _, t in chosen]), self.mean, self.var) if chosen else None
        weights = np.stack([importance(sc, self.emphasis) for sc in every]) if self.emphasis else None
        return np.stack([draw.draw(sc) for sc in every]), z, weights


def importance(scene, emphasis):
    """How much each pixel counts, float32 [128, 128]: 1, and around a shape up to [emphasis] more, as its size is to that of a
    medium one inversely: small shapes have few pixels, and form is what they are known by."""
    w = np.ones((draw.SIDE, draw.SIDE), np.float32)
    for s in scene.get("shapes", ()):
        y0, x0, m = draw.shape_coverage(s["shape"], s["x"], s["y"], s["r"])
        w[y0:y0 + m.shape[0], x0:x0 + m.shape[1]] = 1 + emphasis * (SIZES["medium"] / s["r"]) ** 2
    return w


def busiest(u8, rng):
    """Of three 64 x 64 crops of a picture the one in which most happens: backgrounds are learnt soon, forms are not."""
    crops = [u8[r:r + 64, c:c + 64] for r, c in rng.integers(0, 65, (3, 2))]
    return max(crops, key=lambda crop: crop[::2, ::2].std((0, 1)).sum())


def to_tensor(u8, device):
    x = torch.from_numpy(u8).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return x.contiguous(memory_format=torch.channels_last)


def untoken(t, mean, var):
    """Normalised latent tokens [B, 64, 128] to the decoder's latents float32 [B, 32, 16, 16]."""
    p = t.astype(np.float32).transpose(0, 2, 1).reshape(len(t), 128, 8, 8)
    return unpatchify(p * np.sqrt(var + 1e-4)[:, None, None] + mean[:, None, None]).astype(np.float32)


def decode(vae, z):
    return vae.decoder(vae.post_quant_conv(z))


def build(mean, var):
    """The autoencoder with its fixed encoder and statistics, the decoder untrained."""
    vae = AutoencoderKLFlux2(**CONFIG)
    build_encoder(vae)
    vae.bn.running_mean.copy_(torch.from_numpy(mean).float())
    vae.bn.running_var.copy_(torch.from_numpy(var).float())
    return vae


def trained(vae):
    return list(vae.decoder.parameters()) + list(vae.post_quant_conv.parameters())


def psnr(vae, u8, device, batch=16):
    """Mean over pictures of the peak signal-to-noise ratio in dB after a trip through the autoencoder."""
    out = []
    with torch.no_grad():
        for i in range(0, len(u8), batch):
            z = torch.from_numpy(analyse(u8[i:i + batch])).to(device)
            y = decode(vae, z).clamp(-1, 1)
            mse = ((to_tensor(u8[i:i + batch], device) - y) / 2).square().mean((1, 2, 3))
            out += (-10 * torch.log10(mse)).tolist()
    return float(np.mean(out))


def work(rank, a, shared, lock):
    ck, pairs = load(a.out), []
    if a.pairs:
        with open(a.pairs, "rb") as f:
            pairs = pickle.load(f)

    def make(k):
        rng = np.random.default_rng((ck["step"] if ck else 0, rank, k))
        return Source(rng, a.batch, pairs, a.share, a.emphasis)

    supply = feed(make, a.feeders)
    next(supply)  # the feeding processes start before the device does
    dev = setup(a.device, 1 if shared is not None else a.threads)
    torch.manual_seed(rank)
    mean, var = normalisation()
    vae = build(mean, var)
    if a.begin and not ck:
        vae.load_state_dict(load(a.begin)["model"])
    vae = vae.to(dev).to(memory_format=torch.channels_last).eval()
    spread = torch.from_numpy(np.sqrt(var + 1e-4)).float().view(32, 4).mean(1).view(1, 32, 1, 1).to(dev)
    if dev.type == "cpu":
        quicken(vae)
    params = trained(vae)
    wide = [p for p in params if p.dim() > 1 and min(p.flatten(1).shape) >= 16]
    muon = Muon(wide)
    chosen = {id(p) for p in wide}
    opt = torch.optim.AdamW([p for p in params if id(p) not in chosen], lr=a.lr, betas=(0.9, 0.99), weight_decay=0.0)
    ema = Ema(params, 0.998)
    step, done = 0, 0.0
    if ck is not None:
        vae.load_state_dict(ck["raw"])
        if "muon" in ck:
            opt.load_state_dict(ck["opt"])
            for b, c in zip(muon.buf, ck["muon"]):
                b.copy_(c)
        ema.avg, ema.steps, step, done = [t.to(dev) for t in ck["ema"]], ck["step"], ck["step"], ck["share"]
    mixer = Mixer(params, shared, lock)
    rng = np.random.default_rng(1000 + step * 7 + rank)
    held = np.stack([draw.draw(scenes.random_scene(np.random.default_rng(10 ** 6 + i), True)) for i in range(64)])
    clock = Clock(a.minutes * 60)
    last, t0, run, seen = time.time(), time.time(), 0.0, 0

    def checkpoint(share):
        raw = {k: v.clone() for k, v in vae.state_dict().items()}
        ema.copy_to(params)
        print(f"step {step} held-out psnr {psnr(vae, held, dev):.2f} dB", flush=True)
        save(a.out, {"model": vae.state_dict(), "raw": raw, "opt": opt.state_dict(), "ema": ema.avg, "muon": muon.buf,
                     "step": step, "share": share, "config": CONFIG})
        vae.load_state_dict(raw)

    while True:
        share = done + (1 - done) * clock.share()
        if share >= 1:
            break
        rate = min(1, (step + 1) / 100) * (1 if share < 0.5 else max(0.02, 2 * (1 - share)))
        for g in opt.param_groups:
            g["lr"] = a.lr * rate
        u8, drawn, weights = next(supply)
        if share < a.crops and drawn is None:
            u8, weights = np.stack([busiest(u8[i // 2], rng) for i in range(2 * len(u8))]), None
        x = to_tensor(u8, dev)
        z = torch.from_numpy(analyse(u8)).to(dev)
        z = z + torch.randn_like(z) * torch.rand(len(z), 1, 1, 1, device=dev) * a.noise * spread
        if drawn is not None:
            z[:len(drawn)] = torch.from_numpy(drawn).to(dev)
        with torch.autocast(dev.type, torch.bfloat16):
            y = decode(vae, z.contiguous(memory_format=torch.channels_last))
        d = y.float() - x
        each = d.square().mean(1) + 0.1 * d.abs().mean(1)
        loss = (each if weights is None else each * torch.from_numpy(weights).to(dev)).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        muon.step(a.lr * rate)
        step, seen = step + 1, seen + a.batch
        mixer.mix(step)
        ema.update(params)
        plain = d.detach()[0 if drawn is None else len(drawn):]
        run = 0.98 * run + 0.02 * float(plain.square().mean() / 4)
        if rank == 0 and step % 50 == 0:
            print(f"step {step} {clock.spent():.0f}s loss {loss.item():.5f} "
                  f"train psnr (noisy latents) {-10 * np.log10(run / (1 - 0.98 ** step)):.2f} "
                  f"{seen / (time.time() - t0):.1f} pictures/s a worker", flush=True)
            t0, seen = time.time(), 0
        if rank == 0 and time.time() - last > 180:
            checkpoint(share)
            last = t0 = time.time()
            seen = 0
    if rank == 0:
        checkpoint(1.0)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=2, help="threads, where there is one worker")
    ap.add_argument("--workers", type=int, default=1, help="one-thread workers that share the model (CPU)")
    ap.add_argument("--feeders", type=int, default=0, help="processes that draw pictures (for a GPU)")
    ap.add_argument("--minutes", type=float, default=25)
    ap.add_argument("--batch", type=int, default=16)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--crops", type=float, default=0.3,
                    help="share of the time spent on 64 x 64 crops, two a picture: four times the steps in the same time")
    ap.add_argument("--noise", type=float, default=0.2, help="largest noise on the latents, in normalised units")
    ap.add_argument("--begin", help="begin with the weights of this checkpoint")
    ap.add_argument("--pairs", help="latents drawn by a transformer, and their scenes (drawn.py)")
    ap.add_argument("--share", type=float, default=0.5, help="share of a batch that these are")
    ap.add_argument("--emphasis", type=float, default=0.0, help="how much more the pixels of a medium shape count")
    ap.add_argument("--out", default="build/training/autoencoder.pt")
    a = ap.parse_args()
    numel = sum(p.numel() for p in trained(AutoencoderKLFlux2(**CONFIG)))
    print("parameters", numel, flush=True)
    run_workers(work, a, numel, a.workers)


if __name__ == "__main__":
    main()
