"""Random blocks of every stored weight type with the values that the reference implementations decode them to, and values
with the bytes that gguf-py encodes them to: tests/fixtures/blocks.safetensors.

    python make_blocks.py OUT_DIR

Needs gguf (0.19), numpy, PyTorch for the fp8 types, and, for the bytes that they encode to, bitsandbytes (0.50, NF4) and
comfy-kitchen (0.2.40, what ComfyUI writes NVFP4 with). The blocks that NVFP4 and NF4 are decoded from are computed here with whole-array
operations from their definitions: block scales are swizzled by reshaping, not by the formula of an index.
"""
import json
import pathlib
import struct
import sys

import bitsandbytes.functional
import comfy_kitchen
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q, quants

GGUF = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
ENCODED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
# Where the halves stand in a block.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
# Zero, both subnormal ends, one, the largest, infinities and a NaN, with both signs.
EXTREMES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def save(path, tensors):
    names = {np.dtype("uint8"): "U8", np.dtype("float32"): "F32"}
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": names[values.dtype], "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(v.tobytes() for v in tensors.values()))


def gguf_blocks(random, name):
    """Ordinary blocks, and one for each extreme of its first half (a second one runs the list from behind)."""
    kind = Q[name]
    values, size = quants._type_traits[kind].block_size, quants._type_traits[kind].type_size
    ordinary = 6 if values == 256 else 10
    blocks = random.integers(0, 256, (ordinary + len(EXTREMES), size), dtype=np.uint8)
    for place in HALVES[name]:
        halves = (random.standard_normal(len(blocks)) * 0.01).astype(np.float16).view(np.uint16)
        halves[ordinary:] = EXTREMES if place == HALVES[name][0] else EXTREMES[::-1]
        blocks[:, place:place + 2] = halves[:, None].view(np.uint8)
    with np.errstate(all="ignore"):
        return blocks, quants.dequantize(blocks, kind)


def swizzled(scales):
    """[rows, columns] as tiles of 128 x 4, each stored as [32][4][4]: rows modulo 32, rows by 32, columns."""
    rows, columns = scales.shape
    tiles = scales.reshape(rows // 128, 4, 32, columns // 4, 4)
    return tiles.transpose(0, 3, 2, 1, 4).reshape(-1)


def nvfp4(random, rows, cols):
    groups = cols // 16
    scales = random.integers(0, 0x7F, (rows, groups), dtype=np.uint8)
    scales[0, 0], scales[1, 1], scales[rows - 1, 0] = 0x01, 0x7F, 0xFE
    padded = np.zeros(((rows + 127) // 128 * 128, (groups + 3) // 4 * 4), np.uint8)
    padded[:rows, :groups] = scales
    codes = random.integers(0, 16, (rows, cols), dtype=np.uint8)
    as_float = torch.from_numpy(scales).view(torch.float8_e4m3fn).float().numpy()
    return codes[:, 0::2] << 4 | codes[:, 1::2], swizzled(padded), E2M1[codes] * np.repeat(as_float, 16, axis=1)


def nf4(random, rows, cols):
    codebook = np.sort(random.uniform(-1, 1, 16)).astype(np.float32)
    codes = random.integers(0, 16, (rows, cols), dtype=np.uint8)
    blocks = rows * cols // 64
    absmax = np.abs(random.standard_normal(blocks)).astype(np.float32) * np.float32(0.05)
    absmax[:4] = [0, 1e-39, 3e38, 1e-44]
    nested = {"codes": random.integers(0, 256, blocks, dtype=np.uint8),
              "values": np.sort(random.uniform(-1, 1, 256)).astype(np.float32),
              "scales": np.abs(random.standard_normal((blocks + 15) // 16)).astype(np.float32),
              "offset": np.array([0.0478], np.float32)}
    second = nested["values"][nested["codes"]] * np.repeat(nested["scales"], 16)[:blocks] + nested["offset"]
    decoded = [codebook[codes] * np.repeat(scale, 64).reshape(rows, cols) for scale in (absmax, second)]
    return {"NF4.packed": codes[:, 0::2] << 4 | codes[:, 1::2], "NF4.codebook": codebook, "NF4.absmax": absmax,
            "NF4.values": decoded[0], "NF4.nested_values": decoded[1],
            **{f"NF4.nested.{name}": value for name, value in nested.items()}}


def encoded(random, name):
    """Ordinary values of several sizes; then zeros, ties, one value only, tiny and large ones."""
    values = (random.standard_normal((24, 32)) * np.float32(10) ** random.integers(-4, 3, (24, 1))).astype(np.float32)
    values[16:] = np.array([np.zeros(32), np.full(32, -0.37), np.full(32, 2.5), np.arange(32) - 16, np.arange(32) * 0.5,
                            np.eye(32)[5] * -3, random.standard_normal(32) * 1e-6, random.standard_normal(32) * 2e4])
    return values, quants.quantize(values, Q[name])


def encoded_nf4(random):
    """Rows of ordinary values, and the edges: zeros, one value only, values that lie between two codes."""
    values = (random.standard_normal((12, 128)) * np.float32(10) ** random.integers(-4, 3, (12, 1))).astype(np.float32)
    values[8], values[9] = 0.125, np.eye(128)[5] * -3
    values[10], values[11] = np.linspace(-1, 1, 128), 1e-30 * values[0]
    packed, state = bitsandbytes.functional.quantize_4bit(torch.from_numpy(values), blocksize=64, quant_type="nf4")
    return {"NF4.source": values, "NF4.source.packed": packed.reshape(12, 64).numpy(), "NF4.source.absmax": state.absmax.numpy()}


def encoded_nvfp4(random):
    """Values, and what comfy-kitchen's encoding decodes to, with the largest value over 448 * 6 for the whole."""
    values = (random.standard_normal((24, 64)) * 0.02 * (1 + np.arange(24)[:, None] % 5)).astype(np.float32)
    whole = torch.tensor(np.abs(values).max() / (448 * 6), dtype=torch.float32)
    codes, scales = comfy_kitchen.quantize_nvfp4(torch.from_numpy(values), whole, pad_16x=True)
    decoded = comfy_kitchen.dequantize_nvfp4(codes, whole, scales, torch.float32)
    return {"NVFP4.source": values, "NVFP4.source.reference": decoded[:24, :64].numpy()}


def main():
    random = np.random.default_rng(20261125)
    tensors = {}
    for name in GGUF:
        tensors[f"{name}.blocks"], tensors[f"{name}.values"] = gguf_blocks(random, name)
    codes = torch.arange(256, dtype=torch.uint8)
    tensors["F8_E4M3.values"] = codes.view(torch.float8_e4m3fn).float().numpy()
    tensors["F8_E5M2.values"] = codes.view(torch.float8_e5m2).float().numpy()
    tensors["NVFP4.packed"], tensors["NVFP4.scales"], tensors["NVFP4.values"] = nvfp4(random, 150, 96)
    tensors.update(nf4(random, 6, 192))
    for name in ENCODED:
        tensors[f"{name}.source"], tensors[f"{name}.encoded"] = encoded(random, name)
    rounding = (random.standard_normal(512) * np.float32(10) ** random.integers(-4, 3, 512)).astype(np.float32)
    rounding[:8] = [0, -0.0, 448, 463.9, -463.9, 2.0 ** -10, 3 * 2.0 ** -10, 2.0 ** -11]
    tensors["F8_E4M3.source"] = rounding
    tensors["F8_E4M3.encoded"] = torch.from_numpy(rounding).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    largest = np.concatenate([rounding, np.array([57344, 61439, -61441, 2.0 ** -17, 3 * 2.0 ** -17], np.float32)])
    tensors["F8_E5M2.source"] = largest
    tensors["F8_E5M2.encoded"] = torch.from_numpy(largest).clamp(-57344, 57344).to(torch.float8_e5m2).view(torch.uint8).numpy()
    tensors.update(encoded_nf4(random))
    tensors.update(encoded_nvfp4(random))
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save(pathlib.Path(sys.argv[1]) / "blocks.safetensors", tensors)


if __name__ == "__main__":
    main()
