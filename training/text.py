"""The text encoder: a small Mistral, first taught to read.

Reading comes first because it is cheap: the hidden states of the last token, [/INST], must let a linear map tell every
fact of the scene (what stands in each of nine cells, background, pose, clothes) or of the instruction. The transformer
then starts from prompt embeddings that already mean something, and trains the encoder on with the flow-matching loss.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from training.common import Clock, feed, save, setup
from training.fast import attention
from training.tokenizer import Encoder, TEXT_LENGTH, VOCAB
from training.world import captions, edits, names, scenes

TAPS = (2, 3, 4)
HIDDEN, LAYERS = 192, 5  # the last layer stays unused: the taps lie before it
CONFIG = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=6,
              num_key_value_heads=3, head_dim=32, intermediate_size=384, rms_norm_eps=1e-5, sliding_window=None,
              tie_word_embeddings=True, max_position_embeddings=512, pad_token_id=11, bos_token_id=1, eos_token_id=2)


class TextEncoder(nn.Module):
    """The Mistral of transformers with a forward pass of its own, for training: real tokens only, first position 0 (the
    rotary positions are relative), padded rows filled with the constant row that the reference's attention gives."""

    def __init__(self):
        super().__init__()
        self.lm = MistralForCausalLM(MistralConfig(**CONFIG))
        inv = 10000.0 ** (-torch.arange(0, 32, 2).float() / 32)
        angle = torch.arange(TEXT_LENGTH).float()[:, None] * inv
        self.register_buffer("cos", torch.cat([angle, angle], 1).cos(), persistent=False)
        above = torch.triu(torch.full((TEXT_LENGTH, TEXT_LENGTH), -1e4), 1)
        self.register_buffer("causal", above, persistent=False)
        self.register_buffer("sin", torch.cat([angle, angle], 1).sin(), persistent=False)

    def trained(self):
        """Parameters that the taps depend on."""
        m = self.lm.model
        return [m.embed_tokens.weight] + [p for layer in m.layers[:max(TAPS)] for p in layer.parameters()]

    @staticmethod
    def _norm(x, w):
        return F.rms_norm(x, (HIDDEN,), w.to(x.dtype), 1e-5)

    def _rope(self, x):
        n = x.shape[2]
        c, s = self.cos[:n].to(x.dtype), self.sin[:n].to(x.dtype)
        a, b = x.chunk(2, -1)
        return x * c + torch.cat([-b, a], -1) * s

    def _layer(self, layer, h, attend):
        b, n, _ = h.shape
        if attend:
            at = layer.self_attn
            x = self._norm(h, layer.input_layernorm.weight)
            q = self._rope(at.q_proj(x).view(b, n, 6, 32).transpose(1, 2))
            k = self._rope(at.k_proj(x).view(b, n, 3, 32).transpose(1, 2)).repeat_interleave(2, 1)
            v = at.v_proj(x).view(b, n, 3, 32).transpose(1, 2).repeat_interleave(2, 1)
            o = attention(q, k, v.to(q.dtype), self.causal[:n, :n].to(q.dtype))
            h = h + at.o_proj(o.transpose(1, 2).reshape(b, n, HIDDEN))
        x = self._norm(h, layer.post_attention_layernorm.weight)
        m = layer.mlp
        return h + m.down_proj(F.silu(m.gate_proj(x)) * m.up_proj(x))

    def _taps(self, ids, attend):
        h = self.lm.model.embed_tokens(ids)
        out = []
        for i, layer in enumerate(self.lm.model.layers[:max(TAPS)]):
            h = self._layer(layer, h, attend)
            if i + 1 in TAPS:
                out.append(h)
        return torch.cat(out, -1)

    def forward(self, ids, lengths):
        """ids: [B, N] with real tokens first; lengths: [B]. Returns [B, TEXT_LENGTH, 3 * HIDDEN], real rows last."""
        real = self._taps(ids, True)
        pad = self._taps(torch.full((1, 1), 11, dtype=torch.long, device=ids.device), False)
        pos = torch.arange(TEXT_LENGTH, device=ids.device)[None] - (TEXT_LENGTH - lengths[:, None])
        rows = real.gather(1, pos.clamp(0, ids.shape[1] - 1)[..., None].expand(-1, -1, real.shape[-1]))
        return torch.where((pos >= 0)[..., None], rows, pad.to(rows.dtype))

    def last(self, ids, lengths):
        """Tapped states of the last real token, [B, 3 * HIDDEN]."""
        return self._taps(ids, True)[torch.arange(len(ids), device=ids.device), lengths - 1]


def pack(encoder, prompts):
    """Prompts to (ids [B, longest], lengths [B]) with real tokens first."""
    ids = [encoder.ids(p) for p in prompts]
    n = np.array([len(i) for i in ids])
    out = np.full((len(ids), n.max()), 11, np.int64)
    for r, i in zip(out, ids):
        r[:len(i)] = i
    return out, n


_L = {"shape": names.SHAPES, "colour": list(names.COLOURS), "size": list(names.SIZES) + ["huge"], "pose": names.POSES,
      "hair": list(names.HAIR), "shirt": list(names.SHIRTS), "trousers": list(names.TROUSERS),
      "ground": list(names.GROUNDS), "tint": list(names.TINTS), "bg": names.BACKGROUNDS}
FIELDS = [("task", 3 + len(edits.TASKS))]
for _c in range(9):
    FIELDS += [(f"shape{_c}", 9), (f"colour{_c}", 13), (f"size{_c}", 5)]
FIELDS += [("outer", 9), ("outer colour", 13), ("bg", 5), ("bg1", 8), ("bg2", 8), ("pose", 15), ("hair", 7), ("shirt", 9),
           ("trousers", 7), ("ground", 5), ("op shape", 9), ("new colour", 13), ("op size", 5), ("place", 10),
           ("place 2", 10)]
OFFSET = {k: i for i, (k, _) in enumerate(FIELDS)}


def targets(task, scene, about):
    """What the last token must know: an int8 a field; 0 is "none", -1 is not asked."""
    t = np.full(len(FIELDS), -1, np.int8)

    def put(field, table, value):
        t[OFFSET[field]] = 1 + _L[table].index(value)

    def put_background(bg):
        put("bg", "bg", bg["type"])
        put("bg1", "tint", bg["colours"][0])
        put("bg2", "tint", bg["colours"][-1])

    if scene is None:
        t[0] = 3 + edits.TASKS.index(task)
        for k, v in about.items():
            if k == "background":
                put_background(v)
            elif k == "shape":
                put("op shape", "shape", v)
            elif k == "new colour":
                put("new colour", "colour", v)
            elif k == "size":
                put("op size", "size", v)
            elif k in ("place", "place 2"):
                t[OFFSET[k]] = 1 + v
            else:
                put(k, k, v)
        return t
    if scene["kind"] == "person":
        t[0] = 0
        for k in ("pose", "hair", "shirt", "trousers", "ground"):
            put(k, k, scene[k])
        return t
    t[0] = 1
    for c in range(9):
        for k in ("shape", "colour", "size"):
            t[OFFSET[f"{k}{c}"]] = 0
    items = scene["shapes"]
    t[OFFSET["outer"]] = t[OFFSET["outer colour"]] = 0
    if scene["layout"] == "inside":
        t[0] = 2
        put("outer", "shape", items[0]["shape"])
        put("outer colour", "colour", items[0]["colour"])
        items = items[1:]
    for s in items:
        put(f"shape{s['place']}", "shape", s["shape"])
        put(f"colour{s['place']}", "colour", s["colour"])
        if scene["layout"] != "inside":
            put(f"size{s['place']}", "size", s["size"])
    put_background(scene["background"])
    return t


def sample(rng):
    if rng.random() < 0.25:
        e = edits.random_edit(rng, edits.TASKS[rng.integers(len(edits.TASKS))])
        return e["prompt"], targets(e["task"], None, e["about"])
    sc = scenes.random_scene(rng)
    return captions.caption(sc, rng), targets(None, sc, None)


def batches(folder, batch, feeders):
    """An endless supply of (ids, lengths, targets)."""
    def make(k):
        rng, enc = np.random.default_rng((31, k)), Encoder(folder)

        def one():
            rows = [sample(rng) for _ in range(batch)]
            return (*pack(enc, [r[0] for r in rows]), np.stack([r[1] for r in rows]))
        return one

    return feed(make, feeders)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--feeders", type=int, default=1, help="processes that prepare batches")
    ap.add_argument("--minutes", type=float, default=8)
    ap.add_argument("--batch", type=int, default=128)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--tokenizer", default="build/training/tokenizer")
    ap.add_argument("--out", default="build/training/text.pt")
    a = ap.parse_args()
    supply = batches(a.tokenizer, a.batch, a.feeders)
    next(supply)  # the feeding processes start before the device does
    dev = setup(a.device, a.threads)
    model = TextEncoder().to(dev)
    head = nn.Linear(HIDDEN * len(TAPS), sum(n for _, n in FIELDS)).to(dev)
    sizes = [n for _, n in FIELDS]
    starts, widest = np.cumsum([0] + sizes), max(sizes)
    spread = torch.full((len(sizes), widest), int(starts[-1]))
    for i, n in enumerate(sizes):
        spread[i, :n] = torch.arange(n) + int(starts[i])
    spread, dead = spread.to(dev), torch.full((1, 1), -1e4, device=dev)
    params = model.trained() + list(head.parameters())
    print("parameters", sum(p.numel() for p in model.parameters()), flush=True)
    opt = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01)
    clock, step, t0 = Clock(a.minutes * 60), 0, time.time()
    while clock.share() < 1:
        for g in opt.param_groups:
            g["lr"] = a.lr * min(1, (step + 1) / 200) * max(0.02, 0.5 * (1 + np.cos(np.pi * clock.share())))
        ids, lengths, t = (torch.from_numpy(x).to(dev) for x in next(supply))
        with torch.autocast(dev.type, torch.bfloat16):
            logits = head(model.last(ids, lengths))
        t = t.long()
        table = torch.cat([logits.float(), dead.expand(len(t), 1)], 1)[:, spread]  # [B, fields, widest]
        loss = F.cross_entropy(table.flatten(0, 1), t.flatten(), ignore_index=-1, reduction="sum") / len(t)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        step += 1
        if step % 100 == 0:
            with torch.no_grad():
                right = table.argmax(2)
                ok = ((right == t) | (t < 0))
            print(f"step {step} {clock.spent():.0f}s loss {loss.item():.4f} facts right "
                  f"{100 * (ok & (t >= 0)).sum().item() / (t >= 0).sum().item():.2f} % captions all right "
                  f"{100 * ok.all(1).float().mean().item():.1f} % {100 * a.batch / (time.time() - t0):.0f}/s", flush=True)
            t0 = time.time()
    save(a.out, {"model": model.state_dict(), "step": step, "config": CONFIG})


if __name__ == "__main__":
    main()
