"""Writes tests/fixtures from the reference pipeline: dump.py OUT_DIR. The README of that folder describes every file.

Everything is drawn with fixed seeds; running it again with the same versions of PyTorch, diffusers and Pillow gives the
same files.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers.models.embeddings import Timesteps
from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline, compute_empirical_mu, retrieve_timesteps
from PIL import Image
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import make_models
import text_strings
import tokenizers_small
from reference import Reference

# (name, prompt, sizes of the reference images as (width, height), output size, seed)
RUNS = {
    "model-a": [
        ("text", "a red circle above a blue square", [], None, 3),
        ("edit", "don't [IMG]move; [INST]猫", [(70, 100)], (48, 48), 4),
    ],
    "model-b": [
        ("text", "", [], (48, 80), 5),
        ("edit", "Use image 1 as the pose reference and image 2 as the character reference. " * 3,
         [(64, 64), (101, 83), (90, 65), (64, 130)], None, 6),
    ],
    "model-k": [
        ("text", " don't <think>e\u0301; 猫 ", [], None, 7),
        ("edit", "put image 1 beside image 2, " * 20, [(70, 100), (80, 64)], (48, 48), 8),
    ],
}


def array(tensor):
    return np.ascontiguousarray(tensor.detach().float().numpy())


def save(path, tensors, **metadata):
    """A safetensors file with its metadata in the order given: the library's own writer shuffles it from run to run."""
    types = {"float32": "F32", "int32": "I32", "uint8": "U8"}
    header, offset = {"__metadata__": {k: str(v) for k, v in metadata.items()}}, 0
    tensors = {k: np.ascontiguousarray(tensors[k]) for k in sorted(tensors, key=lambda k: (-tensors[k].itemsize, k))}
    for name, value in tensors.items():
        header[name] = {"dtype": types[value.dtype.name], "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            file.write(value.tobytes())
    assert load_file(path).keys() == tensors.keys()


def picture(width, height, seed):
    """A picture with edges, gradients and a little noise, u8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1)
    for _ in range(6):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.1, 0.5) * min(width, height)
        out[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = rng.uniform(0, 255, 3)
    return np.clip(out + rng.normal(0, 6, out.shape), 0, 255).astype(np.uint8)


def formula_picture(width, height):
    """The picture that the tests make for themselves: value (7x + 13y + 29c + ((x * y) >> 3)) mod 256."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((7 * x + 13 * y + 29 * c + ((x * y) >> 3)) & 255).astype(np.uint8)


def fnv1a64(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def dump_tokenizers(out):
    strings = text_strings.strings()
    result = {"strings": strings}
    for pattern, ignore in (("hf", False), ("tekken", True)):
        form = tokenizers_small.train(pattern, 1100, ignore)
        folder = out / f"tokenizer-{pattern}"
        tokenizers_small.write(folder, form, merges_as_strings=pattern == "tekken")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        result[pattern] = [tokenizer.encode(s, add_special_tokens=False).ids for s in strings]
    (out / "tokenizer.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def dump_noise(out):
    tensors = {}
    for seed in range(10):
        for count in (5, 15, 16, 17, 100, 108, 768):
            if count != 768 and seed > 3:
                continue
            for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
                values = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)
                tensors[f"{name}_seed{seed}_n{count}"] = array(values)
    for seed in (7, 2**32 + 5, 2**63 + 11):
        for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
            values = torch.randn(128 * 64 * 64, generator=torch.Generator().manual_seed(seed), dtype=dtype)
            tensors[f"{name}_seed{seed}_n524288_every1021"] = array(values)[::1021]
    save(out / "noise.safetensors", tensors)


def schedule(pipe, tokens, steps, sigmas=None):
    """Sigmas and timesteps as Flux2Pipeline.__call__ makes them."""
    sigmas = np.linspace(1.0, 1 / steps, steps) if sigmas is None else sigmas
    retrieve_timesteps(pipe.scheduler, steps, "cpu", sigmas=sigmas, mu=compute_empirical_mu(tokens, steps))
    return array(pipe.scheduler.sigmas), array(pipe.scheduler.timesteps)


def dump_schedule(out, pipe):
    tensors = {}
    lists = {"turbo": make_models.TURBO_SIGMAS, "short": [1.0, 0.5], "rising": [0.2, 0.9, 0.4]}
    for tokens in (12, 256, 1024, 4080, 4096, 4300, 4301, 8160):
        for steps in (*range(4, 17), 20, 25, 28, 30, 40, 50):
            tensors[f"sigmas_L{tokens}_N{steps}"], tensors[f"timesteps_L{tokens}_N{steps}"] = schedule(pipe, tokens, steps)
        for name, values in lists.items():
            key = f"L{tokens}_{name}"
            tensors[f"sigmas_{key}"], tensors[f"timesteps_{key}"] = schedule(pipe, tokens, len(values), values)
    save(out / "schedule.safetensors", tensors, **{k: json.dumps(v) for k, v in lists.items()})
    projection = Timesteps(num_channels=256, flip_sin_to_cos=True, downscale_freq_shift=0)
    times = torch.tensor([0.0, 1.0, 2.99, 250.0, 717.497, 883.982, 947.39, 1000.0, 2500.0, 4000.0])
    save(out / "timestep_embedding.safetensors", {"timesteps": array(times), "embedding": array(projection(times))})


def dump_resize(out, pipe):
    tensors = {}
    sizes = [((97, 61), (41, 29)), ((64, 64), (64, 33)), ((80, 50), (31, 50)), ((300, 8), (7, 8)), ((9, 210), (9, 11)),
             ((33, 47), (120, 90)), ((5, 3), (2, 2)), ((128, 96), (127, 95)), ((1, 1), (7, 5)), ((160, 160), (1, 1))]
    for k, ((w, h), target) in enumerate(sizes):
        image = picture(w, h, k) if k % 2 == 0 else np.random.default_rng(k).integers(0, 256, (h, w, 3), dtype=np.uint8)
        tensors[f"in_{k}"] = image
        tensors[f"out_{k}"] = np.array(Image.fromarray(image).resize(target, Image.Resampling.LANCZOS))
    # extremes, where the filter overshoots and the result is clamped
    tensors["in_10"] = ((np.indices((70, 90)).sum(0)[..., None] // np.array([3, 5, 9])) % 2 * 255).astype(np.uint8)
    tensors["out_10"] = np.array(Image.fromarray(tensors["in_10"]).resize((64, 51), Image.Resampling.LANCZOS))
    save(out / "resize.safetensors", tensors)

    processor, tensors, cases = pipe.image_processor, {}, []
    sizes = [(64, 64), (70, 100), (101, 83), (65, 511), (64, 512), (64, 513), (63, 64), (64, 63), (513, 64), (30, 30),
             (1024, 1024), (1025, 1024), (1040, 1100), (1500, 1200), (3000, 400), (511, 2054), (2897, 363), (200, 150)]
    for width, height in sizes:
        for area in (1024 * 1024, 96 * 96):
            case = {"width": width, "height": height, "area": area}
            image = Image.fromarray(formula_picture(width, height))
            try:
                processor.check_image_input(image)
            except ValueError as error:
                case["error"] = "too small" if "too small" in str(error) else "aspect ratio"
                cases.append(case)
                continue
            image = processor._resize_if_exceeds_area(image, area)
            case["resized"] = list(image.size)
            w, h = image.width // 16 * 16, image.height // 16 * 16
            result = processor.preprocess(image, height=h, width=w, resize_mode="crop")[0]
            pixels = ((result + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            assert pixels.shape == (h, w, 3)
            case["cropped"] = [w, h]
            case["fnv1a64"] = fnv1a64(pixels.tobytes())
            if (width, height) in ((101, 83), (200, 150)) and area == 96 * 96:
                tensors[f"pixels_{len(cases)}"] = pixels
                tensors[f"values_{len(cases)}"] = array(result)
            cases.append(case)
    save(out / "references.safetensors", tensors)
    lines = ",\n".join(json.dumps(case) for case in cases)
    (out / "references.json").write_text(f'{{"cases":[\n{lines}\n]}}\n')


def dump_text(out, name, reference):
    prompts = ["a red circle above a blue square", "", "don't [IMG]move; [INST]猫 <s> zephyr", "far too long " * 40]
    tensors = {}
    pipe, limn = reference.pipe, reference.limn
    for k, prompt in enumerate(prompts):
        ids, mask = reference.tokens(prompt)
        with torch.no_grad():
            hidden = pipe.text_encoder(
                input_ids=ids[None].long(), attention_mask=mask[None], output_hidden_states=True, use_cache=False
            ).hidden_states
            embeds, _ = pipe.encode_prompt(
                prompt, max_sequence_length=limn["text_length"], text_encoder_out_layers=tuple(limn["text_taps"])
            )
        tensors[f"tokens_{k}"] = ids.numpy().astype(np.int32)
        tensors[f"mask_{k}"] = mask.numpy().astype(np.uint8)
        tensors[f"prompt_embeds_{k}"] = array(embeds[0])
        if k == 0:
            for layer, state in enumerate(hidden):
                tensors[f"hidden_{layer}"] = array(state[0])
    save(out / f"{name}-text.safetensors", tensors, prompts=json.dumps(prompts, ensure_ascii=False))


@torch.no_grad()
def dump_transformer(out, name, reference):
    """Four calls with inputs of their own: no reference, one, two, four; odd sizes; different sigmas and text lengths."""
    transformer = reference.pipe.transformer
    config = transformer.config
    generator = torch.Generator().manual_seed(77)
    cases = [
        dict(text=5, image=(3, 4), references=[], sigma=1.0, guidance=4.0),
        dict(text=7, image=(5, 1), references=[(2, 3)], sigma=0.883982, guidance=2.5),
        dict(text=1, image=(1, 1), references=[(4, 1), (1, 3)], sigma=0.0495, guidance=1.0),
        dict(text=6, image=(3, 3), references=[(1, 2), (2, 2), (3, 1), (2, 1)], sigma=0.00299, guidance=7.25),
    ]
    tensors, hooks = {}, []
    for k, case in enumerate(cases):
        ids = [torch.cartesian_prod(torch.arange(1), torch.arange(case["image"][0]), torch.arange(case["image"][1]), torch.arange(1))]
        for r, (h, w) in enumerate(case["references"]):
            ids.append(torch.cartesian_prod(torch.tensor([10 + 10 * r]), torch.arange(h), torch.arange(w), torch.arange(1)))
        img_ids = torch.cat(ids)
        txt_ids = torch.zeros(case["text"], 4, dtype=torch.int64)
        txt_ids[:, 3] = torch.arange(case["text"])
        tokens = torch.randn(len(img_ids), config.in_channels, generator=generator)
        context = 1.5 * torch.randn(case["text"], config.joint_attention_dim, generator=generator)

        def keep(key, pick=lambda r: r):
            def hook(module, arguments, result):
                tensors[f"{key}_{k}"] = array(pick(result))
            return hook

        modules = [
            (transformer.time_guidance_embed, "temb", lambda r: r[0]),
            (transformer.double_stream_modulation_img, "modulation_img", lambda r: r[0]),
            (transformer.double_stream_modulation_txt, "modulation_txt", lambda r: r[0]),
            (transformer.single_stream_modulation, "modulation_single", lambda r: r[0]),
            (transformer.x_embedder, "embedded_img", lambda r: r[0]),
            (transformer.context_embedder, "embedded_txt", lambda r: r[0]),
            (transformer.norm_out, "norm_out", lambda r: r[0]),
        ]
        for index, block in enumerate(transformer.transformer_blocks):
            modules.append((block, f"double_{index}_txt", lambda r: r[0][0]))
            modules.append((block, f"double_{index}_img", lambda r: r[1][0]))
        for index, block in enumerate(transformer.single_transformer_blocks):
            modules.append((block, f"single_{index}", lambda r: r[0]))
        hooks = [module.register_forward_hook(keep(key, pick)) for module, key, pick in modules]
        velocity = transformer(
            hidden_states=tokens[None], encoder_hidden_states=context[None], timestep=torch.tensor([case["sigma"]]),
            guidance=torch.tensor([case["guidance"]]), img_ids=img_ids[None], txt_ids=txt_ids[None], return_dict=False,
        )[0][0]
        for hook in hooks:
            hook.remove()
        cos, sin = transformer.pos_embed(torch.cat([txt_ids, img_ids]))
        tensors[f"rope_cos_{k}"], tensors[f"rope_sin_{k}"] = array(cos), array(sin)
        tensors[f"tokens_{k}"], tensors[f"prompt_embeds_{k}"] = array(tokens), array(context)
        tensors[f"positions_{k}"] = torch.cat([txt_ids, img_ids]).numpy().astype(np.int32)
        tensors[f"velocity_{k}"] = array(velocity)
        tensors[f"sigma_{k}"] = np.array([case["sigma"]], np.float32)
        tensors[f"guidance_{k}"] = np.array([case["guidance"]], np.float32)
    save(out / f"{name}-transformer.safetensors", tensors, cases=json.dumps(cases))


@torch.no_grad()
def dump_vae(out, name, reference):
    vae, tensors = reference.pipe.vae, {}

    def keep(key):
        def hook(module, arguments, result):
            result = result[0] if isinstance(result, tuple) else result
            tensors[key] = array(result[0])
        return hook

    def hooked(stages, function):
        hooks = [module.register_forward_hook(keep(key)) for key, module in stages]
        result = function()
        for hook in hooks:
            hook.remove()
        return result

    encoder, decoder = vae.encoder, vae.decoder
    image = torch.from_numpy(picture(48, 32, 5)).permute(2, 0, 1).float() / 255 * 2 - 1
    stages = [("encode_conv_in", encoder.conv_in), ("encode_mid", encoder.mid_block), ("encode_conv_out", encoder.conv_out)]
    stages += [(f"encode_down_{i}", block) for i, block in enumerate(encoder.down_blocks)]
    moments = hooked(stages, lambda: vae._encode(image[None]))
    tensors["encode_image"] = array(image)
    tensors["encode_mean"] = array(moments[0, : moments.shape[1] // 2])
    tensors["encode_patched"] = array(Flux2Pipeline._patchify_latents(moments[:, : moments.shape[1] // 2])[0])
    normalised = reference.pipe._encode_vae_image(image[None], None)
    tensors["encode_tokens"] = array(Flux2Pipeline._pack_latents(normalised)[0])
    assert torch.equal(normalised[0], reference.pipe._encode_vae_image(image[None], torch.Generator())[0])

    height, width = 2, 5
    tokens = torch.randn(height * width, 4 * vae.config.latent_channels, generator=torch.Generator().manual_seed(9))
    mean, std = vae.bn.running_mean, torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
    patched = (tokens * std + mean).T.reshape(1, -1, height, width)
    latents = Flux2Pipeline._unpatchify_latents(patched)
    stages = [("decode_conv_in", decoder.conv_in), ("decode_mid", decoder.mid_block), ("decode_post_quant", vae.post_quant_conv)]
    stages += [(f"decode_up_{i}", block) for i, block in enumerate(decoder.up_blocks)]
    decoded = hooked(stages, lambda: vae.decode(latents, return_dict=False)[0])
    tensors["decode_tokens"] = array(tokens)
    tensors["decode_latents"] = array(latents[0])
    tensors["decode_image"] = array(decoded[0])
    tensors["decode_picture"] = np.array(reference.pipe.image_processor.postprocess(decoded)[0])
    save(out / f"{name}-vae.safetensors", tensors, decode_grid=f"{width}x{height}")


def dump_runs(out, name, reference):
    for kind, prompt, sizes, size, seed in RUNS[name]:
        images = [picture(w, h, 100 + k) for k, (w, h) in enumerate(sizes)]
        result = reference.run(prompt, [Image.fromarray(i) for i in images], size=size, seed=seed)
        tensors = {**result, **{f"image_{k}": image for k, image in enumerate(images)}}
        options = {"prompt": prompt, "seed": seed, "images": len(images)}
        if size:
            options["size"] = f"{size[0]}x{size[1]}"
        save(out / f"{name}-run-{kind}.safetensors", tensors, **options)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("out_dir")
    out = pathlib.Path(arguments.parse_args().out_dir)
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    for name, spec in make_models.FIXTURES.items():
        folder = next(iter(make_models.write_model(out, name, spec, [make_models.FIXTURE_DTYPES[name]])))
        reference = Reference(folder)
        dump_text(out, name, reference)
        dump_runs(out, name, reference)
        if reference.klein:  # its transformer and autoencoder are those of the others
            continue
        dump_transformer(out, name, reference)
        dump_vae(out, name, reference)
    dump_tokenizers(out)
    dump_noise(out)
    dump_schedule(out, reference.pipe)
    dump_resize(out, reference.pipe)


if __name__ == "__main__":
    main()
