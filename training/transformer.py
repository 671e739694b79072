"""Trains the transformer, and the text encoder with it, by flow matching on the cached latents.

Half of the noise levels are those that the eight Turbo sigmas become at this size, so that eight steps are what the
model is made for; the other half covers the whole range for other step counts. Each step has one kind of task (none,
one, two, or three to four reference images), so that shapes stay few.
"""

import argparse
import copy
import math
import pickle
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel
from torch import nn

from training.common import Clock, Ema, Mixer, Muon, feed, load, run_workers, save, setup
from training.fast import attention
from training.text import CONFIG as TEXT_CONFIG
from training.text import HIDDEN, TAPS, TextEncoder, pack
from training.tokenizer import TEXT_LENGTH, Encoder
from training.world import captions, edits

CONFIG = dict(patch_size=1, in_channels=128, num_layers=1, num_single_layers=4, attention_head_dim=32,
              num_attention_heads=8, joint_attention_dim=HIDDEN * len(TAPS), timestep_guidance_channels=256, mlp_ratio=3.0,
              axes_dims_rope=(8, 8, 8, 8), rope_theta=2000, eps=1e-6, guidance_embeds=True)
WIDTH = CONFIG["attention_head_dim"] * CONFIG["num_attention_heads"]
HEADS, HEAD = CONFIG["num_attention_heads"], CONFIG["attention_head_dim"]
GUIDANCE = 2.0  # the scale that the folder names as its own
TURBO = [1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031]
IMAGE_TOKENS = 64


def mu_of(tokens, steps):
    """The reference pipeline's dynamic shift for a picture of `tokens` tokens in `steps` steps."""
    a200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return a200
    a10 = 8.73809524e-05 * tokens + 1.89833333
    a = (a200 - a10) / 190
    return a * steps + a200 - 200 * a


def shifted(sigmas, steps, tokens=IMAGE_TOKENS):
    e = math.exp(mu_of(tokens, steps))
    return [e / (e + 1 / s - 1) for s in sigmas]


def rope(refs):
    """cos and sin, [tokens, HEAD], of text, picture and `refs` references."""
    yx = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    ids = torch.zeros(TEXT_LENGTH + IMAGE_TOKENS * (1 + refs), 4)
    ids[:TEXT_LENGTH, 3] = torch.arange(TEXT_LENGTH)
    for r in range(refs + 1):
        at = TEXT_LENGTH + r * IMAGE_TOKENS
        ids[at:at + IMAGE_TOKENS, 1:3] = yx.float()
        if r:
            ids[at:at + IMAGE_TOKENS, 0] = 10 * r
    parts = []
    for axis, dim in enumerate(CONFIG["axes_dims_rope"]):
        omega = CONFIG["rope_theta"] ** (-torch.arange(0, dim, 2).double() / dim)
        parts.append(ids[:, axis, None].double() * omega)
    angle = torch.cat(parts + parts, 1)
    return angle.cos().float(), angle.sin().float()


def sincos(v):
    w = torch.exp(-math.log(10000) * torch.arange(128, device=v.device).float() / 128)
    a = v[:, None].float() * w
    return torch.cat([a.cos(), a.sin()], 1)


def rotate(x, c, s):
    """x: [B, N, HEADS, HEAD], rotated in pairs (i, i + HEAD / 2). The published layout pairs (2 i, 2 i + 1): a fixed
    permutation of a head's channels, which `interleave` undoes at export."""
    a, b = x.chunk(2, -1)
    return x * c + torch.cat([-b, a], -1) * s


def heads(x, w, c, s):
    b, n, _ = x.shape
    x = F.rms_norm(x.view(b, n, HEADS, HEAD), (HEAD,), w, 1e-6)
    return rotate(x, c, s).transpose(1, 2)


def split(x):
    b, n, _ = x.shape
    return x.view(b, n, HEADS, HEAD).transpose(1, 2)


def reorder(state, order):
    """A transformer's state dict with the channels of a head of queries, keys and their norms in another order."""
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


def interleave(state):
    """From training's order to the published one: new channel 2 i + k is old channel k HEAD / 2 + i."""
    return reorder(state, torch.arange(HEAD).view(2, HEAD // 2).T.flatten())


def split_pairs(state):
    """The other way round."""
    return reorder(state, torch.arange(HEAD).view(HEAD // 2, 2).T.flatten())


def gated(u):
    a, b = u.chunk(2, -1)
    return F.silu(a) * b


def norm(x, scale, shift):
    return torch.addcmul(shift, F.layer_norm(x, (WIDTH,), eps=1e-6), 1 + scale)


def double_block(blk, x, c, mi, mt, cos, sin):
    at, n = blk.attn, c.shape[1]
    xm, cm = norm(x, mi[1], mi[0]), norm(c, mt[1], mt[0])
    ct, st, ci, si = cos[:n, None], sin[:n, None], cos[n:, None], sin[n:, None]
    q = torch.cat([heads(at.add_q_proj(cm), at.norm_added_q.weight, ct, st),
                   heads(at.to_q(xm), at.norm_q.weight, ci, si)], 2)
    k = torch.cat([heads(at.add_k_proj(cm), at.norm_added_k.weight, ct, st),
                   heads(at.to_k(xm), at.norm_k.weight, ci, si)], 2)
    v = torch.cat([split(at.add_v_proj(cm)), split(at.to_v(xm))], 2)
    o = attention(q, k, v).transpose(1, 2).flatten(2)
    c = torch.addcmul(c, mt[2], at.to_add_out(o[:, :n]))
    x = torch.addcmul(x, mi[2], at.to_out[0](o[:, n:]))
    x = torch.addcmul(x, mi[5], blk.ff.linear_out(gated(blk.ff.linear_in(norm(x, mi[4], mi[3])))))
    c = torch.addcmul(c, mt[5], blk.ff_context.linear_out(gated(blk.ff_context.linear_in(norm(c, mt[4], mt[3])))))
    return x, c


def single_block(blk, s, m, cos, sin):
    at = blk.attn
    u = at.to_qkv_mlp_proj(norm(s, m[1], m[0]))
    q, k, v, mlp = u.split([WIDTH, WIDTH, WIDTH, 6 * WIDTH], -1)
    q = heads(q, at.norm_q.weight, cos[:, None], sin[:, None])
    k = heads(k, at.norm_k.weight, cos[:, None], sin[:, None])
    o = attention(q, k, split(v)).transpose(1, 2).flatten(2)
    return torch.addcmul(s, m[2], at.to_out(torch.cat([o, gated(mlp)], -1)))


class Model(nn.Module):
    """Transformer and text encoder with a forward pass written for speed; parameters are those of diffusers and
    transformers, name for name."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.dit = Flux2Transformer2DModel(**CONFIG)
        self.text = TextEncoder()
        self.cut = {}

    def start(self):
        """Initial values: closed gates, unit-scale embeddings."""
        d = self.dit
        for p in (d.double_stream_modulation_img, d.double_stream_modulation_txt, d.single_stream_modulation):
            nn.init.zeros_(p.linear.weight)
        nn.init.zeros_(d.norm_out.linear.weight)
        nn.init.zeros_(d.proj_out.weight)
        e = d.time_guidance_embed
        for m, gain in ((e.timestep_embedder, 1.0), (e.guidance_embedder, 0.2)):
            nn.init.normal_(m.linear_1.weight, std=0.08)
            nn.init.normal_(m.linear_2.weight, std=gain / 16)
        for b in list(d.transformer_blocks) + list(d.single_transformer_blocks):
            for p in b.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, std=p.shape[1] ** -0.5)
        nn.init.normal_(d.x_embedder.weight, std=128 ** -0.5)
        nn.init.normal_(d.context_embedder.weight, std=CONFIG["joint_attention_dim"] ** -0.5)

    def trained(self):
        return [p for p in self.dit.parameters()], self.text.trained()

    def rope(self, refs, like):
        if refs not in self.cut or self.cut[refs][0].dtype != like.dtype:
            self.cut[refs] = tuple(t.to(like) for t in rope(refs))
        return self.cut[refs]

    def velocity(self, x, refs, sigma, guidance, context):
        """x: [B, 64, 128] noisy latents, refs: [B, 64 R, 128] or None, sigma, guidance: [B], context:
        [B, TEXT_LENGTH, ctx] -> [B, 64, 128]."""
        d = self.dit
        dt = x.dtype
        e = d.time_guidance_embed

        def embed(m, v):
            return m.linear_2(F.silu(m.linear_1(sincos(1000 * v).to(dt))))

        vec = F.silu(embed(e.timestep_embedder, sigma) + embed(e.guidance_embedder, guidance))[:, None]
        mi = d.double_stream_modulation_img.linear(vec).chunk(6, -1)
        mt = d.double_stream_modulation_txt.linear(vec).chunk(6, -1)
        ms = d.single_stream_modulation.linear(vec).chunk(3, -1)
        n = context.shape[1]
        cos, sin = self.rope(0 if refs is None else refs.shape[1] // IMAGE_TOKENS, x)
        h = d.x_embedder(x if refs is None else torch.cat([x, refs], 1))
        c = d.context_embedder(context)
        for blk in d.transformer_blocks:
            h, c = double_block(blk, h, c, mi, mt, cos, sin)
        s = torch.cat([c, h], 1)
        for blk in d.single_transformer_blocks:
            s = single_block(blk, s, ms, cos, sin)
        scale, shift = d.norm_out.linear(vec).chunk(2, -1)
        return d.proj_out(norm(s[:, n:n + IMAGE_TOKENS], scale, shift))


# ---- data

class Pool:
    """The cached pictures and the items over them; see latents.py."""

    def __init__(self, path, tokenizer, seed, silent=0.0, shapes=0.6, several=0.66):
        """silent: share of the samples whose prompt is left out, so that the model learns what no prompt means.
        shapes: share of pictures of shapes among those made from text alone; the others show people.
        several: share of pictures of two or three shapes among those."""
        self.silent, self.shapes, self.several = silent, shapes, several
        with open(path + ".pkl", "rb") as f:
            self.scenes, self.items = pickle.load(f)
        self.latents = np.load(path + ".npy", mmap_mode="r")
        self.rng, self.enc = np.random.default_rng(seed), Encoder(tokenizer)
        self.kinds = {"one": [], "two": [], "more": []}
        self.alone = {"person": [], "single": [], "several": []}  # pictures from text alone
        self.find = {"who": {}, "hair": {}, "clothes": {}, "ground": {}}
        for i, sc in enumerate(self.scenes):
            if sc["kind"] == "person":
                for table, key in (("who", (sc["hair"], sc["shirt"], sc["trousers"])), ("hair", sc["hair"]),
                                   ("clothes", (sc["shirt"], sc["trousers"])), ("ground", sc["ground"])):
                    self.find[table].setdefault(key, []).append(i)
            what = "person" if sc["kind"] == "person" else "single" if len(sc["shapes"]) == 1 else "several"
            self.alone[what].append((None, None, (), i))
        for it in self.items:
            task = it[0]
            if task is None:
                continue
            if task == "pose character":
                self.kinds["two"].append(it)
                self.kinds["more"].append(("pose hair clothes",) + it[1:])
            elif task == "pose character ground":
                self.kinds["more"].append(it)
                self.kinds["more"].append(("pose hair clothes ground",) + it[1:])
            else:
                self.kinds[("one", "two", "more")[len(it[2]) - 1]].append(it)

    def _some(self, table, key, but):
        found = self.find[table].get(key)
        while found and len(found) > 1:
            i = found[self.rng.integers(len(found))]
            if i != but:
                return i
        return None

    def one(self, kind):
        """-> (prompt, reference indices, target index)."""
        rng = self.rng
        while True:
            if kind == "none":
                shapes = "several" if rng.random() < self.several else "single"
                items = self.alone[shapes if rng.random() < self.shapes else "person"]
            else:
                items = self.kinds[kind]
            task, prompt, refs, target = items[rng.integers(len(items))]
            t = self.scenes[target]
            if task is None:
                return captions.caption(t, rng), (), target
            if not task.startswith("pose ") or task == "pose":
                return prompt, refs, target
            who = self._some("who", (t["hair"], t["shirt"], t["trousers"]), target)
            if task == "pose character":
                more = (who,)
            elif task == "pose character ground":
                more = (who, self._some("ground", t["ground"], target))
            else:
                more = (self._some("hair", t["hair"], target),
                        self._some("clothes", (t["shirt"], t["trousers"]), target))
                if task.endswith("ground"):
                    more += (self._some("ground", t["ground"], target),)
            if None not in more:
                return edits.wording(rng, task), refs[:1] + more, target

    def batch(self, kind, n):
        """-> ids, lengths, references [n, 64 R, 128] or None, targets [n, 64, 128]."""
        rows = []
        while len(rows) < n:
            r = self.one(kind)
            if not rows or len(r[1]) == len(rows[0][1]):
                rows.append(r)
        silent = self.rng.random(n) < self.silent
        ids, lengths = pack(self.enc, ["" if no else r[0] for no, r in zip(silent, rows)])
        x = np.stack([self.latents[r[2]] for r in rows])
        refs = None
        if rows[0][1]:
            refs = np.stack([np.concatenate([self.latents[i] for i in r[1]]) for r in rows])
        return ids, lengths, refs, x


# ---- training

def draw_sigma(rng, n):
    """Half on the levels of the eight steps (slightly shaken), half over the whole range, crowded as a long schedule is."""
    few = np.array(shifted(TURBO, 8))[:-1]
    a = few[rng.integers(len(few), size=n)] + rng.normal(0, 0.004, n)
    u = rng.random(n)
    b = 4 * u / (1 + 3 * u)
    return np.clip(np.where(rng.random(n) < 0.5, a, b), 0.002, 1.0).astype(np.float32)


KINDS = ["none", "one", "two", "more"]


def batches(a, rank, start):
    """An endless supply of (kind, ids, lengths, references, targets)."""
    mix = np.array([float(v) for v in a.mix.split(",")])
    sizes = {"none": a.batch, "one": a.batch * 2 // 3, "two": a.batch // 2, "more": a.batch // 3}

    def make(k):
        pool, rng = Pool(a.latents, a.tokenizer, (start, rank, k, 0), a.silent, a.shapes, a.several), np.random.default_rng((start, rank, k, 1))

        def one():
            kind = KINDS[rng.choice(4, p=mix / mix.sum())]
            return (kind,) + pool.batch(kind, max(1, sizes[kind]))
        return one

    return feed(make, a.feeders)


class Guide:
    """The model as it was before: what it says with the prompt and without it, unguided, shows the student where guidance
    leads."""

    def __init__(self, path, tokenizer, device):
        self.state = load(path)["model"]
        self.model = Model()
        self.model.load_state_dict(self.state)
        cos, sin = self.model.text.cos, self.model.text.sin
        self.model.to(device).to(torch.bfloat16).requires_grad_(False)
        self.model.text.cos, self.model.text.sin = cos.to(device), sin.to(device)
        self.empty = [torch.from_numpy(t).to(device) for t in pack(Encoder(tokenizer), [""])]
        self.silence = self.model.text(*self.empty)

    @torch.no_grad()
    def follow(self, ema):
        """Becomes what the student is by now, on average."""
        ema.copy_to(sum(self.model.trained(), []))
        self.silence = self.model.text(*self.empty)


@torch.no_grad()
def guided(guide, goal, xt, refs, sigma, guidance, ids, lengths, trust):
    """What the student learns at scale w = guidance: between the data's velocity and the guide's own, by [trust] in the guide,
    plus (w - 1) times what the prompt changes in the guide's."""
    m = guide.model
    scale = torch.ones_like(guidance)
    context = m.text(torch.from_numpy(ids).to(xt.device), torch.from_numpy(lengths).to(xt.device))
    told = m.velocity(xt, refs, sigma, scale, context).float()
    untold = m.velocity(xt, refs, sigma, scale, guide.silence.expand(len(xt), -1, -1)).float()
    return torch.lerp(goal, told, trust) + (guidance[:, None, None] - 1) * (told - untold)


def work(rank, a, shared, lock):
    ck = load(a.out)
    supply = batches(a, rank, ck["step"] if ck else 0)
    first = next(supply)  # the feeding processes start before the device does
    dev = setup(a.device, 1 if shared is not None else a.threads)
    torch.manual_seed(100 + rank)
    guide = Guide(a.guide, a.tokenizer, dev) if a.guide else None
    if guide and not ck:  # the student begins as its guide
        ck = {"raw": guide.state, "ema": None, "step": 0, "share": 0.0, "seen": 0}
    model = Model().to(dev)
    model.start()
    if a.text:
        model.text.load_state_dict(load(a.text)["model"])
        with torch.no_grad():
            _, ids, lengths, _, _ = first
            std = model.text(torch.from_numpy(ids).to(dev), torch.from_numpy(lengths).to(dev)).std()
            model.dit.context_embedder.weight.div_(std)
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.text.cos, half.text.sin = model.text.cos, model.text.sin  # stay f32
    if a.compile:
        global double_block, single_block
        double_block = torch.compile(double_block, dynamic=False)
        single_block = torch.compile(single_block, dynamic=False)
    main, text = model.trained()
    params = main + text
    lows = sum(half.trained(), [])
    blocks = {id(p) for b in list(model.dit.transformer_blocks) + list(model.dit.single_transformer_blocks)
              for p in b.parameters() if p.dim() == 2}
    muon = Muon([p for p in main if id(p) in blocks])
    adam = torch.optim.AdamW([{"params": [p for p in main if id(p) not in blocks], "scale": 1.0},
                              {"params": text, "scale": 0.3}], lr=a.lr, betas=(0.9, 0.98), weight_decay=0.0)
    step, done, seen = 0, 0.0, 0
    if ck is not None:
        model.load_state_dict(ck["raw"])
        if ck.get("adam"):
            adam.load_state_dict(ck["adam"])
            for b, c in zip(muon.buf, ck["muon"]):
                b.copy_(c)
        step, done, seen = ck["step"], ck["share"], ck["seen"]
    ema = Ema(params, a.ema)  # after the parameters have their values
    ema.steps = step
    if ck is not None and ck["ema"]:
        ema.avg = [t.to(dev) for t in ck["ema"]]
    mixer = Mixer(params, shared, lock, 6)
    rng = np.random.default_rng(50 + rank + step)
    clock = Clock(a.minutes * 60)
    sums = {k: [0.0, 0] for k in KINDS}
    last = t0 = time.time()
    was = seen

    def checkpoint(share):
        avg = copy.deepcopy(model)
        ema.copy_to(sum(avg.trained(), []))
        save(a.out, {"model": avg.state_dict(), "raw": model.state_dict(), "adam": adam.state_dict(), "muon": muon.buf,
                     "ema": ema.avg, "step": step, "share": share, "seen": seen, "config": CONFIG, "text_config": TEXT_CONFIG})

    while True:
        share = done + (1 - done) * clock.share()
        if share >= 1:
            break
        rate = min(1, (step + 1) / 150) * (1.0 if share < a.hold else max(0.02, (1 - share) / (1 - a.hold)))
        with torch.no_grad():
            torch._foreach_copy_(lows, params)
        kind, ids, lengths, refs, x = next(supply)
        n = len(x)
        x0 = torch.from_numpy(x).to(dev).float()
        eps = torch.randn_like(x0)
        sigma = torch.from_numpy(draw_sigma(rng, n)).to(dev)
        xt = torch.lerp(x0, eps, sigma[:, None, None]).bfloat16()
        guidance = np.where(rng.random(n) < 0.5, GUIDANCE, rng.uniform(1, 4, n)).astype(np.float32)
        guidance = torch.from_numpy(guidance).to(dev)
        context = half.text(torch.from_numpy(ids).to(dev), torch.from_numpy(lengths).to(dev))
        if refs is not None:
            refs = torch.from_numpy(refs).to(dev).bfloat16()
        v = half.velocity(xt, refs, sigma, guidance, context)
        goal = eps - x0
        if guide:
            goal = guided(guide, goal, xt, refs, sigma, guidance, ids, lengths, a.trust)
        err = (v.float() - goal).square().mean((1, 2))
        loss = err.mean()
        loss.backward()
        for p, q in zip(params, lows):
            p.grad = q.grad.float() if q.grad is not None else torch.zeros_like(p)
            q.grad = None
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for g in adam.param_groups:
            g["lr"] = a.lr * rate * g["scale"]
        adam.step()
        muon.step(a.muon * rate)
        step, seen = step + 1, seen + n
        mixer.mix(step)
        ema.update(params)
        if guide and a.refresh and step % a.refresh == 0:
            guide.follow(ema)
        sums[kind][0] += loss.item()
        sums[kind][1] += 1
        if rank == 0 and step % 20 == 0:
            report = " ".join(f"{k} {s / c:.4f}" for k, (s, c) in sums.items() if c)
            print(f"step {step} {clock.spent():.0f}s share {share:.3f} seen {seen} loss {report} "
                  f"{(seen - was) / (time.time() - t0):.1f} samples/s a worker", flush=True)
            sums = {k: [0.0, 0] for k in KINDS}
            t0, was = time.time(), seen
        if rank == 0 and time.time() - last > 150:
            checkpoint(share)
            last = time.time()
    if rank == 0:
        checkpoint(1.0)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=2, help="threads, where there is one worker")
    ap.add_argument("--workers", type=int, default=1, help="one-thread workers that share the model (CPU)")
    ap.add_argument("--compile", action="store_true", help="compile the blocks: a third faster, minutes to start")
    ap.add_argument("--feeders", type=int, default=0, help="processes that prepare batches (for a GPU)")
    ap.add_argument("--minutes", type=float, default=75)
    ap.add_argument("--batch", type=int, default=48)
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--muon", type=float, default=4e-3)
    ap.add_argument("--ema", type=float, default=0.998)
    ap.add_argument("--guide", help="a finished model.pt: distil its guidance into this one, which begins as its copy")
    ap.add_argument("--trust", type=float, default=0.5, help="share of the guide's own velocity in what is learnt")
    ap.add_argument("--refresh", type=int, default=0, help="steps after which the guide becomes the student; 0: never")
    ap.add_argument("--hold", type=float, default=0.6, help="share of the time before the rates begin to fall")
    ap.add_argument("--silent", type=float, default=0.1, help="share of samples without a prompt")
    ap.add_argument("--shapes", type=float, default=0.6, help="share of shapes among pictures from text alone")
    ap.add_argument("--several", type=float, default=0.66, help="share of several shapes among pictures of shapes")
    ap.add_argument("--mix", default="0.58,0.13,0.24,0.05", help="weights of no, one, two and three or four references")
    ap.add_argument("--latents", default="build/training/latents")
    ap.add_argument("--tokenizer", default="build/training/tokenizer")
    ap.add_argument("--text", default="build/training/text.pt")
    ap.add_argument("--out", default="build/training/model.pt")
    a = ap.parse_args()
    numel = sum(p.numel() for g in Model().trained() for p in g)
    print("parameters", numel, flush=True)
    run_workers(work, a, numel, a.workers)


if __name__ == "__main__":
    main()
