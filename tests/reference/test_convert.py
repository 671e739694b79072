"""What `limn convert` writes, read by the tools that others read it with: the reference GGUF package, diffusers, bitsandbytes,
and comfy-kitchen, which ComfyUI decodes with."""

import os
import pathlib
import subprocess

import bitsandbytes.functional
import comfy_kitchen
import gguf
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, MistralForCausalLM

ROOT = pathlib.Path(__file__).resolve().parents[2]
PICTOGRAM = ROOT / "models/pictogram"
LIMN = os.environ.get("LIMN", ROOT / "build/release/limn")
HEADS = {"attn_q": 6, "attn_k": 3}  # of Pictogram's text encoder, 32 wide


def convert(*words):
    subprocess.run([LIMN, "convert", "-q", *map(str, words)], check=True)


def transformer():
    state = load_file(PICTOGRAM / "transformer/diffusion_pytorch_model.safetensors")
    return {k: v.float().numpy() for k, v in state.items()}


def bfl(state):
    """The tensors of a diffusers transformer under the names and in the order of BFL's file."""
    out, single = {}, {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
    for to, name in single.items():
        out[to + ".weight"] = state[name + ".weight"]
    for kind, name in (("time_in", "timestep_embedder"), ("guidance_in", "guidance_embedder")):
        for layer, number in (("in_layer", 1), ("out_layer", 2)):
            out[f"{kind}.{layer}.weight"] = state[f"time_guidance_embed.{name}.linear_{number}.weight"]
    for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"):
        out[name + ".lin.weight"] = state[name + ".linear.weight"]
    scale, shift = np.split(state["norm_out.linear.weight"], 2)
    out["final_layer.adaLN_modulation.1.weight"] = np.concatenate([shift, scale])
    block, to = "transformer_blocks.0.", "double_blocks.0."
    for stream, q, k, v, proj, nq, nk, mlp in (
            ("img", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k", "ff"),
            ("txt", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k", "ff_context")):
        attn = block + "attn."
        out[f"{to}{stream}_attn.qkv.weight"] = np.concatenate([state[f"{attn}{n}.weight"] for n in (q, k, v)])
        out[f"{to}{stream}_attn.proj.weight"] = state[f"{attn}{proj}.weight"]
        out[f"{to}{stream}_attn.norm.query_norm.scale"] = state[f"{attn}{nq}.weight"]
        out[f"{to}{stream}_attn.norm.key_norm.scale"] = state[f"{attn}{nk}.weight"]
        out[f"{to}{stream}_mlp.0.weight"] = state[f"{block}{mlp}.linear_in.weight"]
        out[f"{to}{stream}_mlp.2.weight"] = state[f"{block}{mlp}.linear_out.weight"]
    for i in range(4):
        attn, to = f"single_transformer_blocks.{i}.attn.", f"single_blocks.{i}."
        out[to + "linear1.weight"] = state[attn + "to_qkv_mlp_proj.weight"]
        out[to + "linear2.weight"] = state[attn + "to_out.weight"]
        out[to + "norm.query_norm.scale"] = state[attn + "norm_q.weight"]
        out[to + "norm.key_norm.scale"] = state[attn + "norm_k.weight"]
    return out


@pytest.mark.parametrize("name, bits", [("F32", 0), ("BF16", 0), ("Q8_0", 8), ("Q6_K", 6), ("Q5_K", 5), ("Q4_K", 4), ("Q4_0", 4),
                                        ("IQ4_NL", 4), ("IQ4_XS", 4), ("Q3_K", 3), ("Q2_K", 2)])
def test_transformer_as_gguf(tmp_path, name, bits):
    convert(PICTOGRAM, "-o", tmp_path / "t.gguf", "--type", name)
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    assert reader.get_field("general.architecture").contents() == "flux"
    expected, kind = bfl(transformer()), gguf.GGMLQuantizationType[name]
    assert {t.name for t in reader.tensors} == set(expected)
    coarse = 0
    for tensor in reader.tensors:
        want = expected[tensor.name]
        got = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(want.shape)
        assert tuple(reversed(tensor.shape)) == want.shape
        if tensor.tensor_type in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.BF16):
            assert np.array_equal(got, want)  # the source is bf16
            continue
        coarse += 1
        assert tensor.tensor_type == kind
        if name in ("Q8_0", "Q4_0"):
            assert np.array_equal(tensor.data, gguf.quants.quantize(want, kind))
        # Half a step of 2^bits steps across a block of normal values, which spans about 6 deviations.
        assert np.sqrt(np.mean((got - want) ** 2)) < 6 * want.std() / 2 ** bits / 2
    assert coarse == (0 if bits == 0 else 16)


def test_text_encoder_as_gguf(tmp_path):
    convert(PICTOGRAM, "-o", tmp_path / "t.gguf", "--part", "text_encoder", "--type", "F32")
    reader = gguf.GGUFReader(tmp_path / "t.gguf")
    assert reader.get_field("general.architecture").contents() == "llama"
    assert reader.get_field("llama.block_count").contents() == 5
    assert reader.get_field("llama.attention.head_count_kv").contents() == 3
    state = load_file(PICTOGRAM / "text_encoder/model.safetensors")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 5)
    expected = {names.get_name(k, try_suffixes=(".weight",)): v.float().numpy() for k, v in state.items()}
    assert {t.name for t in reader.tensors} == set(expected)
    for tensor in reader.tensors:
        want = expected[tensor.name]
        short = tensor.name.split(".")[-2]
        if short in HEADS:  # as llama.cpp's converter permutes them
            want = want.reshape(HEADS[short], 2, -1, want.shape[1]).swapaxes(1, 2).reshape(want.shape)
        assert np.array_equal(tensor.data.reshape(want.shape), want), tensor.name


def test_a_folder_is_one_of_diffusers(tmp_path):
    """By way of GGUF and back, so that every config.json and name was made by limn."""
    convert(PICTOGRAM, "-o", tmp_path / "gguf", "--type", "Q8_0")
    for part in ("transformer", "text_encoder"):
        (tmp_path / "gguf" / part / "config.json").unlink()
    convert(tmp_path / "gguf", "-o", tmp_path / "back", "--type", "F32")
    model = Flux2Transformer2DModel.from_pretrained(tmp_path / "back/transformer")
    original = transformer()
    for name, value in model.state_dict().items():
        want = original[name]
        large = want.ndim == 2 and "blocks" in name
        if large:
            want = gguf.quants.dequantize(gguf.quants.quantize(want, gguf.GGMLQuantizationType.Q8_0),
                                          gguf.GGMLQuantizationType.Q8_0)
        assert np.array_equal(value.numpy(), want), name
    text = MistralForCausalLM.from_pretrained(tmp_path / "back/text_encoder")
    old = MistralForCausalLM.from_pretrained(PICTOGRAM / "text_encoder")
    for (name, a), (_, b) in zip(text.state_dict().items(), old.state_dict().items()):
        assert torch.allclose(a.float(), b.float(), atol=0.01 * float(b.abs().max()) + 1e-12), name
    AutoencoderKLFlux2.from_pretrained(tmp_path / "back/vae")
    assert AutoTokenizer.from_pretrained(tmp_path / "back/tokenizer")("a red star").input_ids


def scaled(folder, ending):
    """The matrices that have scales, by the names of diffusers: (name, the part's tensors, the source's values)."""
    state = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    source = load_file(PICTOGRAM / "transformer/diffusion_pytorch_model.safetensors")
    names = [name[:-len(ending)] for name in state if name.endswith(ending)]
    assert len(names) == 20
    return [(name, state, source[name + ".weight"].float()) for name in names]


def error(got, want):
    return float((got - want).pow(2).sum().sqrt() / want.pow(2).sum().sqrt())


def test_nf4_is_that_of_bitsandbytes(tmp_path):
    convert(PICTOGRAM, "-o", tmp_path / "m", "--type", "NF4")
    for name, state, want in scaled(tmp_path / "m", ".weight.absmax"):
        own = {key[len(name) + 8:]: value for key, value in state.items() if key.startswith(name + ".weight.")}
        told = bitsandbytes.functional.QuantState.from_dict(own, device=torch.device("cpu"))
        packed, quantised = bitsandbytes.functional.quantize_4bit(want, blocksize=64, quant_type="nf4")
        assert torch.equal(packed.reshape(-1), state[name + ".weight"].reshape(-1))
        assert torch.equal(told.absmax, quantised.absmax) and torch.equal(told.code, quantised.code)
        assert told.shape == want.shape and told.dtype == torch.bfloat16 and told.blocksize == 64


def test_nf4_opens_in_diffusers_and_transformers(tmp_path, monkeypatch):
    from bitsandbytes.nn import Linear4bit
    from diffusers.quantizers.bitsandbytes.bnb_quantizer import BnB4BitDiffusersQuantizer
    convert(PICTOGRAM, "-o", tmp_path / "m", "--type", "NF4")
    # diffusers asks for a GPU before it reads anything.
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "validate_environment", lambda *a, **k: None)
    monkeypatch.setattr(BnB4BitDiffusersQuantizer, "update_device_map", lambda self, map: {"": "cpu"})
    model = Flux2Transformer2DModel.from_pretrained(tmp_path / "m/transformer", torch_dtype=torch.bfloat16)
    original = load_file(PICTOGRAM / "transformer/diffusion_pytorch_model.safetensors")
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name for name, kind in kinds.items() if kind is Linear4bit} == {name for name in kinds if "blocks." in name}
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            got = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert error(got.float(), original[name + ".weight"].float()) < 0.11
    text = MistralForCausalLM.from_pretrained(tmp_path / "m/text_encoder", torch_dtype=torch.bfloat16)
    assert isinstance(text.model.layers[0].mlp.up_proj, Linear4bit) and not isinstance(text.lm_head, Linear4bit)
    assert torch.isfinite(text(torch.tensor([[1, 5, 7]])).logits).all()


def test_nvfp4_is_closer_than_comfy_kitchen(tmp_path):
    convert(PICTOGRAM, "-o", tmp_path / "m", "--type", "NVFP4")
    for name, state, want in scaled(tmp_path / "m", ".weight_scale_2"):
        assert bytes(state[name + ".comfy_quant"].numpy()).strip() == b'{"format": "nvfp4"}'
        got = comfy_kitchen.dequantize_nvfp4(state[name + ".weight"], state[name + ".weight_scale_2"], state[name + ".weight_scale"],
                                             torch.float32)
        whole = want.abs().max() / (448 * 6)
        codes, scales = comfy_kitchen.quantize_nvfp4(want, whole)
        assert scales.shape == state[name + ".weight_scale"].shape
        theirs = comfy_kitchen.dequantize_nvfp4(codes, whole, scales, torch.float32)
        assert error(got, want) < 0.9 * error(theirs, want)


@pytest.mark.parametrize("words, largest, bound", [(["F8_E4M3"], 448, 0.028), (["F8_E4M3", "--row-scales"], 448, 0.028), (["F8_E5M2"], 57344, 0.055)])
def test_scaled_fp8(tmp_path, words, largest, bound):
    convert(PICTOGRAM, "-o", tmp_path / "m", "--type", *words)
    for name, state, want in scaled(tmp_path / "m", ".weight_scale"):
        scale = state[name + ".weight_scale"]
        assert scale.shape == ((want.shape[0], 1) if len(words) > 1 else ())
        most = want.abs().amax(dim=1, keepdim=True) if len(words) > 1 else want.abs().max()
        assert torch.all(scale >= most / largest) and torch.all(scale <= most / largest * (1 + 2 ** -14))
        assert error(state[name + ".weight"].float() * scale, want) < bound


def test_a_file_of_nvfp4_has_the_names_of_bfl(tmp_path):
    convert(PICTOGRAM, "-o", tmp_path / "t.safetensors", "--type", "NVFP4")
    state, expected = load_file(tmp_path / "t.safetensors"), bfl(transformer())
    beside = (".weight_scale", ".weight_scale_2", ".comfy_quant")
    assert {name for name in state if not name.endswith(beside)} == set(expected)
    for name, want in expected.items():
        scale = name[:-len(".weight")] + ".weight_scale"
        if scale not in state:
            assert np.array_equal(state[name].float().numpy(), want), name
            continue
        got = comfy_kitchen.dequantize_nvfp4(state[name], state[scale + "_2"], state[scale], torch.float32)
        assert error(got, torch.from_numpy(want)) < 0.1
