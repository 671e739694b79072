"""The reference pipeline on a model folder, with everything on its way recorded under the names of `limn dump`.

A folder is loaded by this file, not by from_pretrained, so that every spelling of tensor names that limn accepts can be
tested; the modules, the tokenizer, the scheduler and the pipeline itself are the reference's own.
"""

import json
import pathlib

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Pipeline, Flux2Transformer2DModel,
)
from diffusers.utils import load_image, logging
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, Qwen2TokenizerFast

import make_models

logging.set_verbosity_error()


def load_tensors(folder):
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def load_tokenizer(folder):
    """The tokenizer of a model folder: of its own class for klein, else straight from tokenizer.json."""
    folder = pathlib.Path(folder) / "tokenizer"
    if json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "Qwen2Tokenizer":
        return Qwen2TokenizerFast.from_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        pad_token="<pad>", padding_side="left",
    )
    tokenizer.chat_template = (folder / "chat_template.jinja").read_text()
    return tokenizer


def load_text_encoder(folder, dtype):
    config = json.loads((folder / "text_encoder/config.json").read_text())
    config.pop("torch_dtype", None)
    model = make_models.text_encoder_from(config)
    tensors = load_tensors(folder / "text_encoder")
    prefix = next(p for p in ("language_model.model.", "model.language_model.", "model.", "") if p + "embed_tokens.weight" in tensors)
    tied = ["lm_head.weight"] if config["tie_word_embeddings"] else []
    state = {name: tensors[make_models.to_file_name(name, prefix)] for name in model.state_dict() if name not in tied}
    assert model.load_state_dict(state, strict=False).missing_keys == [name for name in tied if name in model.state_dict()]
    model.tie_weights()
    return model.to(dtype).eval()


def load_part(cls, folder, dtype):
    config = json.loads((folder / "config.json").read_text())
    model = cls.from_config(config)
    model.load_state_dict(load_tensors(folder), strict=True)
    return model.to(dtype).eval()


class Reference:
    """A model folder in the reference pipeline. `dtype` is what the pipeline computes in."""

    def __init__(self, folder, dtype=torch.float32):
        folder = pathlib.Path(folder)
        self.limn = json.loads((folder / "limn.json").read_text())
        index = json.loads((folder / "model_index.json").read_text())
        self.klein, self.distilled = index["_class_name"] == "Flux2KleinPipeline", index.get("is_distilled", False)
        self.limn = {"steps": 4 if self.distilled else 50, "guidance": 1.0 if self.distilled else 4.0, **self.limn}
        self.dtype = dtype
        self.pipe = (Flux2KleinPipeline if self.klein else Flux2Pipeline)(
            scheduler=FlowMatchEulerDiscreteScheduler.from_config(
                json.loads((folder / "scheduler/scheduler_config.json").read_text())
            ),
            vae=load_part(AutoencoderKLFlux2, folder / "vae", dtype),
            text_encoder=load_text_encoder(folder, dtype),
            tokenizer=load_tokenizer(folder),
            transformer=load_part(Flux2Transformer2DModel, folder / "transformer", dtype),
            **({"is_distilled": self.distilled} if self.klein else {}),
        )
        if not self.klein:
            self.pipe.system_message = self.limn["system_message"]
        self.pipe.set_progress_bar_config(disable=True)

    def tokens(self, prompt):
        """The padded ids of a prompt in the template, i32 [text_length], and the mask that goes with them."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        if self.klein:  # as Flux2KleinPipeline._get_qwen3_prompt_embeds does it
            text = self.pipe.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            inputs = self.pipe.tokenizer(
                text, return_tensors="pt", padding="max_length", truncation=True, max_length=self.limn["text_length"]
            )
            return inputs["input_ids"][0].to(torch.int32), inputs["attention_mask"][0]
        inputs = self.pipe.tokenizer.apply_chat_template(
            format_input([prompt], self.limn["system_message"]), add_generation_prompt=False, tokenize=True,
            return_dict=True, return_tensors="pt", padding="max_length", truncation=True,
            max_length=self.limn["text_length"],
        )
        return inputs["input_ids"][0].to(torch.int32), inputs["attention_mask"][0]

    def references(self, images):
        """The pictures as the pipeline takes them: what load_image makes of a file, cut down to reference_area. With the
        default area this does nothing that the pipeline would not do itself."""
        area = self.limn.get("reference_area", 1024 * 1024)
        processor = self.pipe.image_processor
        pictures = []
        for image in images:
            picture = load_image(str(image)) if isinstance(image, (str, pathlib.Path)) else image
            processor.check_image_input(picture)
            pictures.append(processor._resize_if_exceeds_area(picture, area))
        return pictures

    @torch.no_grad()
    def run(self, prompt, images=(), size=None, seed=0, steps=None, guidance=None, sigmas=None, noise_dtype=None,
            everything=True):
        """One request. `size` is (width, height); what is None is taken from limn.json, as limn does. `noise_dtype`
        bf16 hands the pipeline the noise that a bf16 pipeline would draw. Returns {name: numpy array}."""
        pipe, out, hooks = self.pipe, {}, []
        as_array = lambda t: t.detach().float().numpy().copy()

        if sigmas is None and steps is None:
            sigmas = self.limn.get("sigmas")
        steps = len(sigmas) if sigmas is not None else steps or self.limn["steps"]
        guidance = self.limn["guidance"] if guidance is None else guidance
        pictures = self.references(images)
        width, height = size or (None, None)
        if size is None and not pictures:
            width, height = map(int, self.limn["default_size"].split("x"))

        preprocess = pipe.image_processor.preprocess

        def record_reference(*arguments, **keywords):
            result = preprocess(*arguments, **keywords)
            k = sum(name.startswith("reference_") for name in out)
            out[f"reference_{k}"] = ((result[0] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy().copy()
            return result

        encode_image = pipe._encode_vae_image

        def record_latents(image, generator):
            result = encode_image(image, generator)
            k = sum(name.startswith("reference_latents_") for name in latents_of)
            latents_of[f"reference_latents_{k}"] = as_array(pipe._pack_latents(result)[0])
            return result

        latents_of = {}
        step = {"index": 0, "second": False}  # whether the step's second evaluation, that of the empty prompt, is in work

        def on_transformer(module, arguments, result):
            name = "empty_velocity" if step["second"] else "velocity"
            out[f"step_{step['index']}_{name}"] = as_array(result[0][0])
            step["second"] = True

        def on_double(index):
            def hook(module, arguments, result):
                if step["index"] == 0 and not step["second"]:
                    out[f"step_0_double_{index}_txt"] = as_array(result[0][0])
                    out[f"step_0_double_{index}_img"] = as_array(result[1][0])
            return hook

        def on_single(index):
            def hook(module, arguments, result):
                if step["index"] == 0 and not step["second"]:
                    out[f"step_0_single_{index}"] = as_array(result[0])
            return hook

        def on_step_end(_, index, timestep, tensors):
            out[f"step_{index}_latents"] = as_array(tensors["latents"][0])
            out["prompt_embeds"] = as_array(tensors["prompt_embeds"][0])
            step.update(index=index + 1, second=False)
            return {}

        encode_prompt, texts = pipe.encode_prompt, []

        def record_text(*arguments, **keywords):
            result = encode_prompt(*arguments, **keywords)
            texts.append(as_array(result[0][0]))
            return result

        scheduler_step = pipe.scheduler.step

        def record_guided(velocity, *arguments, **keywords):
            if f"step_{step['index']}_empty_velocity" in out:
                out[f"step_{step['index']}_guided_velocity"] = as_array(velocity[0])
            return scheduler_step(velocity, *arguments, **keywords)

        prepare = pipe.prepare_latents

        def record_noise(*arguments, **keywords):
            result = prepare(*arguments, **keywords)
            out["noise"] = as_array(result[0][0])
            return result

        decode = pipe.vae.decode

        def record_decoded(*arguments, **keywords):
            result = decode(*arguments, **keywords)
            out["decoded"] = as_array(result[0][0])
            return result

        latents = None
        if noise_dtype is not None and noise_dtype != self.dtype:
            w, h = self.output_size(width, height, pictures)
            channels = pipe.transformer.config.in_channels
            generator = torch.Generator().manual_seed(seed)
            latents = torch.randn((1, channels, h // 16, w // 16), generator=generator, dtype=noise_dtype)

        try:
            pipe.image_processor.check_image_input = lambda image: image  # done in references(), before the resize
            pipe.image_processor.preprocess = record_reference
            pipe._encode_vae_image = record_latents
            pipe.prepare_latents = record_noise
            pipe.vae.decode = record_decoded
            pipe.encode_prompt = record_text
            pipe.scheduler.step = record_guided
            hooks.append(pipe.transformer.register_forward_hook(on_transformer))
            if everything:
                for index, block in enumerate(pipe.transformer.transformer_blocks):
                    hooks.append(block.register_forward_hook(on_double(index)))
                for index, block in enumerate(pipe.transformer.single_transformer_blocks):
                    hooks.append(block.register_forward_hook(on_single(index)))
            picture = pipe(
                image=pictures or None, prompt=prompt, width=width, height=height, num_inference_steps=steps,
                sigmas=sigmas, guidance_scale=guidance, generator=torch.Generator().manual_seed(seed), latents=latents,
                max_sequence_length=self.limn["text_length"], text_encoder_out_layers=tuple(self.limn["text_taps"]),
                callback_on_step_end=on_step_end, callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"],
            ).images[0]
        finally:
            for hook in hooks:
                hook.remove()
            del pipe.image_processor.check_image_input, pipe.image_processor.preprocess
            del pipe._encode_vae_image, pipe.prepare_latents, pipe.vae.decode, pipe.encode_prompt, pipe.scheduler.step
        out.update(latents_of)
        generated = out["noise"].shape[0]
        for name in [name for name in out if name.endswith("velocity")]:
            out[name] = out[name][:generated]
        out["tokens"] = self.tokens(prompt)[0].numpy()
        if len(texts) > 1:
            out["empty_tokens"], out["empty_prompt_embeds"] = self.tokens("")[0].numpy(), texts[1]
        out["sigmas"] = pipe.scheduler.sigmas.float().numpy().copy()
        out["timesteps"] = pipe.scheduler.timesteps.float().numpy().copy()
        out["picture"] = np.array(picture)
        return out

    def output_size(self, width, height, pictures):
        """(width, height) of the picture that the pipeline will make, as its own rules have it."""
        if pictures:
            width, height = width or pictures[0].width // 16 * 16, height or pictures[0].height // 16 * 16
        return (width or 1024) // 16 * 16, (height or 1024) // 16 * 16

    @torch.no_grad()
    def transform(self, given, latents, index, guidance=None, blocks=False, text="prompt_embeds"):
        """The transformer at step `index` on inputs taken from a dump: `latents` [tokens, channels] and `given`'s prompt
        embeddings (those named `text`), reference latents and sigmas. Returns the velocity and, with `blocks`, the output of
        every block."""
        pipe, out, hooks = self.pipe, {}, []
        transformer = pipe.transformer
        as_tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a)).to(self.dtype)[None]
        as_array = lambda t: t.detach().float().numpy().copy()
        height, width = given["picture"].shape[0] // 16, given["picture"].shape[1] // 16
        tokens, ids = [as_tensor(latents)], [pipe._prepare_latent_ids(torch.empty(1, 1, height, width))]
        count = sum(name.startswith("reference_latents_") for name in given)
        if count:
            grids = []
            for k in range(count):
                h, w = given[f"reference_{k}"].shape[0] // 16, given[f"reference_{k}"].shape[1] // 16
                grids.append(torch.empty(1, 1, h, w))
                tokens.append(as_tensor(given[f"reference_latents_{k}"]))
            ids.append(pipe._prepare_image_ids(grids))
        context = as_tensor(given[text])
        if blocks:
            def record(name, pick):
                return lambda module, arguments, result: out.__setitem__(name, as_array(pick(result)[0]))

            for i, block in enumerate(transformer.transformer_blocks):
                hooks.append(block.register_forward_hook(record(f"step_{index}_double_{i}_txt", lambda r: r[0])))
                hooks.append(block.register_forward_hook(record(f"step_{index}_double_{i}_img", lambda r: r[1])))
            for i, block in enumerate(transformer.single_transformer_blocks):
                hooks.append(block.register_forward_hook(record(f"step_{index}_single_{i}", lambda r: r)))
        guidance = self.limn["guidance"] if guidance is None else guidance
        velocity = transformer(
            hidden_states=torch.cat(tokens, dim=1), encoder_hidden_states=context,
            timestep=torch.tensor([float(given["timesteps"][index])]).to(self.dtype) / 1000,
            guidance=None if self.klein else torch.tensor([guidance], dtype=torch.float32), img_ids=torch.cat(ids, dim=1),
            txt_ids=pipe._prepare_text_ids(context), return_dict=False,
        )[0][0]
        for hook in hooks:
            hook.remove()
        out[f"step_{index}_velocity"] = as_array(velocity[: height * width])
        return out

    @torch.no_grad()
    def decode(self, latents, shape):
        """The decoder on final latents [tokens, channels] for a picture of `shape` (height, width, 3): [3, height, width]."""
        vae = self.pipe.vae
        height, width = shape[0] // 16, shape[1] // 16
        grid = torch.from_numpy(np.ascontiguousarray(latents)).to(self.dtype).T.reshape(1, -1, height, width)
        mean = vae.bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
        return vae.decode(self.pipe._unpatchify_latents(grid * std + mean), return_dict=False)[0][0].float().numpy()
