"""Writes the models model-b and model-k of tests/fixtures in the other forms that FLUX.2 is found in.

    make_layouts.py OUT_DIR      (numpy, safetensors, gguf, ml_dtypes)

GGUF files are written and quantised by gguf-py; scaled fp8, NVFP4 and nf4 by the formulas at the functions below. Beside
each quantised file, `expected` in OUT_DIR/expected.safetensors has one row of every quantised matrix, under the name that
diffusers gives it: "<file stem>/<name>/<row>".
"""

import argparse
import base64
import json
import pathlib
import zlib

import gguf
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
MODEL = FIXTURES / "model-b"


def bfl_transformer(diffusers):
    """BFL's names: q, k, v one below the other; the final modulation as (shift, scale)."""
    out = {}
    top = {
        "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
        "time_guidance_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "time_guidance_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
    }
    for theirs, ours in top.items():
        if theirs + ".weight" in diffusers:
            out[ours + ".weight"] = diffusers[theirs + ".weight"]
    scale, shift = np.split(diffusers["norm_out.linear.weight"], 2)
    out["final_layer.adaLN_modulation.1.weight"] = np.concatenate([shift, scale])
    block = 0
    while f"transformer_blocks.{block}.attn.to_q.weight" in diffusers:
        a, b = f"transformer_blocks.{block}.", f"double_blocks.{block}."
        for stream, names in (("img", ["to_q", "to_k", "to_v"]), ("txt", ["add_q_proj", "add_k_proj", "add_v_proj"])):
            out[f"{b}{stream}_attn.qkv.weight"] = np.concatenate([diffusers[f"{a}attn.{n}.weight"] for n in names])
        for theirs, ours in {
            "attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
            "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm",
        }.items():
            out[f"{b}{ours}.scale"] = diffusers[f"{a}{theirs}.weight"]
        for theirs, ours in {
            "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj", "ff.linear_in": "img_mlp.0",
            "ff.linear_out": "img_mlp.2", "ff_context.linear_in": "txt_mlp.0", "ff_context.linear_out": "txt_mlp.2",
        }.items():
            out[f"{b}{ours}.weight"] = diffusers[f"{a}{theirs}.weight"]
        block += 1
    block = 0
    while f"single_transformer_blocks.{block}.attn.to_out.weight" in diffusers:
        a, b = f"single_transformer_blocks.{block}.attn.", f"single_blocks.{block}."
        out[b + "linear1.weight"] = diffusers[a + "to_qkv_mlp_proj.weight"]
        out[b + "linear2.weight"] = diffusers[a + "to_out.weight"]
        out[b + "norm.query_norm.scale"] = diffusers[a + "norm_q.weight"]
        out[b + "norm.key_norm.scale"] = diffusers[a + "norm_k.weight"]
        block += 1
    return out


# Where in a block the f16 d lies, and the f16 that multiplies or is the minimum; gguf-py decodes these types but does not encode them.
UNENCODED = {"Q2_K": (80, 82), "Q3_K": (108, None), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208, None), "IQ4_NL": (0, None),
             "IQ4_XS": (0, None)}


def random_blocks(shape, std, kind, seed):
    """Random blocks of a type, of values about 0 with that deviation: all fields are random but the f16 ones, which are chosen."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(seed).integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)

    def put(at, value):
        if at is not None:
            raw[:, :, at:at + 2] = np.frombuffer(np.float16(value).tobytes(), np.uint8)

    def decoded(d, low):
        put(scale, d)
        put(minimum, low)
        return gguf.quants.dequantize(raw.reshape(shape[0], -1), kind)

    scale, minimum = UNENCODED[kind.name]
    steps, lows = decoded(1, 0), decoded(0, 1) if minimum is not None else None
    low = 0 if lows is None else -steps.mean() / lows.mean()
    d = std / (steps + (0 if lows is None else low * lows)).std()
    decoded(d, low * d)
    return raw.reshape(shape[0], -1)


def add_tensor(writer, name, data, kind, vectors=False):
    """`kind`: a GGMLQuantizationType for matrices, and for `vectors` if wanted, else these stay f32, and so does what has no whole
    blocks in a row."""
    types = gguf.GGMLQuantizationType
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if data.ndim < 2 and not vectors or data.shape[-1] % block:
        kind = types.F32
    data = np.ascontiguousarray(data, dtype=np.float32)
    if kind == types.F32:
        writer.add_tensor(name, data)
        return None
    seed = zlib.crc32(name.encode())
    raw = random_blocks(data.shape, data.std(), kind, seed) if kind.name in UNENCODED else gguf.quants.quantize(data, kind)
    writer.add_tensor(name, raw, raw_dtype=kind)
    return gguf.quants.dequantize(raw, kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def expect(expected, stem, name, decoded):
    """A row of a decoded BFL matrix, under the diffusers name and the row that it has there. A list instead of a dict takes the
    whole matrix as it is."""
    if isinstance(expected, list):
        expected.append((name, decoded))
        return
    rows = decoded.shape[0]
    target = name
    if ".qkv." in name:
        block = name.split(".")[1]
        names = ["to_q", "to_k", "to_v"] if "img" in name else ["add_q_proj", "add_k_proj", "add_v_proj"]
        for index, part in enumerate(names):
            first, count = index * rows // 3, rows // 3
            row = (7 * index + 5) % count
            expected[f"{stem}/transformer_blocks.{block}.attn.{part}.weight/{row}"] = decoded[first + row]
        return
    for theirs, ours in {"single_blocks": "single_transformer_blocks", "linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out",
                         "double_blocks": "transformer_blocks", "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
                         "img_mlp.0": "ff.linear_in", "img_mlp.2": "ff.linear_out", "txt_mlp.0": "ff_context.linear_in",
                         "txt_mlp.2": "ff_context.linear_out"}.items():
        target = target.replace(theirs, ours)
    if target == name:
        return
    row = rows - 3
    expected[f"{stem}/{target}/{row}"] = decoded[row]


def write_gguf_transformer(path, tensors, kind, expected=None, **split):
    """`split`: split_max_tensors and small_first_shard of GGUFWriter; PATH then becomes PATH-00001-of-0000N.gguf and so on."""
    writer = gguf.GGUFWriter(path, "flux", **split)
    writer.add_quantization_version(2)
    for name, data in tensors.items():
        decoded = add_tensor(writer, name, data, kind)
        if decoded is not None and expected is not None:
            expect(expected, path.stem, name, decoded)
    finish(writer)


def interleave(weights, heads):
    """Rows of each head from halves (i, i + d/2) to pairs (2i, 2i + 1), as llama.cpp's converter stores q and k."""
    rows, width = weights.shape
    return weights.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def add_tokenizer(writer, document, pre):
    special = {t["id"]: t["special"] for t in document["added_tokens"]}
    words = {v: k for k, v in document["model"]["vocab"].items()}
    words.update({t["id"]: t["content"] for t in document["added_tokens"]})
    tokens = [words[i] for i in range(max(words) + 1)]
    types = [gguf.TokenType.NORMAL if i not in special else
             gguf.TokenType.CONTROL if special[i] else gguf.TokenType.USER_DEFINED for i in range(len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]])


def write_gguf_text(path, config, tensors, prefix, kind, document, pre, architecture=None, bare=False, **split):
    """`bare`: no keys, and vectors quantised too, as stable-diffusion.cpp's converter writes it. `architecture`: "mistral3" is what llama.cpp's converter makes of Mistral3ForConditionalGeneration, "llama" of the plain
    Mistral; both have q and k in pairs (conversion/mistral3.py: its class is LlamaModel's)."""
    qwen3 = config["model_type"] == "qwen3"
    heads, kv = config["num_attention_heads"], config["num_key_value_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer = gguf.GGUFWriter(path, architecture or ("qwen3" if qwen3 else "llama"), **split)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if document:
        add_tokenizer(writer, document, pre)
    names = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    parts = {
        "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }
    for layer in range(config["num_hidden_layers"]):
        for theirs, ours in parts.items():
            names[f"layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    for theirs, ours in names.items():
        if prefix + theirs not in tensors:
            continue
        data = tensors[prefix + theirs]
        if not qwen3 and ours.endswith("attn_q.weight"):
            data = interleave(data, heads)
        if not qwen3 and ours.endswith("attn_k.weight"):
            data = interleave(data, kv)
        add_tensor(writer, ours, data, kind, bare)
    if bare:
        writer.kv_data[0].clear()
    finish(writer)


# -------------------------------------------------------------------------------------------------------------- fp8, fp4


def to_fp8(weights, scale):
    return np.clip(weights / scale, -448, 448).astype(ml_dtypes.float8_e4m3fn)


def is_large(name, data):
    return data.ndim == 2 and ("_attn." in name or "_mlp." in name or "linear" in name) and "final" not in name


def plain(data):
    return data.astype(ml_dtypes.bfloat16)


def write_fp8(path, tensors, expected, old):
    """Double blocks: X.weight_scale, one for all, with header metadata; single blocks: [out, 1] with X.comfy_quant. [old]:
    X.scale_weight everywhere."""
    out, layers = {}, {}
    for name, data in tensors.items():
        if not is_large(name, data):
            out[name] = plain(data)
            continue
        style = "old" if old else "rows" if "single" in name else "new"
        base = name[: -len(".weight")]
        if style == "rows":
            scale = np.abs(data).max(axis=1, keepdims=True).astype(np.float32) / 448
        else:
            scale = np.float32(np.abs(data).max() / 448)
        codes = to_fp8(data, scale)
        expect(expected, path.stem, name, codes.astype(np.float32) * scale)
        out[name] = codes
        out[base + {"new": ".weight_scale", "rows": ".weight_scale", "old": ".scale_weight"}[style]] = np.array(scale)
        out[base + {"new": ".input_scale", "rows": ".input_scale", "old": ".scale_input"}[style]] = np.array(1.5, np.float32)
        layer = {"format": "float8_e4m3fn"}
        if style == "new":
            layers[base] = layer
        if style == "rows":
            out[base + ".comfy_quant"] = np.frombuffer(json.dumps(layer).encode(), np.uint8)
    if old:
        out["scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    metadata = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})} if layers else None
    write_safetensors(path, out, metadata)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def write_nvfp4(path, tensors, expected):
    """Codes with the even element in the high nibble; block scales in cuBLAS's order of 128x4 tiles."""
    out = {}
    for name, data in tensors.items():
        if not is_large(name, data):
            out[name] = plain(data)
            continue
        base, (rows, cols) = name[: -len(".weight")], data.shape
        whole = np.float32(np.abs(data).max() / (448 * 6))
        blocks = data.reshape(rows, cols // 16, 16)
        scales = (np.abs(blocks).max(axis=2) / 6 / whole).astype(ml_dtypes.float8_e4m3fn)
        step = scales.astype(np.float32)[:, :, None] * whole
        codes = np.abs(blocks[..., None] / np.where(step == 0, 1, step)[..., None] - E2M1).argmin(axis=-1).astype(np.uint8)
        expect(expected, path.stem, name, (E2M1[codes] * scales.astype(np.float32)[:, :, None] * whole).reshape(rows, cols))
        codes = codes.reshape(rows, cols)
        columns = (cols // 16 + 3) // 4 * 4
        tiled = np.zeros((rows + 127) // 128 * 128 * columns, ml_dtypes.float8_e4m3fn)
        for r in range(rows):
            for c in range(cols // 16):
                tiled[((r // 128) * (columns // 4) + c // 4) * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4] = scales[r, c]
        out[name] = codes[:, 0::2] << 4 | codes[:, 1::2]
        out[base + ".weight_scale"] = tiled.reshape(-1, columns)
        out[base + ".weight_scale_2"] = np.array(whole)
    write_safetensors(path, out, None)


NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
                -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
                0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023,
                1.0], np.float32)


def write_nf4(path, diffusers, expected):
    """bitsandbytes: the first element in the high nibble, block scales beside, those of single blocks as codes themselves;
    diffusers' names."""
    out, block = {}, 32
    for name, data in diffusers.items():
        if data.ndim != 2 or "blocks." not in name or data.shape[1] % block:
            out[name] = plain(data)
            continue
        nested = "single" in name
        flat = data.reshape(-1, block)
        absmax = np.abs(flat).max(axis=1).astype(np.float32)
        state = {"quant_type": "nf4", "blocksize": block, "dtype": "bfloat16", "shape": list(data.shape)}
        if nested:
            offset, inner = np.float32(absmax.mean()), 256
            padded = np.pad(absmax - offset, (0, -len(absmax) % inner)).reshape(-1, inner)
            scales = np.abs(padded).max(axis=1).astype(np.float32)
            table = np.linspace(-1, 1, 256).astype(np.float32)
            codes = np.abs((padded / scales[:, None])[..., None] - table).argmin(axis=-1).astype(np.uint8).reshape(-1)[: len(absmax)]
            absmax = table[codes] * scales[np.arange(len(absmax)) // inner] + offset
            state |= {"nested_blocksize": inner, "nested_dtype": "float32", "nested_offset": float(offset)}
            out[name + ".absmax"], out[name + ".nested_absmax"], out[name + ".nested_quant_map"] = codes, scales, table
        else:
            out[name + ".absmax"] = absmax
        values = np.abs((flat / absmax[:, None])[..., None] - NF4).argmin(axis=-1).astype(np.uint8)
        decoded, row = (NF4[values] * absmax[:, None]).reshape(data.shape).astype(np.float32), data.shape[0] - 3
        if isinstance(expected, list):
            expected.append((name, decoded))
        else:
            expected[f"{path.stem}/{name}/{row}"] = decoded[row]
        values = values.reshape(-1)
        out[name] = (values[0::2] << 4 | values[1::2]).reshape(-1, 1)
        out[name + ".quant_map"] = NF4
        out[name + ".quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    write_safetensors(path, out, None)


def write_safetensors(path, tensors, metadata):
    save_file({k: np.ascontiguousarray(v).reshape(v.shape) for k, v in tensors.items()}, path, metadata=metadata)


# ------------------------------------------------------------------------------------------------------------- tokenizers


def byte_of():
    """The byte that each character of the byte-level alphabet spells."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def tekken_of(document, pattern):
    """tekken.json with the words of a tokenizer.json in the order of their ids: single bytes first, then by rank."""
    alphabet = byte_of()
    special = {t["id"] for t in document["added_tokens"]}
    words = sorted((i, w) for w, i in document["model"]["vocab"].items() if i not in special)
    raw = [bytes(alphabet[c] for c in w) for _, w in words]
    assert sorted(len(w) for w in raw[:256]) == [1] * 256
    vocab = [{"rank": i, "token_bytes": base64.b64encode(w).decode(), "token_str": None} for i, w in enumerate(raw)]
    specials = [{"rank": t["id"], "token_str": t["content"], "is_control": True} for t in document["added_tokens"]]
    config = {"pattern": pattern, "num_vocab_tokens": len(raw), "default_vocab_size": len(raw) + len(specials),
              "default_num_special_tokens": len(specials), "version": "v7"}
    return {"config": config, "vocab": vocab, "special_tokens": specials}


def write_tokenizers(out):
    """The two tokenizers of tests/fixtures as the vocabulary of a GGUF file, and one of them as tekken.json. The trained
    merges are in order of rank, so that splitting by ranks gives the same ids."""
    for name, pre in (("tokenizer-tekken", "tekken"), ("tokenizer-hf", "qwen2")):
        document = json.loads((FIXTURES / name / "tokenizer.json").read_text())
        writer = gguf.GGUFWriter(out / f"{name}.gguf", "llama")
        add_tokenizer(writer, document, pre)
        finish(writer)
    document = json.loads((FIXTURES / "tokenizer-tekken" / "tokenizer.json").read_text())
    pattern = document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    (out / "tekken.json").write_text(json.dumps(tekken_of(document, pattern), separators=(",", ":")))


def load_bf16(path):
    """All tensors of a file as f32; numpy has no bf16."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, out = json.loads(raw[8:8 + size]), {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind = {"BF16": ml_dtypes.bfloat16, "F32": np.float32}[entry["dtype"]]
        out[name] = np.frombuffer(raw[8 + size + begin:8 + size + end], kind).reshape(entry["shape"]).astype(np.float32)
    return out


def write_klein(out):
    """model-k, whose weights are bf16, with equal values: the transformer, and the text encoder with its tokenizer in three parts,
    the first of which has the keys only."""
    types, folder = gguf.GGMLQuantizationType, FIXTURES / "model-k"
    transformer = load_bf16(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    write_gguf_transformer(out / "klein.gguf", bfl_transformer(transformer), types.BF16)
    config = json.loads((folder / "text_encoder" / "config.json").read_text())
    document = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    text = load_bf16(folder / "text_encoder" / "model.safetensors")
    write_gguf_text(out / "klein-text.gguf", config, text, "model.", types.BF16, document, "qwen2", split_max_tensors=30,
                    small_first_shard=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    types = gguf.GGMLQuantizationType
    diffusers = load_file(MODEL / "transformer" / "diffusion_pytorch_model.safetensors")
    bfl = bfl_transformer(diffusers)
    expected = {}
    write_gguf_transformer(out / "transformer.gguf", bfl, types.BF16)
    write_gguf_transformer(out / "q8_0.gguf", bfl, types.Q8_0, expected)
    write_fp8(out / "fp8.safetensors", bfl, expected, False)
    write_fp8(out / "fp8-old.safetensors", bfl, expected, True)
    write_nvfp4(out / "nvfp4.safetensors", bfl, expected)
    write_nf4(out / "nf4.safetensors", diffusers, expected)
    save_file(expected, out / "expected.safetensors")
    config = json.loads((MODEL / "text_encoder" / "config.json").read_text())
    document = json.loads((MODEL / "tokenizer" / "tokenizer.json").read_text())
    text = load_file(MODEL / "text_encoder" / "model.safetensors")
    write_gguf_text(out / "text_encoder.gguf", config, text, "model.", types.BF16, document, "tekken")
    config = json.loads((FIXTURES / "qwen3" / "config.json").read_text())
    qwen3 = load_file(FIXTURES / "qwen3" / "model.safetensors")
    write_gguf_text(out / "qwen3.gguf", config, qwen3, "model.", types.F32, None, None)
    write_tokenizers(out)
    write_klein(out)


if __name__ == "__main__":
    main()
