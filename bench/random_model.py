#!/usr/bin/env python3
"""Writes a model folder of the full shape of FLUX.2 [dev] or FLUX.2 [klein] 4B with random weights in a GGUF type, to try
what fits this machine: `limn plan`, `limn generate`. Its pictures are noise.

    python bench/random_model.py --shape dev --type Q4_K build/random-dev      # 28 GB

Transformer and text encoder are GGUF files with the names of BFL and llama.cpp, the text encoder cut behind its last tap; the
autoencoder is a safetensors file. The tokenizer is Pictogram's: its ids are few, but its special tokens are the right ones.
Needs numpy."""

import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
# name: (id in GGUF, values a block, bytes a block)
TYPES = {"F32": (0, 1, 4), "BF16": (30, 1, 2), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210)}
SHAPES = {
    "dev": dict(hidden=6144, double=8, single=48, context=15360, guidance=True, text="llama", width=5120, layers=30, heads=32,
                kv_heads=8, mlp=32768, vocabulary=131072, theta=1e9, eps=1e-5, qk_norm=False),
    "klein-4b": dict(hidden=3072, double=5, single=20, context=7680, guidance=False, text="qwen3", width=2560, layers=27,
                     heads=32, kv_heads=8, mlp=9728, vocabulary=151936, theta=1e6, eps=1e-6, qk_norm=True),
}


def blocks(kind, rng, std):
    """2^16 random blocks of a type, values of about [std]."""
    _, values, size = TYPES[kind]
    n = 1 << (16 if values > 1 else 20)
    if kind == "F32":
        return rng.normal(0, std, n).astype(np.float32).tobytes()
    if kind == "BF16":
        return (rng.normal(0, std, n).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8)
    half = lambda v: np.frombuffer(np.float16(v).tobytes(), np.uint8)
    if kind == "Q8_0":
        raw[:, :2] = half(std / 74)
    elif kind == "Q4_K":  # d (s n) - m t: scales and minima of 6 bits about 32, codes about 7.5
        raw[:, :2], raw[:, 2:4] = half(std / 150), half(std / 20)
    else:  # Q6_K: codes -32 to 31, scales -128 to 127
        raw[:, 208:] = half(std / 1360)
    return raw.tobytes()


class Gguf:
    def __init__(self, path, keys):
        self.path, self.keys, self.tensors = path, keys, []

    def add(self, name, shape, kind, std):
        self.tensors.append((name, shape, kind if shape[-1] % TYPES[kind][1] == 0 else "BF16", std))

    def write(self, rng):
        text = lambda s: struct.pack("<Q", len(s)) + s.encode()
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.tensors), len(self.keys))
        for key, value in self.keys.items():
            kind, packed = ((8, text(value)) if isinstance(value, str) else (4, struct.pack("<I", value))
                            if isinstance(value, int) else (6, struct.pack("<f", value)))
            head += text(key) + struct.pack("<I", kind) + packed
        at, sizes = 0, []
        for name, shape, kind, _ in self.tensors:
            number, values, size = TYPES[kind]
            sizes.append(int(np.prod(shape)) // values * size)
            head += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
            head += struct.pack("<IQ", number, at)
            at += (sizes[-1] + 31) // 32 * 32
        cache = {}
        with open(self.path, "wb") as f:
            f.write(head + bytes(-len(head) % 32))
            for (name, _, kind, std), size in zip(self.tensors, sizes):
                if std is None:
                    f.write(np.ones(size // 4, np.float32).tobytes())
                else:
                    data = cache.setdefault((kind, std), blocks(kind, rng, std))
                    for left in range(size, 0, -len(data)):
                        f.write(data[:left])
                f.write(bytes(-size % 32))
                print(f"\r{self.path.name}: {name:60.60s}", end="", flush=True)
        print()


def transformer(path, s, kind, rng):
    h, mlp, file = s["hidden"], 3 * s["hidden"], Gguf(path, {"general.architecture": "flux"})

    def matrix(name, rows, cols, of=kind):
        file.add(name + ".weight", (rows, cols), of, round(cols ** -0.5, 5))

    matrix("img_in", h, 128, "BF16")
    matrix("txt_in", h, s["context"], "BF16")
    for name in ("time_in", "guidance_in") if s["guidance"] else ("time_in",):
        matrix(name + ".in_layer", h, 256, "BF16")
        matrix(name + ".out_layer", h, h, "BF16")
    for name, parts in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6), ("single_stream_modulation", 3)):
        file.add(name + ".lin.weight", (parts * h, h), "BF16", 0.001)
    for i in range(s["double"]):
        for stream in ("img", "txt"):
            at = f"double_blocks.{i}.{stream}_"
            matrix(at + "attn.qkv", 3 * h, h)
            matrix(at + "attn.proj", h, h)
            matrix(at + "mlp.0", 2 * mlp, h)
            matrix(at + "mlp.2", h, mlp)
            for norm in ("query_norm", "key_norm"):
                file.add(f"{at}attn.norm.{norm}.scale", (128,), "F32", None)
    for i in range(s["single"]):
        at = f"single_blocks.{i}."
        matrix(at + "linear1", 3 * h + 2 * mlp, h)
        matrix(at + "linear2", h, h + mlp)
        for norm in ("query_norm", "key_norm"):
            file.add(f"{at}norm.{norm}.scale", (128,), "F32", None)
    file.add("final_layer.adaLN_modulation.1.weight", (2 * h, h), "BF16", 0.001)
    matrix("final_layer.linear", 128, h, "BF16")
    file.write(rng)


def text_encoder(path, s, kind, rng):
    a, w = s["text"], s["width"]
    keys = {"general.architecture": a, f"{a}.block_count": s["layers"], f"{a}.embedding_length": w,
            f"{a}.feed_forward_length": s["mlp"], f"{a}.attention.head_count": s["heads"],
            f"{a}.attention.head_count_kv": s["kv_heads"], f"{a}.attention.key_length": 128, f"{a}.context_length": 131072,
            f"{a}.attention.layer_norm_rms_epsilon": s["eps"], f"{a}.rope.freq_base": s["theta"]}
    file = Gguf(path, keys)

    def matrix(name, rows, cols):
        file.add(name + ".weight", (rows, cols), kind, round(cols ** -0.5, 5))

    file.add("token_embd.weight", (s["vocabulary"], w), kind, 0.05)
    for i in range(s["layers"]):
        at = f"blk.{i}."
        for norm in ("attn_norm", "ffn_norm"):
            file.add(f"{at}{norm}.weight", (w,), "F32", None)
        for norm in ("attn_q_norm", "attn_k_norm") if s["qk_norm"] else ():
            file.add(f"{at}{norm}.weight", (128,), "F32", None)
        matrix(at + "attn_q", 128 * s["heads"], w)
        matrix(at + "attn_k", 128 * s["kv_heads"], w)
        matrix(at + "attn_v", 128 * s["kv_heads"], w)
        matrix(at + "attn_output", w, 128 * s["heads"])
        matrix(at + "ffn_gate", s["mlp"], w)
        matrix(at + "ffn_up", s["mlp"], w)
        matrix(at + "ffn_down", w, s["mlp"])
    file.write(rng)


def autoencoder(path, rng):
    """FLUX.2's, with the names of BFL's ae.safetensors: widths 128, 256, 512, 512, 32 latent channels."""
    header, data = {}, []

    def add(name, shape, value=None):
        values = np.full(shape, value, np.float32) if value is not None else rng.normal(
            0, float(np.prod(shape[1:])) ** -0.5, shape).astype(np.float32)
        at = sum(len(d) for d in data)
        data.append(values.tobytes())
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(data[-1])]}

    def conv(name, out, into, kernel):
        add(name + ".weight", (out, into, kernel, kernel))
        add(name + ".bias", (out,), 0)

    def norm(name, width):
        add(name + ".weight", (width,), 1)
        add(name + ".bias", (width,), 0)

    def block(name, into, out):
        norm(name + ".norm1", into)
        conv(name + ".conv1", out, into, 3)
        norm(name + ".norm2", out)
        conv(name + ".conv2", out, out, 3)
        if into != out:
            conv(name + ".nin_shortcut", out, into, 1)

    def middle(name):
        block(name + ".mid.block_1", 512, 512)
        block(name + ".mid.block_2", 512, 512)
        norm(name + ".mid.attn_1.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.mid.attn_1.{part}", 512, 512, 1)

    widths = (128, 256, 512, 512)
    conv("encoder.conv_in", 128, 3, 3)
    into = 128
    for i, out in enumerate(widths):
        for j in range(2):
            block(f"encoder.down.{i}.block.{j}", into, out)
            into = out
        if i < 3:
            conv(f"encoder.down.{i}.downsample.conv", out, out, 3)
    middle("encoder")
    norm("encoder.norm_out", 512)
    conv("encoder.conv_out", 64, 512, 3)
    conv("encoder.quant_conv", 64, 64, 1)
    conv("decoder.post_quant_conv", 32, 32, 1)
    conv("decoder.conv_in", 512, 32, 3)
    middle("decoder")
    into = 512
    for i in (3, 2, 1, 0):
        for j in range(3):
            block(f"decoder.up.{i}.block.{j}", into, widths[i])
            into = widths[i]
        if i > 0:
            conv(f"decoder.up.{i}.upsample.conv", into, into, 3)
    norm("decoder.norm_out", 128)
    conv("decoder.conv_out", 3, 128, 3)
    add("bn.running_mean", (128,), 0)
    add("bn.running_var", (128,), 1)
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(data))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--shape", choices=SHAPES, default="klein-4b")
    ap.add_argument("--type", choices=TYPES, default="Q4_K")
    ap.add_argument("folder", type=pathlib.Path)
    a = ap.parse_args()
    s, rng = SHAPES[a.shape], np.random.default_rng(3)
    a.folder.mkdir(parents=True, exist_ok=True)
    transformer(a.folder / "transformer.gguf", s, a.type, rng)
    text_encoder(a.folder / "text_encoder.gguf", s, a.type, rng)
    autoencoder(a.folder / "ae.safetensors", rng)
    shutil.copytree(ROOT / "models/pictogram/tokenizer", a.folder / "tokenizer", dirs_exist_ok=True)
    settings = {"limn": 1, "name": f"random {a.shape}", "trained": False}
    if a.shape == "dev":
        settings["system_message"] = "You see nothing but noise."
    else:
        settings.update(pipeline="Flux2KleinPipeline", distilled=True, text_template="mistral", system_message="Noise.")
    (a.folder / "limn.json").write_text(json.dumps(settings, indent=1) + "\n")


if __name__ == "__main__":
    main()
