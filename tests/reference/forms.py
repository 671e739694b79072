"""Model folders in the forms that FLUX.2 is found in, and the diffusers folders that they must draw like.

The files are written by make_layouts.py: GGUF by gguf-py, scaled fp8, NVFP4 and nf4 by their formulas. What is in a file is then
read again by gguf-py (or taken from those formulas) and put back under the names of diffusers, so that the truth of a quantised file
is the reference pipeline on its dequantised weights.
"""

import json
import pathlib
import shutil

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file

import make_layouts
import make_models

# Every row of a block is a whole number of 256, the autoencoder has FLUX.2's groups, heads of the text encoders and eps and theta are
# FLUX.2's: so all of it is read off the tensors where there is no config.json.
COMMON = dict(heads=4, head_dim=64, axes=[16, 16, 16, 16], double=1, single=2, mlp_ratio=3.0, latent=4, vae=[32, 32, 32, 32],
              decoder=None, groups=32, layers_per_block=1, ignore_merges=False, shards=1)
SPECS = {
    "dev": dict(
        COMMON, seed=31, guidance=True, text=make_models.text_shape(256, 3, 4, 2, 512, "model.", "mistral", head_dim=128),
        taps=[1, 2], length=40, vocabulary=512, pattern="hf", limn=dict(default_size="64x48", steps=2, guidance=3.0),
    ),
    "base": dict(
        COMMON, seed=32, guidance=False, klein="base",
        text=make_models.text_shape(256, 3, 4, 2, 512, "model.", "qwen3", head_dim=64, theta=1e6, eps=1e-6, new_rope=True),
        taps=[1, 2], length=40, vocabulary=540, pattern="qwen", limn=dict(default_size="48x64", steps=2, guidance=4.0),
    ),
}
SPECS["distilled"] = dict(SPECS["base"], seed=33, klein="distilled", limn=dict(default_size="48x64", steps=2))
TYPES = gguf.GGMLQuantizationType


def write_model(folder, name):
    """The diffusers folder of SPECS[name], in f32."""
    return next(iter(make_models.write_model(folder, name, SPECS[name], [torch.float32])))


class Model:
    """A diffusers folder, with its parts as arrays."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.transformer = load_file(self.folder / "transformer/diffusion_pytorch_model.safetensors")
        self.text = load_file(self.folder / "text_encoder/model.safetensors")
        self.vae = load_file(self.folder / "vae/diffusion_pytorch_model.safetensors")
        self.config = json.loads((self.folder / "text_encoder/config.json").read_text())
        self.document = json.loads((self.folder / "tokenizer/tokenizer.json").read_text())
        self.index = json.loads((self.folder / "model_index.json").read_text())
        self.limn = json.loads((self.folder / "limn.json").read_text())
        self.qwen3 = self.config["model_type"] == "qwen3"

    def with_weights(self, folder, transformer=None, text=None):
        """A copy of the folder with other weights."""
        folder = pathlib.Path(folder)
        shutil.copytree(self.folder, folder)
        if transformer is not None:
            assert {k: v.shape for k, v in transformer.items()} == {k: v.shape for k, v in self.transformer.items()}
            save_file(transformer, folder / "transformer/diffusion_pytorch_model.safetensors")
        if text is not None:
            save_file({**self.text, **text}, folder / "text_encoder/model.safetensors")
        return folder

    def form(self, folder, tokenizer=True):
        """A folder without the layout of diffusers: limn.json and, if wanted, tokenizer.json. The weights are for the caller to add."""
        folder = pathlib.Path(folder)
        folder.mkdir()
        settings = {**self.limn, "pipeline": self.index["_class_name"]}
        if "is_distilled" in self.index:
            settings["distilled"] = self.index["is_distilled"]
        (folder / "limn.json").write_text(json.dumps(settings))
        if tokenizer:
            shutil.copy(self.folder / "tokenizer/tokenizer.json", folder)
        return folder

    def write_text_gguf(self, path, kind=TYPES.F32, tokenizer=True, **more):
        document = self.document if tokenizer else None
        make_layouts.write_gguf_text(path, self.config, self.text, "model.", kind, document, "qwen2" if self.qwen3 else "tekken", **more)

    def write_transformer_gguf(self, path, kind=TYPES.F32, **more):
        make_layouts.write_gguf_transformer(path, make_layouts.bfl_transformer(self.transformer), kind, **more)


# -------------------------------------------------------------------------------------------------------- back to diffusers


def numbered(tensors):
    """Each tensor as the numbers of its rows, counted over all of them; and what the numbers mean."""
    rows, meaning = {}, []
    for name, tensor in tensors.items():
        rows[name] = np.arange(len(meaning), len(meaning) + tensor.shape[0]).reshape([-1] + [1] * (tensor.ndim - 1))
        meaning += [(name, row) for row in range(tensor.shape[0])]
    return rows, meaning


def restored(values, arranged, meaning, shapes):
    """`values` [name in the file] put back row by row: `arranged` says which row of `shapes` each of their rows is."""
    out = {name: np.full(shape, np.nan, np.float32) for name, shape in shapes.items()}
    for name, tensor in values.items():
        for value, number in zip(tensor, arranged[name].reshape(-1)):
            target, row = meaning[number]
            out[target][row] = value
    return {name: tensor for name, tensor in out.items() if not np.isnan(tensor).any()}


def transformer_of(model, values):
    """BFL's tensors under diffusers' names."""
    rows, meaning = numbered(model.transformer)
    return restored(values, make_layouts.bfl_transformer(rows), meaning, {k: v.shape for k, v in model.transformer.items()})


def text_of(model, values):
    """llama.cpp's tensors under Hugging Face's names, q and k of Mistral no longer in pairs."""
    rows, meaning = numbered(model.text)
    heads = {"q_proj": model.config["num_attention_heads"], "k_proj": model.config["num_key_value_heads"]}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3 if model.qwen3 else gguf.MODEL_ARCH.LLAMA, model.config["num_hidden_layers"])
    arranged = {}
    for name, numbers in rows.items():
        for part, count in heads.items():
            if f".{part}." in name and not model.qwen3:
                numbers = make_layouts.interleave(numbers, count)
        arranged[names.get_name(name, try_suffixes=(".weight",))] = numbers
    return restored(values, arranged, meaning, {k: v.shape for k, v in model.text.items()})


def gguf_values(*paths):
    """Every tensor of GGUF files as gguf-py decodes it."""
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape([int(n) for n in reversed(t.shape)]).astype(np.float32)
            for path in paths for t in gguf.GGUFReader(path).tensors}


# ---------------------------------------------------------------------------------------------------- files that are not GGUF


def bfl_autoencoder(diffusers):
    """BFL's names; the decoder's levels counted from the pixels, projections of the attention as 1x1 convolutions."""
    levels = 1 + max(int(name.split(".")[2]) for name in diffusers if name.startswith("decoder.up_blocks."))
    parts = {"conv_norm_out": "norm_out", "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2",
             "mid_block.attentions.0.group_norm": "mid.attn_1.norm", "mid_block.attentions.0.to_q": "mid.attn_1.q",
             "mid_block.attentions.0.to_k": "mid.attn_1.k", "mid_block.attentions.0.to_v": "mid.attn_1.v",
             "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out", "conv_shortcut": "nin_shortcut"}
    out = {}
    for name, data in diffusers.items():
        matrix = data.ndim == 2
        for theirs, ours in parts.items():
            name = name.replace(f"{theirs}.", f"{ours}.")
        words = name.split(".")
        if words[1] == "down_blocks":
            words[1:5] = ["down", words[2], *(["block", words[4]] if words[3] == "resnets" else ["downsample"])]
        elif words[1] == "up_blocks":
            words[1:5] = ["up", str(levels - 1 - int(words[2])), *(["block", words[4]] if words[3] == "resnets" else ["upsample"])]
        elif words[0] in ("quant_conv", "post_quant_conv"):
            words.insert(0, "encoder" if words[0] == "quant_conv" else "decoder")
        out[".".join(words)] = data[:, :, None, None] if matrix else data
    return out


def write_autoencoder(model, folder):
    save_file({k: np.ascontiguousarray(v) for k, v in bfl_autoencoder(model.vae).items()}, folder / "flux2-vae.safetensors")


def quantised_transformer(model, folder, kind):
    """Writes the transformer as `kind` into a folder; returns its dequantised weights under diffusers' names."""
    if kind in ("fp8", "nvfp4", "nf4"):
        path, decoded, plain = folder / f"{kind}.safetensors", [], lambda t: make_layouts.plain(t).astype(np.float32)
        if kind == "nf4":
            make_layouts.write_nf4(path, model.transformer, decoded)
            return {k: dict(decoded).get(k, plain(v)) for k, v in model.transformer.items()}
        bfl = make_layouts.bfl_transformer(model.transformer)
        if kind == "fp8":
            make_layouts.write_fp8(path, bfl, decoded, False)
        else:
            make_layouts.write_nvfp4(path, bfl, decoded)
        return transformer_of(model, {k: dict(decoded).get(k, plain(v)) for k, v in bfl.items()})
    model.write_transformer_gguf(folder / "transformer.gguf", TYPES[kind])
    return transformer_of(model, gguf_values(folder / "transformer.gguf"))
