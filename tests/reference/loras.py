"""Random LoRAs in the spellings that limn reads, and the reference with them.

The truth is twofold: the change merged into the reference's weights by PyTorch in f32 (every spelling), and the reference's own
`load_lora_weights` where it knows the spelling (diffusers, with and without metadata; BFL's names with lora_A and lora_B; kohya). Its
converters leave out what they do not know and do not turn the halves of the final modulation, so those layers are left out there.
"""

import contextlib
import json

import torch
from safetensors.torch import save_file

# Layers: diffusers' names (rows of one BFL layer, from the first row on), BFL's name. {} is the number of a block.
SHARED = [
    (["x_embedder"], "img_in"), (["context_embedder"], "txt_in"),
    (["time_guidance_embed.timestep_embedder.linear_1"], "time_in.in_layer"),
    (["time_guidance_embed.timestep_embedder.linear_2"], "time_in.out_layer"),
    (["time_guidance_embed.guidance_embedder.linear_1"], "guidance_in.in_layer"),
    (["time_guidance_embed.guidance_embedder.linear_2"], "guidance_in.out_layer"),
    (["double_stream_modulation_img.linear"], "double_stream_modulation_img.lin"),
    (["double_stream_modulation_txt.linear"], "double_stream_modulation_txt.lin"),
    (["single_stream_modulation.linear"], "single_stream_modulation.lin"),
    (["norm_out.linear"], "final_layer.adaLN_modulation.1"), (["proj_out"], "final_layer.linear"),
]
DOUBLE = [
    ([f"attn.to_{part}" for part in "qkv"], "img_attn.qkv"), (["attn.to_out.0"], "img_attn.proj"),
    (["ff.linear_in"], "img_mlp.0"), (["ff.linear_out"], "img_mlp.2"),
    ([f"attn.add_{part}_proj" for part in "qkv"], "txt_attn.qkv"), (["attn.to_add_out"], "txt_attn.proj"),
    (["ff_context.linear_in"], "txt_mlp.0"), (["ff_context.linear_out"], "txt_mlp.2"),
]
SINGLE = [(["attn.to_qkv_mlp_proj"], "linear1"), (["attn.to_out"], "linear2")]
BLOCKS = ("double_blocks", "single_blocks")

# prefix, BFL's layers, points as underscores, endings, whether alpha stands in the file
FAMILIES = {
    "diffusers": ("transformer.", False, False, (".lora_A.weight", ".lora_B.weight"), False),
    "diffusers, bare": ("", False, False, (".lora_A.default.weight", ".lora_B.default.weight"), True),
    "peft, BFL": ("base_model.model.", True, False, (".lora_A.weight", ".lora_B.weight"), False),
    "ai-toolkit": ("diffusion_model.", True, False, (".lora_A.weight", ".lora_B.weight"), False),
    "comfy": ("diffusion_model.", True, False, (".lora_down.weight", ".lora_up.weight"), True),
    "comfy, diffusers": ("diffusion_model.", False, False, (".lora_down.weight", ".lora_up.weight"), True),
    "kohya": ("lora_unet_", True, True, (".lora_down.weight", ".lora_up.weight"), True),
    "onetrainer": ("lora_transformer_", False, True, (".lora_down.weight", ".lora_up.weight"), True),
}
# Those that the reference's own loader reads, and whether it does so with the shared layers.
LOADED = {"diffusers": True, "peft, BFL": False, "ai-toolkit": False, "kohya": False}


class Lora:
    """Random changes of a transformer's layers. Layers that are one in BFL's spelling share A. Without `alpha` it is the rank."""

    def __init__(self, transformer, seed, alpha=True, shared=True, size=0.1):
        generator = torch.Generator().manual_seed(seed)
        weights = transformer.state_dict()
        groups = list(SHARED) if shared else []
        for i in range(len(transformer.transformer_blocks)):
            groups += [([f"transformer_blocks.{i}.{n}" for n in names], f"double_blocks.{i}.{bfl}") for names, bfl in DOUBLE]
        for i in range(len(transformer.single_transformer_blocks)):
            groups += [([f"single_transformer_blocks.{i}.{n}" for n in names], f"single_blocks.{i}.{bfl}") for names, bfl in SINGLE]
        self.groups = []
        for index, (names, bfl) in enumerate(groups):
            if f"{names[0]}.weight" not in weights:
                continue  # no guidance
            rank = 1 + (index * 5) % 7 if alpha else 4
            draw = lambda *shape: torch.randn(shape, generator=generator) * size / rank**0.5
            down = draw(rank, weights[f"{names[0]}.weight"].shape[1])
            ups = [draw(weights[f"{name}.weight"].shape[0], rank) for name in names]
            self.groups.append((names, bfl, down, ups, float(1 + index % 3) if alpha else float(rank)))

    def write(self, path, family, dtype=torch.float32, metadata=None):
        prefix, is_bfl, underscored, (down_end, up_end), with_alpha = FAMILIES[family]
        tensors = {}

        def put(name, down, up, alpha):
            name = prefix + (name.replace(".", "_") if underscored else name)
            scale = 1.0 if with_alpha else alpha / down.shape[0]  # without alpha the scale is in B
            tensors[name + down_end] = down.clone().to(dtype)
            tensors[name + up_end] = (up * scale).contiguous().to(dtype)
            if with_alpha:
                tensors[name + ".alpha"] = torch.tensor(alpha)

        for names, bfl, down, ups, alpha in self.groups:
            if is_bfl:
                up = torch.cat(ups)
                put(bfl, down, torch.cat(up.chunk(2)[::-1]) if bfl.startswith("final_layer.ada") else up, alpha)
            else:
                for name, up in zip(names, ups):
                    put(name, down, up, alpha)
        save_file(tensors, path, metadata={"lora_adapter_metadata": json.dumps(metadata)} if metadata else None)
        return path

    @contextlib.contextmanager
    def merged(self, transformer, scale=1.0):
        """The transformer with the changes added to its weights; as it was afterwards."""
        before = {name: value.clone() for name, value in transformer.state_dict().items()}
        state = transformer.state_dict()
        with torch.no_grad():
            for names, _, down, ups, alpha in self.groups:
                for name, up in zip(names, ups):
                    change = up.double() @ down.double() * (scale * alpha / down.shape[0])
                    state[f"{name}.weight"].copy_((state[f"{name}.weight"].double() + change).float())
        try:
            yield
        finally:
            transformer.load_state_dict(before)


@contextlib.contextmanager
def loaded(pipe, path, scale=1.0):
    """The pipeline with a file read by its own loader."""
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="it")
    pipe.set_adapters("it", scale)
    try:
        yield
    finally:
        pipe.unload_lora_weights()


@torch.no_grad()
def dump_fixtures(fixtures):
    """A LoRA for model-a of the fixtures in two spellings, and the velocities with it merged in, on that model's own inputs."""
    from safetensors.torch import load_file

    from reference import Reference

    transformer = Reference(fixtures / "model-a").pipe.transformer
    given, lora, out = load_file(fixtures / "model-a-transformer.safetensors"), Lora(transformer, 21, size=0.05), {}
    lora.write(fixtures / "model-a-lora-diffusers.safetensors", "diffusers, bare", torch.bfloat16)
    lora.write(fixtures / "model-a-lora-kohya.safetensors", "kohya", torch.bfloat16)
    rounded = lambda t: t.to(torch.bfloat16).float()
    lora.groups = [(names, bfl, rounded(down), [rounded(up) for up in ups], alpha) for names, bfl, down, ups, alpha in lora.groups]
    with lora.merged(transformer, 0.75):
        for k in range(4):
            text = given[f"prompt_embeds_{k}"].shape[0]
            positions = given[f"positions_{k}"].long()
            out[f"velocity_{k}"] = transformer(
                hidden_states=given[f"tokens_{k}"][None], encoder_hidden_states=given[f"prompt_embeds_{k}"][None],
                timestep=given[f"sigma_{k}"], guidance=given[f"guidance_{k}"], img_ids=positions[None, text:],
                txt_ids=positions[None, :text], return_dict=False,
            )[0][0].contiguous()
    save_file(out, fixtures / "model-a-lora.safetensors", metadata={"scale": "0.75"})


if __name__ == "__main__":
    import pathlib
    import sys

    dump_fixtures(pathlib.Path(sys.argv[1]))  # the folder of the fixtures
