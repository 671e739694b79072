#!/usr/bin/env python3
"""Writes the seed corpora of the fuzz targets into tests/fuzz/corpus: small files, good ones and bad ones of each kind.

usage: make_corpus.py            (the pictures need Pillow with AVIF and WebP)
"""

import io
import json
import pathlib
import struct
import zlib

from PIL import Image

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def put_once(target, name, data):
    """A copy of something else that changes: as it was the first time, which is as good a seed."""
    if not (CORPUS / target / name).exists():
        put(target, name, data)


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    text = text.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def make_safetensors():
    kinds = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F64": 8, "I8": 1, "U8": 1, "I16": 2, "U16": 2,
             "I32": 4, "U32": 4, "I64": 8, "U64": 8, "BOOL": 1}
    header, at = {"__metadata__": {"format": "pt", "note": "seed"}}, 0
    for kind, size in kinds.items():
        header[f"layer.{kind}"] = tensor(kind, [2, 1], at, at + 2 * size)
        at += 2 * size
    put("safetensors", "every-type", safetensors(header, bytes(range(at))))
    put("safetensors", "empty", safetensors({}))
    put("safetensors", "scalar", safetensors({"s": tensor("F32", [], 0, 4)}, struct.pack("<f", 1.5)))
    put("safetensors", "zero-size", safetensors({"z": tensor("F32", [0, 3], 0, 0), "a": tensor("U8", [1], 0, 1)}, b"x"))
    put("safetensors", "rank-5", safetensors({"r": tensor("BF16", [1, 2, 1, 2, 1], 0, 8)}, b"\0\x80\x7f\xff\xc0\x7f\x80\x7f"))
    put("safetensors", "escapes", safetensors('{"\\u00e4\\n\\ud83d\\ude00\\/":{"shape":[1],"data_offsets":[0,1],"dtype":"U8"}}   ', b"y"))
    put("safetensors", "overlap", safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"abc"))
    put("safetensors", "hole", safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"abc"))
    put("safetensors", "huge-shape", safetensors({"a": tensor("F64", [2**40, 2**40], 0, 8)}, bytes(8)))
    put("safetensors", "huge-header", safetensors({}, length=100 * 2**30))
    put("safetensors", "long-header", safetensors({}, length=3))
    put("safetensors", "unknown-type", safetensors({"a": tensor("F4", [1], 0, 1)}, b"a"))
    put("safetensors", "twice", safetensors('{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[1,2]}}', b"ab"))
    put("safetensors", "nan", safetensors({"n": tensor("F32", [1], 0, 4)}, struct.pack("<f", float("nan"))))


def gguf_text(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_pair(key, kind, value):
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf_array(key, kind, elements):
    return gguf_pair(key, 9, struct.pack("<IQ", kind, len(elements)) + b"".join(elements))


def gguf(pairs, tensors, data=b"", alignment=32, version=3, counts=None):
    """tensors: (name, dimensions, type, offset)."""
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs)
    for name, dimensions, kind, offset in tensors:
        head += gguf_text(name) + struct.pack("<I", len(dimensions))
        head += b"".join(struct.pack("<Q", d) for d in dimensions) + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % alignment) + data


def make_gguf():
    numbers = [(0, "<B", 200), (1, "<b", -1), (2, "<H", 3), (3, "<h", -4), (4, "<I", 5), (5, "<i", -6), (6, "<f", 1.5),
               (7, "<B", 1), (10, "<Q", 2**63), (11, "<q", -7), (12, "<d", -0.5)]
    pairs = [gguf_pair(f"k{kind}", kind, struct.pack(form, value)) for kind, form, value in numbers]
    pairs += [gguf_pair("text", 8, gguf_text("w\u00f6rd")), gguf_array("words", 8, [gguf_text("a"), gguf_text("")])]
    put("gguf", "values", gguf(pairs, []))
    put("gguf", "empty", gguf([], []))
    put("gguf", "version-2", gguf([], [], version=2))
    tensors = [("a", [2], 0, 0), ("b", [32, 2], 8, 32), ("c", [1, 1, 1, 3], 30, 128)]
    put("gguf", "tensors", gguf([gguf_pair("general.alignment", 4, struct.pack("<I", 32))], tensors, bytes(range(134))))
    words = ["a", "b", "ab", "<s>", "unused"]
    vocabulary = [gguf_pair("tokenizer.ggml.model", 8, gguf_text("gpt2")), gguf_pair("tokenizer.ggml.pre", 8, gguf_text("tekken")),
                  gguf_array("tokenizer.ggml.tokens", 8, [gguf_text(w) for w in words]),
                  gguf_array("tokenizer.ggml.token_type", 5, [struct.pack("<i", t) for t in (1, 1, 1, 3, 5)]),
                  gguf_array("tokenizer.ggml.merges", 8, [gguf_text("a b")])]
    put("gguf", "tokenizer", gguf(vocabulary, []))
    put("gguf", "overlap", gguf([], [("a", [16], 0, 0), ("b", [1], 0, 32)], bytes(64)))
    put("gguf", "huge-counts", gguf([], [], counts=(2**60, 2**60)))
    put("gguf", "huge-string", gguf([gguf_text("k") + struct.pack("<IQ", 8, 2**63)], []))
    put("gguf", "nested-array", gguf([gguf_array("k", 9, [])], []))
    put("gguf", "unknown-type", gguf([], [("a", [256], 16, 0)], bytes(66)))
    for name, shape in (("shape", [2, 32]), ("shape-of-half-blocks", [4, 16]), ("shape-of-others", [2, 33])):
        key = gguf_array("comfy.gguf.orig_shape.b", 5, [struct.pack("<i", n) for n in shape])
        put("gguf", name, gguf([key], [("b", [64], 8, 0)], bytes(range(68))))

    def part(number, count, total, tensors, data):
        return gguf([gguf_pair("split.no", 2, struct.pack("<H", number)), gguf_pair("split.count", 2, struct.pack("<H", count)),
                     gguf_pair("split.tensors.count", 5, struct.pack("<i", total))], tensors, data)

    first, second = part(0, 2, 2, [("a", [2], 0, 0)], bytes(32)), part(1, 2, 2, [("b", [3], 0, 0)], bytes(12))
    put("gguf", "split", first + second)
    put("gguf", "split-swapped", second + first)
    put("gguf", "split-twice", first + part(1, 2, 2, [("a", [2], 0, 0)], bytes(8)))
    put("gguf", "split-total", part(0, 2, 3, [], b"") + part(1, 2, 3, [("b", [3], 0, 0)], bytes(12)))


def make_layout():
    """Heads of safetensors files; the target puts zeros behind them."""
    def head(entries, metadata=None):
        header, at = {"__metadata__": metadata} if metadata else {}, 0
        sizes = {"F32": 4, "F8_E4M3": 1, "U8": 1, "BF16": 2}
        for name, (kind, shape) in entries.items():
            size = sizes[kind]
            for extent in shape:
                size *= extent
            header[name] = tensor(kind, shape, at, at + size)
            at += size
        return json.dumps(header, separators=(",", ":"))
    bfl = {"double_stream_modulation_img.lin.weight": ("F32", [6, 1]), "double_blocks.0.img_attn.qkv.weight": ("F8_E4M3", [3, 2]),
           "double_blocks.0.img_attn.qkv.weight_scale": ("F32", [3, 1]), "double_blocks.0.img_attn.qkv.input_scale": ("F32", []),
           "final_layer.adaLN_modulation.1.weight": ("BF16", [2, 1])}
    put("layout", "bfl-fp8", head(bfl))
    put("layout", "comfy", head({"model.diffusion_model." + k: v for k, v in bfl.items()}))
    put("layout", "old-fp8", head({"scaled_fp8": ("F8_E4M3", [2]), "a.weight": ("F8_E4M3", [2, 2]), "a.scale_weight": ("F32", [1])}))
    layers = json.dumps({"format_version": "1.0", "layers": {"a": {"format": "float8_e4m3fn"}}})
    put("layout", "metadata", head({"a.weight": ("F8_E4M3", [2, 2]), "a.weight_scale": ("F32", [])}, {"_quantization_metadata": layers}))
    put("layout", "nvfp4", head({"a.weight": ("U8", [2, 8]), "a.weight_scale": ("F8_E4M3", [128, 4]), "a.weight_scale_2": ("F32", [])}))
    put("layout", "nf4", head({"a.weight": ("U8", [32, 1]), "a.weight.absmax": ("F32", [1]), "a.weight.quant_map": ("F32", [16]),
                               "a.weight.quant_state.bitsandbytes__nf4": ("U8", [9])}))
    put("layout", "text", head({"token_embd.weight": ("F32", [2, 2]), "blk.0.attn_q.weight": ("F32", [2, 2]), "blk.0.attn_norm.weight": ("F32", [2])}))
    put("layout", "mistral", head({"tok_embeddings.weight": ("F32", [2, 2]), "layers.0.attention.wq.weight": ("F32", [2, 2])}))
    put("layout", "vae", head({"decoder.conv_in.weight": ("F32", [1, 1, 1, 1]), "bn.running_mean": ("F32", [4]),
                               "decoder.up.0.block.0.conv1.weight": ("F32", [1, 1, 1, 1]), "decoder.up.1.block.0.conv1.weight": ("F32", [1, 1, 1, 1]),
                               "decoder.mid.attn_1.q.weight": ("F32", [1, 1, 1, 1])}))


# The layers of the small transformer of fuzz_lora.c: names of diffusers and BFL, rows, columns.
LORA_LAYERS = [("x_embedder", "img_in", 4, 2), ("norm_out.linear", "final_layer.adaLN_modulation.1", 8, 4),
               ("proj_out", "final_layer.linear", 2, 4), ("transformer_blocks.0.attn.to_qkv", "double_blocks.0.img_attn.qkv", 12, 4),
               ("transformer_blocks.1.ff_context.linear_out", "double_blocks.1.txt_mlp.2", 4, 6),
               ("single_transformer_blocks.1.attn.to_qkv_mlp_proj", "single_blocks.1.linear1", 24, 4),
               ("time_guidance_embed.guidance_embedder.linear_1", "guidance_in.in_layer", 4, 2)]


def lora_file(prefix, bfl, down, up, kind="F32", size=4, alpha=None, layers=LORA_LAYERS, metadata=None, more=None):
    header, data = ({"__metadata__": {"lora_adapter_metadata": json.dumps(metadata)}} if metadata is not None else {}), b""
    for index, (diffusers, other, out, into) in enumerate(layers):
        rank, name = 1 + index % 3, other if bfl else diffusers
        if prefix.endswith("_"):
            name = name.replace(".", "_")
        for ending, shape in [(down, [rank, into]), (up, [out, rank])]:
            bytes_ = shape[0] * shape[1] * size
            header[f"{prefix}{name}{ending}"] = tensor(kind, shape, len(data), len(data) + bytes_)
            data += bytes(i % 48 + 1 for i in range(bytes_))
        if alpha is not None:
            header[f"{prefix}{name}.alpha"] = tensor("F32", [], len(data), len(data) + 4)
            data += struct.pack("<f", alpha)
    for name, (kind_, shape, bytes_) in (more or {}).items():
        header[name] = tensor(kind_, shape, len(data), len(data) + len(bytes_))
        data += bytes_
    return safetensors(header, data)


def make_lora():
    peft, kohya = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")
    put("lora", "diffusers", lora_file("transformer.", False, *peft))
    put("lora", "default", lora_file("", False, ".lora_A.default.weight", ".lora_B.default.weight", "BF16", 2))
    put("lora", "peft", lora_file("base_model.model.", True, *peft, "F16", 2))
    put("lora", "comfy", lora_file("diffusion_model.", True, *kohya, alpha=2.0))
    put("lora", "kohya", lora_file("lora_unet_", True, *kohya, "F8_E4M3", 1, alpha=0.5))
    put("lora", "f64", lora_file("lora_transformer_", False, *kohya, "F64", 8))
    split = [(f"transformer_blocks.0.attn.to_{part}", "", 4, 4) for part in "qkv"] + [("single_transformer_blocks.0.proj_mlp", "", 12, 4)]
    put("lora", "split", lora_file("transformer.", False, *peft, layers=split))
    put("lora", "cut", lora_file("diffusion_model.", False, *kohya, layers=[("sformer_blocks.0.attn.to_q", "", 4, 4)]))
    said = {"transformer.r": 2, "transformer.lora_alpha": 4, "transformer.alpha_pattern": {"proj_out": 1, "^x_embedder$": 3}, "use_rslora": True}
    put("lora", "metadata", lora_file("transformer.", False, *peft, metadata=said))
    put("lora", "patterns", lora_file("transformer.", False, *peft, metadata={"alpha_pattern": {"a.*b": 1}}))
    put("lora", "unknown", lora_file("transformer.", False, *peft, more={"norm.lora_A.weight": ("F32", [1], bytes(4))}))
    put("lora", "dora", lora_file("transformer.", False, *peft, more={"transformer.x_embedder.dora_scale": ("F32", [1], bytes(4))}))
    put("lora", "nan", lora_file("transformer.", False, *peft, alpha=float("nan")))
    put("lora", "alone", lora_file("transformer.", False, ".lora_A.weight", ".lora_C.weight"))
    put("lora", "lokr", lora_file("diffusion_model.", True, ".lokr_w1", ".lokr_w2"))
    put("lora", "twice", lora_file("", False, *peft, layers=[LORA_LAYERS[0], ("img_in", "", 4, 2)]))
    blocks = [("x_embedder.lora_A.weight", [32, 1], 8, 0), ("x_embedder.lora_B.weight", [32, 4], 8, 64)]
    put("lora", "gguf-blocks", gguf([], blocks, bytes(range(200))))
    plain = [("x_embedder.lora_A.weight", [2, 1], 0, 0), ("x_embedder.lora_B.weight", [1, 4], 1, 32)]
    put("lora", "gguf", gguf([], plain, bytes(range(64))))
    put("lora", "beyond", lora_file("", False, *peft, layers=[("transformer_blocks.999999.attn.to_q", "", 4, 4)]))


def make_config():
    transformer = {"_class_name": "Flux2Transformer2DModel", "attention_head_dim": 32, "axes_dims_rope": [8, 8, 8, 8],
                   "in_channels": 16, "joint_attention_dim": 48, "mlp_ratio": 3.0, "num_attention_heads": 2, "num_layers": 2,
                   "num_single_layers": 3, "out_channels": None, "patch_size": 1, "rope_theta": 2000, "eps": 1e-6,
                   "timestep_guidance_channels": 256, "guidance_embeds": True}
    vae = {"_class_name": "AutoencoderKLFlux2", "act_fn": "silu", "batch_norm_eps": 1e-4, "block_out_channels": [32, 64, 64, 64],
           "down_block_types": ["DownEncoderBlock2D"] * 4, "in_channels": 3, "latent_channels": 4, "layers_per_block": 2,
           "norm_num_groups": 8, "out_channels": 3, "patch_size": [2, 2], "use_post_quant_conv": True, "use_quant_conv": True}
    language = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3",
            "text_config": {"model_type": "mistral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6,
                            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-5,
                            "rope_theta": 1e9, "vocab_size": 300, "hidden_act": "silu", "sliding_window": None,
                            "rope_parameters": {"rope_theta": 1e9, "rope_type": "default"}}}
    limn = {"limn": 1, "name": "seed", "system_message": "Describe what is seen.", "text_taps": [10, 20, 30], "text_length": 512,
            "default_size": "64x48", "sizes": ["64x48", "1024x1024"], "steps": 8, "guidance": 2.5, "reference_area": 1048576,
            "trained": True, "sigmas": [1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031],
            "software": "seed", "make": "seed"}
    index = {"_class_name": "Flux2Pipeline", "_diffusers_version": "0.36.0", "transformer": ["diffusers", "Flux2Transformer2DModel"],
             "vae": ["diffusers", "AutoencoderKLFlux2"], "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "base_image_seq_len": 256, "base_shift": 0.5,
                 "max_image_seq_len": 4096, "max_shift": 1.15, "num_train_timesteps": 1000, "shift": 3.0,
                 "use_dynamic_shifting": True, "time_shift_type": "exponential"}
    def text(reader, value):  # the first byte says which reader gets it, see fuzz_config.c
        return reader + (value if isinstance(value, str) else json.dumps(value, separators=(",", ":")))

    put("config", "transformer", text("1", transformer))
    put("config", "vae", text("4", vae))
    put("config", "text", text("5", language))
    put("config", "limn", text("2", limn))
    put("config", "limn-empty", text("2", {}))
    put("config", "base", text("6", {**limn, "base": "../base", "loras": [{"file": "a.safetensors"}, {"file": "/b", "scale": -0.5}]}))
    put("config", "base-wrong", text("6", {"base": 7, "loras": [{"file": "", "scale": 5}]}))
    put("config", "limn-klein", text("7", {"steps": 20, "guidance": 3, "text_template": "qwen3", "text_taps": [9, 18, 27]}))
    put("config", "limn-klein-empty", text("8", {}))
    put("config", "limn-klein-system", text("8", limn))
    put("config", "index-klein", text("3", {**index, "_class_name": "Flux2KleinPipeline", "is_distilled": True}))
    put("config", "index", text("3", index))
    put("config", "scheduler", text("0", scheduler))
    put("config", "deep", text("0", "[" * 100 + "]" * 100))
    put("config", "twice", text("1", '{"num_layers":1,"num_layers":2}'))
    put("config", "numbers", text("0", '{"a":-1,"b":1e308,"c":9223372036854775807,"d":0.0,"e":[1,2.5,null],"f":"\\ud83d\\ude00"}'))
    put("config", "wrong-types", text("1", {**transformer, "num_layers": "2", "axes_dims_rope": [8, "8"], "eps": None}))
    put("config", "huge", text("1", {**transformer, "num_layers": 2**40, "attention_head_dim": 0, "num_attention_heads": -1}))
    put("config", "sizes", text("2", {**limn, "default_size": "99999x1", "sizes": ["x", "64x64x"], "sigmas": [0.5, 0.5]}))
    put("config", "class", text("3", {**index, "_class_name": "StableDiffusionPipeline"}))


def frames(*messages, piece=255):
    out = bytes([piece])
    for message in messages:
        text = message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode()
        out += struct.pack("<I", len(text)) + text
    return out


def make_worker_message():
    job = {"v": 1, "type": "job", "job": "job-00000001", "attempt": 1, "prompt": "a red circle", "width": 64, "height": 48,
           "deliver_width": 60, "deliver_height": 40, "count": 2, "seed": 7, "steps": 4, "guidance": 2.5,
           "output_format": "png", "output_quality": -1, "preview_count": 2}
    cancel = {"v": 1, "type": "cancel", "job": "job-00000001", "attempt": 1}
    put("worker_message", "job", frames(job))
    put("worker_message", "sigmas", frames({**job, "sigmas": [1.0, 0.5, 0.25], "references": []}))
    put("worker_message", "references", frames({**job, "references": ["job-00000001-ref-0", "../x", 7]}))
    put("worker_message", "prompt-file", frames({**job, "prompt": None, "prompt_file": "job-00000001-prompt"}))
    put("worker_message", "several", frames(job, cancel, {"v": 1, "type": "stop"}, piece=0))
    put("worker_message", "events", frames({"v": 1, "type": "heartbeat", "headway": 3},
                                           {"v": 1, "type": "image", "job": "job-00000001", "attempt": 1, "file": "a.png"}))
    put("worker_message", "mask", frames({**job, "references": ["job-00000001-ref-0"], "mask": "job-00000001-mask"}))
    put("worker_message", "transparent", frames({**job, "transparent": True, "output_format": "avif"}))
    put("worker_message", "loras", frames({**job, "loras": [{"file": "/l/a.safetensors", "scale": 0.5}, {"file": "b", "scale": -4}]}))
    put("worker_message", "version", frames({**job, "v": 2}))
    put("worker_message", "no-object", frames(b"[1]"))
    put("worker_message", "ranges", frames({**job, "count": 11, "width": -1, "seed": 2**63 - 1, "guidance": 1e7}))
    put("worker_message", "long", b"\x01\xff\xff\xff\x7f{}")
    put("worker_message", "short", b"\x02\x05\0\0\0{}")


def make_multipart():
    def body(boundary, parts, before=b"", close=True):
        out = before
        for headers, data in parts:
            out += b"--" + boundary + b"\r\n" + b"".join(line + b"\r\n" for line in headers) + b"\r\n" + data + b"\r\n"
        return out + (b"--" + boundary + b"--\r\n" if close else b"")

    def text(name, value):
        return [b'Content-Disposition: form-data; name="' + name + b'"'], value

    def upload(name, filename, kind, value):
        return [b'Content-Disposition: form-data; name="' + name + b'"; filename="' + filename + b'"', b"Content-Type: " + kind], value

    plain = b"multipart/form-data; boundary=x\n"
    two = [text(b"prompt", b"red"), upload(b"image[]", b"a.png", b"image/png", b"\r\n--y\r\n-")]
    put("multipart", "form", b"\x06" + plain + body(b"x", two))
    put("multipart", "whole", b"\xff" + plain + body(b"x", two * 3))
    put("multipart", "quoted", b'\x00multipart/form-data; charset=utf-8; boundary="a b"\n' + body(b"a b", [text(b"q", b"")], before=b"preamble\r\n"))
    put("multipart", "look-alike", b"\x02" + plain + body(b"x", [text(b"d", b"\r\n--\r\n-\r\r\n--X\r\n")]))
    put("multipart", "open", b"\x10" + plain + body(b"x", two, close=False))
    put("multipart", "headers", b"\x10" + plain + b"--x\r\nno colon\r\n\r\n\r\n--x--")
    put("multipart", "no-name", b"\x10" + plain + body(b"x", [([b"Content-Type: text/plain"], b"v")]))
    put("multipart", "no-boundary", b"\x10multipart/form-data\n" + body(b"x", two))
    put("multipart", "escapes", b"\x10" + plain + body(b"x", [upload(b"a", b'q\\"%22\xc3\xa9', b"x", b"v")]))


def make_head():
    put("head", "get", b"\xffGET /v1/models?schema=true HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
    put("head", "post", b"\xffPOST /v1/images/generations HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX: a\r\n b\r\n\r\n{}")
    put("head", "old", b"\xff\r\n\nGET / HTTP/1.0\n\n")
    put("head", "http2", b"\xffPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    put("head", "tls", b"\xff\x16\x03\x01\x02\x00\x01\x00")
    put("head", "length", b"\xffPUT / HTTP/1.1\r\nContent-Length: -5\r\n\r\n")
    put("head", "large", b"\x10GET / HTTP/1.1\r\nX: " + b"x" * 100)
    put("head", "long", b"\x01GET /" + b"x" * 100)


def make_chunks():
    put("chunks", "good", b"\x035\r\nhello\r\na;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n")
    put("chunks", "bare", b"\x405\nhello\n0\n\n")
    put("chunks", "large", b"\x01ffffffffffffffffff\r\n")
    put("chunks", "wrong", b"\x105\r\nhelloworld\r\n")
    put("chunks", "lines", b"\x050\r\n" + b"X: y\r\n" * 20 + b"\r\n")


def make_image_request():
    full = {"prompt": "a red circle", "model": "flux", "n": 2, "size": "1024x768", "response_format": "b64_json",
            "output_format": "webp", "output_compression": 80, "seed": 7, "steps": 8, "guidance": 2.5, "sigmas": [1, 0.5],
            "quality": "auto", "background": "opaque", "user": "u", "something": {"else": None}}
    form = {name: str(value) for name, value in full.items() if name not in ("sigmas", "something")}
    put("image_request", "full", "\0" + json.dumps(full))
    put("image_request", "form", "\7" + json.dumps(form))
    put("image_request", "edit-auto", "\6" + json.dumps({"prompt": "x", "size": "auto"}))
    put("image_request", "wide", "\0" + json.dumps({"prompt": "x", "size": "65536x1"}))
    put("image_request", "no-picture", "\2" + json.dumps({"prompt": "x"}))
    put("image_request", "nulls", "\0" + json.dumps(dict.fromkeys(full)))
    put("image_request", "ranges", "\0" + json.dumps({**full, "n": 11, "seed": -1}))
    put("image_request", "types", "\0" + json.dumps({**full, "prompt": 7, "size": [1, 2]}))
    put("image_request", "numbers", "\1" + json.dumps({"prompt": "x", "n": "0x1", "guidance": "nan", "seed": "1e3"}))
    put("image_request", "stream", "\0" + json.dumps({"prompt": "x", "stream": True}))
    put("image_request", "list", "\0[]")
    put("image_request", "layout", "\0" + json.dumps({"prompt": "x", "aspect_ratio": "16:9", "resolution": 0.25, "mask": "m"}))
    pictures = {"prompt": "x", "images": [{"image_url": "https://a.example/1"}, "data:image/png;base64,AAAA", {"file_id": "f"}]}
    put("image_request", "pictures", "\2" + json.dumps(pictures))
    put("image_request", "urls", "\2" + json.dumps({"prompt": "x", "image": ["https://a.example/1"], "mask": "https://a.example/2"}))
    loras = ["ink", {"name": "wash", "scale": -0.5}, {"name": "line", "scale": None}]
    put("image_request", "loras", "\0" + json.dumps({"prompt": "x", "lora": loras}))
    put("image_request", "loras-form", "\1" + json.dumps({"prompt": "x", "lora": json.dumps(loras)}))
    features = {"prompt": "x", "background": "transparent", "prompt_enhancement": "on", "enable_safety_checker": True,
                "sync_mode": True, "lora": [{"name": "l"}], "stream": True, "partial_images": 3, "output_format": "avif"}
    put("image_request", "features", "\0" + json.dumps(features))


def make_data_uri():
    put("data_uri", "png", "data:image/png;base64,iVBORw0KGgo=")
    put("data_uri", "open", "data:image/jpeg;name=a;base64,_-8\r\n ")
    put("data_uri", "percent", "data:,a%20b%zz")
    put("data_uri", "bare", "data:;base64,AA=A")
    put("data_uri", "no-comma", "data:image/png;base64")
    put("data_uri", "type", "DATA:text/html;base64,AAAA")


def make_query():
    put("query", "requests", "0limit=5&starting_after=req_1&status=completed&summary=true")
    put("query", "times", "0created_after=2026-11-22T10:00:00Z&created_before=1795397915&key_id=abc&model=m&user=u")
    put("query", "both", "0starting_after=a&ending_before=b&limit=101&limit=-1&status=what")
    put("query", "keys", "1limit=100&status=revoked&project=default&ending_before=k")
    put("query", "stats", "2model=flux.2-dev&provider=local&mode=image-edit")
    put("query", "bare", "0&&=&limit&=5")


def make_hub():
    commit, sha256 = "0123456789abcdef" * 2 + "01234567", "0123456789abcdef" * 4
    info = {"id": "a/b", "sha": commit, "gated": "auto", "private": False, "tags": ["license:other"],
            "cardData": {"license": "other", "license_name": "own"}, "siblings": [{"rfilename": "vae/config.json"}]}
    put("hub", "info", "0" + json.dumps(info))
    put("hub", "info-licences", "0" + json.dumps({**info, "gated": False, "cardData": {"license": ["mit", "x"]}}))
    put("hub", "info-commit", "0" + json.dumps({**info, "sha": "../x"}))
    small = {"type": "file", "oid": commit, "size": 12, "path": "vae/config.json"}
    large = {"type": "file", "oid": commit, "size": 9, "path": "vae/model.safetensors", "xetHash": sha256,
             "lfs": {"oid": sha256, "size": 900, "pointerSize": 134}}
    put("hub", "tree", "1" + json.dumps([{"type": "directory", "oid": commit, "size": 0, "path": "vae"}, small, large]))
    put("hub", "tree-twice", "1" + json.dumps([small, small]))
    for number, path in enumerate(("../x", "/x", "a//b", "a/./b", "a\\b", "\u00fc/\u2192", "a\u0001", "\u202ea", "." * 3)):
        put("hub", f"tree-path-{number}", "1" + json.dumps([{**small, "path": path}]))
    put("hub", "tree-hash", "1" + json.dumps([{**large, "lfs": {"oid": "sha256:" + sha256, "size": 1}}]))
    put("hub", "headers", "2HTTP/1.1 302 Found\r\nETag: W/\"a\"\r\nX-Linked-ETag: \"%s\"\r\nHTTP/1.1 206 Partial\r\nETag: \"b\"\r\n"
        "Content-Range: bytes 5-9/10\r\nRetry-After: 7\r\nX-Error-Code: GatedRepo\r\nX-Error-Message: no\r\n\r\n" % sha256)
    put("hub", "headers-link", "2Link: <https://a/b?c=1>; rel=\"prev\", <https://a/b?c=3>; rel=\"next\"\r\n"
        "Retry-After: Wed, 21 Oct 2026 07:28:00 GMT\r\nContent-Range: bytes */99999999999999999999\r\n")
    python = ("NAME\nimport os\nOTHER = f\"{os} NAME = '\"\nNAME = (\"a\\n\" # no\n  r'b\\n' \"\"\"c\n\\x41\\u2192\\U0001F600\\101\\q\\\n\"\"\").strip()\n")
    put("hub", "python", "3" + python)
    for number, value in enumerate(("b'x'", "'x", "'''x", "1", "'\\N{DASH}'", "'\\x4'", "'\\ud800'", "'a' + 'b'", "(('a'", "'a'\nNAME = 'b'")):
        put("hub", f"python-{number}", f"3NAME\nNAME: str = {value}\n")
    for number, text in enumerate(("owner/name@refs/pr/1", "a--b/c", "https://user@hub.example/", "http://127.0.0.1:80/x", "vae/*.json",
                                   "https://hub.example:443/a?b#c")):
        put("hub", f"name-{number}", "4" + text)


def make_tokenizer():
    def file(pre_tokenizer, merges=("a b", "ab a"), added=(), **more):
        value = {"version": "1.0", "added_tokens": list(added), "normalizer": None, "pre_tokenizer": pre_tokenizer,
                 "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {"a": 1, "b": 2, "ab": 3, "aba": 4, "\u0120": 5, "\u010a": 6, "\u00c3": 7},
                           "merges": list(merges)}}
        value.update(more)
        return b"\0" + json.dumps(value, separators=(",", ":")).encode()

    def split(regex, behavior="Isolated", invert=False):
        return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}

    def token(content, number, **more):
        value = {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                 "special": True}
        value.update(more)
        return value

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    put("tokenizer", "small", file(level))
    put("tokenizer", "regex", file({"type": "Sequence", "pretokenizers": [split(words), level]}))
    put("tokenizer", "gpt2", file({**level, "use_regex": True, "add_prefix_space": True}))
    put("tokenizer", "pairs", file(level, merges=[["a", "b"], ["ab", "a"]]))
    put("tokenizer", "added", file(level, added=[token("<s>", 8), token("</s>", 9, lstrip=True, rstrip=True), token("123", 10, single_word=True, normalized=True)]))
    put("tokenizer", "nfc", file(level, added=[token("A\u0301", 8, normalized=True)], normalizer={"type": "NFC"}))
    put("tokenizer", "behaviors", file({"type": "Sequence", "pretokenizers": [split(" ", "Removed"), split("a+", "MergedWithNext"), split("b", "Contiguous", True), level]}))
    put("tokenizer", "backtracking", file({"type": "Sequence", "pretokenizers": [split("(a*)*c"), level]}))
    put("tokenizer", "bad-regex", file(split("(")))
    put("tokenizer", "merge-unknown", file(level, merges=["a z"]))
    put("tokenizer", "same-id", file(level, added=[token("x", 8), token("y", 8)]))
    put("tokenizer", "huge-id", file(level, added=[token("x", 2**31 - 1)]))
    put("tokenizer", "no-level", file(None))
    for index, text in enumerate(["", "a red circle above a blue square", "don't IT'S  123 \n\t\r\n x", "[INST]hi[/INST]</s>",
                                  "\u4e2d\u6587 \u0627\u0644 \u00e9\u0301 \U0001F468\u200d\U0001F469"]):
        for number in (128, 129):
            put("tokenizer", f"text-{index}-{number - 128}", bytes([number]) + text.encode())
    put("tokenizer", "text-broken", b"\x80\xff\xc3\x28\xed\xa0\x80\xf0\x9f")
    words = [{"rank": 0, "token_bytes": "YQ==", "token_str": "a"}, {"rank": 1, "token_bytes": "Yg==", "token_str": "\0"},
             {"rank": 2, "token_bytes": "YWI=", "token_str": "ab"}]
    config = {"pattern": "\\p{L}+|.", "default_vocab_size": 6, "default_num_special_tokens": 3, "version": "v3"}
    put("tokenizer", "tekken", json.dumps({"config": config, "vocab": words}))
    specials = [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(("<unk>", "<s>", "</s>"))]
    put("tokenizer", "tekken-specials", json.dumps({"config": config, "vocab": words, "special_tokens": specials}))


def picture(width, height, mode="RGB"):
    image = Image.new("RGB", (width, height))
    image.putdata([(x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x * y) % 256)
                   for y in range(height) for x in range(width)])
    return image.convert(mode)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width, height, depth, colour, rows, extra=b""):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def make_image():
    small = picture(9, 7)
    for mode in ("RGB", "L", "P", "RGBA", "1", "LA"):
        put("image", f"{mode}.png", encoded(picture(9, 7, "L").convert(mode) if mode == "LA" else small.convert(mode), "PNG"))
    put("image", "16-bit.png", png(3, 2, 16, 2, b"\0" + bytes(range(18)) + b"\0" + bytes(range(18, 36))))
    put("image", "one.png", encoded(picture(1, 1), "PNG"))
    put("image", "wide.png", png(30000, 1, 1, 0, b"\0" + bytes(3750)))
    put("image", "huge-claim.png", png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"))
    put("image", "truncated.png", encoded(small, "PNG")[:-20])
    put("image", "long-chunk.png", png(2, 2, 8, 0, bytes(6), b"aaaaeXIf"))
    put("image", "rgb.jpg", encoded(small, "JPEG", quality=50))
    put("image", "grey.jpg", encoded(small.convert("L"), "JPEG", quality=50))
    put("image", "cmyk.jpg", encoded(small.convert("CMYK"), "JPEG", quality=50))
    put("image", "progressive.jpg", encoded(small, "JPEG", quality=50, progressive=True))
    turned = Image.Exif()
    turned[0x0112] = 6
    put("image", "turned.jpg", encoded(small, "JPEG", quality=50, exif=turned))
    put("image", "turned.png", encoded(small, "PNG", exif=turned))
    put("image", "turned.webp", encoded(small, "WEBP", quality=50, exif=turned))
    put("image", "truncated.jpg", encoded(small, "JPEG", quality=50)[:-30])
    put("image", "lossy.webp", encoded(small, "WEBP", quality=50))
    put("image", "lossless.webp", encoded(small.convert("RGBA"), "WEBP", lossless=True))
    put("image", "animated.webp", encoded(small, "WEBP", save_all=True, append_images=[picture(9, 7, "L").convert("RGB")]))
    put("image", "one.gif", encoded(small.convert("P"), "GIF"))
    put("image", "animated.gif", encoded(small.convert("P"), "GIF", save_all=True, append_images=[picture(9, 7, "L")]))
    put("image", "rgb.avif", encoded(small, "AVIF", quality=50))
    put("image", "text.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="4" height="4"/>')


def make_yaml():
    catalog = pathlib.Path(__file__).resolve().parents[2] / "catalog"
    tree = "a: &x {b: [1, -2.5, 'c', true]}\nd: *x\ne: |\n  text\n  more\nf: ~\n? g\n: h\n"
    config = ("server: {host: '::1', port: 8080, trusted_proxies: [10.0.0.0/8]}\nmedia: {lifetime: 90m, quota: 2GiB}\n"
              "local: {prices: {pictogram: {output_megapixel: 0.008}}, models: {a: b}}\naliases: {gpt-image-*: pictogram}\n")
    put("yaml", "loras", "1\nloras: {ink: /l/ink, wash: {file: 'a b', models: ['x*', y], scale: -0.125}}\nlocal: {loras: [a, 'b:2']}\n")
    put("yaml", "tree", "0" + tree)
    put("yaml", "bomb", "0" + "".join(f"{k}: &{k} [{', '.join([f'*{chr(ord(k) - 1)}' if k > 'a' else 'x'] * 9)}]\n" for k in "abcdefg"))
    put("yaml", "deep", "0" + "[" * 60)
    put("yaml", "self", "0a: &a [*a]\n")
    put("yaml", "twice", "0a: 1\na: 2\n")
    put("yaml", "tag", "0a: !!int 1\n---\n")
    put("yaml", "config", "1\n" + config)
    put("yaml", "variable", "1LIMN_MEDIA_FOLDER=\"a\\\n" + config)
    put("yaml", "proxies", "1LIMN_SERVER_TRUSTED_PROXIES=1.2.3.4/8, ::/0\nlog: {level: debug}\n")
    put("yaml", "no-utf8", b"1LIMN_MEDIA_FOLDER=a\xf7\x8c\n" + config.encode())
    put("yaml", "controls", '1\nmedia: {folder: "\\x01\\u0085\\u2028\\ufeff"}\n')
    put("yaml", "unknown", "1\nserver: {prot: 1}\n")
    for card in ("flux.2-dev-turbo", "pictogram"):
        put_once("yaml", card, "2" + (catalog / f"{card}.yaml").read_text())
    put_once("yaml", "parameters", "3" + "".join((catalog / "parameters.yaml").read_text().partition("- name: lora")[0]))


def make_size():
    for index, lines in enumerate([["1024x1024"], ["16:9", "", "2K"], ["auto", "2.39:1", "0.25"], ["", "", "", "3000x2000"], ["7:1", "1:1"],
                                   ["65536x1", "auto", "auto", "1x65536"], ["1K"], ["0x0"], ["999999x999999"], ["", "1:0", "1MP"],
                                   ["0.000001:999999", "", "0.000001K", "64x64"], ["0.008"]]):
        put("size", f"case-{index}", "\n".join(lines))


def make_encode():
    """Format, quality, width, height, fields and alpha; pixels, alpha, and three texts with their lengths in front."""
    for number, name in enumerate(("png", "jpeg", "webp", "gif", "avif")):
        for fields in (0, 7, 15):
            width, height = 9, 5
            pixels = bytes(x * 7 % 256 for x in range(width * height * (4 if fields & 8 else 3)))
            texts = b"".join(bytes([n]) + b"AI generated; seed 1 " * n for n in (1, 2, 30))
            put("encode", f"{name}-{fields}", bytes([number, 81, width - 1, height - 1, fields]) + pixels + texts)


def make_stored():
    """Kind, rows, steps a row, alignment, the way a tensor is wrong, and which; then data."""
    for kind in range(26):
        for number, data in enumerate((bytes(range(1, 256, 2)), b"\x66\x2e\x01\x9a\x7f\x40\x3f", bytes([0xff, 0x7f, 0, 0x80, 0, 0, 1]))):
            put("stored", f"kind-{kind}-{number}", bytes([kind, (2, 130, 16)[number], 3 + number, kind % 4, 0, 1]) + data)
    for kind in (17, 19, 21, 23, 24, 25):
        for way in range(1, 5):
            put("stored", f"wrong-{kind}-{way}", bytes([kind, 3, 2, 0, way, way % 4 + (kind > 22)]) + b"\0\0\x80\x3f")
    for number, text in enumerate(('{"quant_type":"nf4","blocksize":64,"shape":[4,64]}', '{"quant_type":"nf4","blocksize":32,"shape":[256]}',
                                   '{"quant_type":"nf4","blocksize":64,"shape":[2,2,64],"nested_blocksize":3,"nested_offset":1e30}',
                                   '{"quant_type":"nf4","blocksize":3,"shape":[1,256]}', '{')):
        put("stored", f"state-{number}", bytes([25 if "nested" in text else 24, 3, 0, 0, 5, 7]) + text.encode() + b"\0\0\0\x80\x3f")


def make_mask():
    put("mask", "same", bytes([19, 14, 0, 0, 0, 0, 0, 3]) + bytes(range(256)))
    put("mask", "smaller", bytes([31, 24, 0, 0, 7, 9, 0x35, 1]) + b"\0\xff" * 40)
    put("mask", "larger", bytes([4, 4, 0, 0, 39, 30, 0xff, 1]) + b"\0\0\xff\x80")
    put("mask", "unequal", bytes([9, 9, 9, 8, 9, 9, 0, 0]) + b"\xff")
    put("mask", "line", bytes([39, 0, 0, 0, 0, 39, 0x11, 1]) + b"\0\xff\xff")


def main():
    make_yaml()
    make_size()
    make_safetensors()
    make_gguf()
    make_layout()
    make_lora()
    make_config()
    make_worker_message()
    make_multipart()
    make_head()
    make_chunks()
    make_image_request()
    make_data_uri()
    make_query()
    make_hub()
    make_tokenizer()
    make_image()
    make_encode()
    make_stored()
    make_mask()


if __name__ == "__main__":
    main()
