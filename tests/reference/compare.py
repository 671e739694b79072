"""Compares limn with the reference pipeline, live: compare.py --limn PROGRAM.

Random models are made in a temporary folder; each request runs through `limn dump` and through the reference. The
parts of a request (text encoder, transformer, autoencoder) are judged each on the inputs that limn itself gave them,
so that a row shows the error of one part; latents and pictures are judged from end to end. A relative error is the
Euclidean norm of the difference over the norm of the reference's values.

With --self-check no limn is needed: the reference stands in for it, first as it is (everything must pass), then with
one thing spoilt at a time (the row that watches over it must fail).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

import loras
import make_models
import text_strings
from dump import picture, schedule
from reference import Reference

# Bounds. The f32 ones leave an order of magnitude over what reordered f32 sums give; the bf16 one is a few roundings of
# 2^-9 carried through eight blocks.
REL_F32, REL_LATENTS_F32, REL_BF16 = 2e-5, 1e-4, 1e-2
NOISE, SIGMA = 2e-6, 1e-6

LONG_PROMPT = "over the hills and far away, " * 90
# model, name, prompt, sizes of reference images (width, height), options of the request
REQUESTS = [
    ("a", "text", "a red circle above a blue square", [], dict(seed=1, steps=3)),
    ("a", "edit-1", "don't [IMG]move; [INST]猫", [(100, 70)], dict(seed=2, steps=2)),
    ("a", "edit-2", LONG_PROMPT, [(64, 64), (131, 90)], dict(seed=3, size=(112, 80), steps=2, guidance=2.5)),
    ("b", "text", "", [], dict(seed=4)),
    ("b", "edit-4", "two figures, the pose of Image 1", [(64, 64), (140, 100), (66, 181), (90, 120)], dict(seed=5)),
    ("c", "text", "Straße, кот, 猫, <s>[/INST]", [], dict(seed=6)),
    ("c", "edit-3", "swap them", [(70, 81), (96, 64), (65, 97)], dict(seed=7, size=(64, 144))),
    ("d", "text", "a yellow star behind a green hill", [], dict(seed=8, guidance=4.0)),
    ("d", "edit-1", "make it night", [(112, 90)], dict(seed=9, guidance=4.0, steps=4)),
    ("e", "text", "a red circle above a blue square", [], dict(seed=10)),
    ("e", "edit-1", " don't [IMG]move; <think>e\u0301</think>猫 <|im_end|>\n ", [(100, 70)], dict(seed=11, steps=2)),
    ("e", "edit-2", LONG_PROMPT, [(64, 64), (131, 90)], dict(seed=12, size=(112, 80), guidance=3.0)),
    ("f", "text", "a yellow star", [], dict(seed=13)),
    ("f", "text without guidance", "two hills", [], dict(seed=14, guidance=1.0, steps=2)),
    ("f", "edit-1", LONG_PROMPT, [(90, 120)], dict(seed=15, guidance=2.5, steps=3)),
    ("f", "edit-2", "", [(70, 81), (96, 64)], dict(seed=16, size=(80, 64))),
]
DEEP, GUIDED = "d", "f"  # models whose bf16 error is held against the reference's own
HALF = "c"  # the model that is written with f16 weights too
SCHEDULE_SIZES = [(64, 64), (160, 96), (512, 256)]
BIG_SIZES = [(1040, 1040), (1072, 1040)]  # 4225 and 4355 tokens: both sides of the step in mu


def relative(value, truth):
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    if value.shape != truth.shape or not np.isfinite(value).all():
        return float("inf")
    return float(np.linalg.norm(value - truth) / max(np.linalg.norm(truth), 1e-30))


def difference(value, truth):
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    if value.shape != truth.shape or not np.isfinite(value).all():
        return float("inf")
    return float(np.abs(value - truth).max()) if value.size else 0.0


class Table:
    """The rows: for each what was measured at its worst, where, the bound, and whether it held."""

    def __init__(self, progress):
        self.rows, self.progress = {}, progress

    def add(self, row, measured, bound, where):
        """Keeps the case that comes closest to its bound, or goes furthest beyond it."""
        excess = measured / bound if bound else (float("inf") if measured else 0.0)
        old = self.rows.get(row)
        count = old["count"] + 1 if old else 1
        if old is None or not excess <= old["excess"]:
            old = dict(measured=measured, bound=bound, where=where, excess=excess)
        self.rows[row] = {**old, "count": count, "ok": old["excess"] <= 1.0}

    def failed(self):
        return [row for row, r in self.rows.items() if not r["ok"]]

    def show(self):
        width = max(map(len, self.rows))
        print(f"{'':4} {'':{width}}  {'measured':>10}  {'bound':>8}  {'cases':>5}  worst case")
        for row, r in self.rows.items():
            print(f"{'ok' if r['ok'] else 'FAIL':4} {row:{width}}  {r['measured']:10.3g}  {r['bound']:8.2g}  {r['count']:5}  {r['where']}")


class Limn:
    """The program under test."""

    def __init__(self, program, scratch):
        self.program, self.scratch = program, scratch
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        lines = [line.split("isa:", 1)[1] for line in version.splitlines() if "isa:" in line]
        self.isas = lines[0].replace(",", " ").split() if lines else []

    def dump(self, folder, prompt, images=(), size=None, sigmas=None, timeout=300, lora=(), **options):
        out = self.scratch / "limn.safetensors"
        command = [self.program, "dump", "--model", str(folder), "--prompt", prompt, "-o", str(out)]
        for image in images:
            command += ["--image", str(image)]
        for file, scale in lora:
            command += ["--lora", f"{file}:{scale}"]
        if size:
            command += ["--size", f"{size[0]}x{size[1]}"]
        if sigmas:
            command += ["--sigmas", ",".join(map(repr, sigmas))]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        out.unlink(missing_ok=True)
        run = subprocess.run(command, capture_output=True, timeout=timeout)
        if run.returncode:
            said = run.stderr.decode(errors="replace").strip().replace(str(self.scratch) + "/", "")
            raise RuntimeError(f"exit status {run.returncode}, {said[-300:]!r}, from limn {' '.join(command[1:])}")
        return load_file(out)

    def tokenize(self, folder, strings):
        data = b"".join(s.encode() + b"\0" for s in strings)
        run = subprocess.run([self.program, "tokenize", "--model", str(folder)], input=data, capture_output=True, timeout=120)
        if run.returncode:
            raise RuntimeError(f"limn tokenize: {run.stderr.decode(errors='replace').strip()[-300:]}")
        return [json.loads(line) for line in run.stdout.splitlines()]


class StandIn:
    """The reference in limn's place, with `spoil(tensors, request)` applied to what it gives."""

    def __init__(self, references):
        self.references, self.isas, self.cache, self.calls = references, ["here"], {}, 0
        self.spoil = lambda tensors, request: None
        self.spoil_ids = lambda ids: None

    def dump(self, folder, prompt, images=(), size=None, sigmas=None, compute="f32", noise="f32", isa=None, threads=None, **options):
        key = (str(folder), prompt, tuple(map(str, images)), size, tuple(sigmas or ()), noise, *sorted(options.items()))
        if key not in self.cache:
            self.cache[key] = self.references[folder.name].run(
                prompt, images, size=size, sigmas=sigmas, noise_dtype={"f32": None, "bf16": torch.bfloat16}[noise], **options
            )
        tensors = {k: v.copy() for k, v in self.cache[key].items()}
        self.calls += 1
        self.spoil(tensors, dict(compute=compute, threads=threads, noise=noise, call=self.calls))
        return tensors

    def tokenize(self, folder, strings):
        tokenizer = self.references[folder.name].pipe.tokenizer
        ids = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in strings]
        self.spoil_ids(ids)
        return ids


def make_images(folder):
    """The reference images of REQUESTS and one of each kind of file that must read as load_image reads it."""
    paths = {}
    for model, name, _, sizes, _ in REQUESTS:
        for k, (w, h) in enumerate(sizes):
            path = folder / f"{model}-{name}-{k}.png"
            Image.fromarray(picture(w, h, 7 * k + len(name))).save(path)
            paths.setdefault((model, name), []).append(path)
    base = Image.fromarray(picture(170, 130, 3))
    alpha = Image.fromarray(picture(170, 130, 4)).convert("L")
    kinds = {"rgb": base, "grey": base.convert("L"), "palette": base.quantize(40), "large": Image.fromarray(picture(1400, 1100, 6)),
             "tall": Image.fromarray(picture(400, 2900, 8))}
    kinds["alpha"] = base.copy()
    kinds["alpha"].putalpha(alpha)
    files = []
    for kind, image in kinds.items():
        image.save(folder / f"kind-{kind}.png")
        files.append(folder / f"kind-{kind}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    base.save(folder / "kind-turned.png", exif=exif)
    base.save(folder / "kind-lossless.webp", lossless=True, exact=True)
    return paths, files + [folder / "kind-turned.png", folder / "kind-lossless.webp"]


def check_text(table, limn, references, folders):
    strings = text_strings.strings()
    for model in ("a-f32", "b-f32", "c-f32", "e-f32"):
        tokenizer = references[model].pipe.tokenizer
        wanted = [tokenizer(s, add_special_tokens=False)["input_ids"] for s in strings]
        ids = limn.tokenize(folders[model], strings)
        wrong = [k for k in range(len(strings)) if k >= len(ids) or ids[k] != wanted[k]]
        where = f"model {model}: {strings[wrong[0]]!r:.50}" if wrong else f"{len(strings)} strings, model {model}"
        table.add("token ids: strings that differ", len(wrong), 0, where)


def check_guided(table, kind, got, truth, reference, request):
    """What guidance by two evaluations adds: the empty prompt, its velocity, and what both together give."""
    where, bound = f"{request[0]} {request[1]}", REL_BF16 if kind == "bf16" else REL_F32
    guided = "empty_tokens" in truth
    table.add("evaluations a step: requests that differ", int(guided != ("empty_tokens" in got)), 0, where)
    if not guided:
        return
    table.add("token ids in the template: ids that differ", int((got["empty_tokens"] != truth["empty_tokens"]).sum()), 0, where)
    table.add(f"{kind} prompt embeddings: relative error",
              relative(got["empty_prompt_embeds"], truth["empty_prompt_embeds"]), bound, f"{where} empty")
    guidance = np.float32(request[4].get("guidance", reference.limn["guidance"]))
    for i in range(len(truth["timesteps"])):
        latents = got["noise"] if i == 0 else got[f"step_{i - 1}_latents"]
        exact = reference.transform(got, latents, i, text="empty_prompt_embeds")[f"step_{i}_velocity"]
        empty = got[f"step_{i}_empty_velocity"]
        table.add(f"{kind} velocity of the empty prompt: relative error", relative(empty, exact), bound, f"{where} step {i}")
        both = empty + guidance * (got[f"step_{i}_velocity"] - empty)
        table.add("guided velocity of the two: difference", difference(got[f"step_{i}_guided_velocity"], both), 0, f"{where} step {i}")


def check_parts(table, kind, got, reference, request, own=None):
    """The parts of one request. `own`: the reference in bf16, whose error is the bound for deep models, and for the latents
    of guided ones, where guidance multiplies the error of a velocity."""
    model, name, prompt, _, options = request
    where = f"{model} {name}"
    bf16 = kind == "bf16"
    bound = REL_BF16 if bf16 else REL_F32
    truth = truth_of(reference, request)
    table.add("token ids in the template: ids that differ", int((got["tokens"] != truth["tokens"]).sum()), 0, where)
    table.add("noise: difference", difference(got["noise"], truth["noise"]), NOISE, where)
    table.add("sigmas: difference", difference(got["sigmas"], truth["sigmas"]), SIGMA, where)
    table.add("timesteps / 1000: difference", difference(got["timesteps"] / 1000, truth["timesteps"] / 1000), SIGMA, where)
    table.add(f"{kind} prompt embeddings: relative error", relative(got["prompt_embeds"], truth["prompt_embeds"]), bound, where)
    check_guided(table, kind, got, truth, reference, request)
    count = sum(k.startswith("reference_latents_") for k in got)
    expected = len(request[3])
    table.add("references: number that differs", abs(count - expected), 0, where)
    for k in range(expected):
        pixels = difference(got[f"reference_{k}"], truth[f"reference_{k}"])
        table.add("reference pixels: difference", pixels, 0, f"{where} image {k}")
        table.add(f"{kind} autoencoder encode: relative error",
                  relative(got[f"reference_latents_{k}"], truth[f"reference_latents_{k}"]), bound, f"{where} image {k}")

    steps, deep = len(truth["timesteps"]), own is not None and model in DEEP
    for i in (0, steps - 1):
        latents = got["noise"] if i == 0 else got[f"step_{i - 1}_latents"]
        exact = reference.transform(got, latents, i, options.get("guidance"), blocks=i == 0)
        mine = {k: got[k] for k in exact}
        limits = defaultdict(lambda: bound)
        if deep:
            if i > 0:
                break  # the reference rounds its timesteps in bf16: only the first is exact
            rounded = own.transform(got, latents, i, options.get("guidance"), blocks=True)
            limits = {k: relative(rounded[k], exact[k]) for k in exact}
        for k, value in exact.items():
            part = "velocity" if "velocity" in k else "block outputs"
            also = ", deep, against the reference's own" if deep else ""
            table.add(f"{kind} {part}{also}: relative error", relative(mine[k], value), limits[k], f"{where} {k}")

    last = got[f"step_{steps - 1}_latents"]
    table.add(f"{kind} autoencoder decode: relative error",
              relative(got["decoded"], reference.decode(last, truth["picture"].shape)), bound, where)
    table.add("picture of the decoded values: levels off",
              difference(got["picture"], np.round(np.clip(got["decoded"].transpose(1, 2, 0) / 2 + 0.5, 0, 1) * np.float32(255))), 0, where)
    limit = REL_BF16 if bf16 else REL_LATENTS_F32
    row = f"{kind} latents after the last step: relative error"
    if own is not None:
        row = f"bf16 latents after the last step, {'deep' if deep else 'guided'}, against the reference's own: relative error"
        rounded = truth_of(own, request, noise_dtype=torch.float32)
        limit = relative(rounded[f"step_{steps - 1}_latents"], truth[f"step_{steps - 1}_latents"])
    table.add(row, relative(last, truth[f"step_{steps - 1}_latents"]), limit, where)
    if not bf16:
        off = np.abs(got["picture"].astype(int) - truth["picture"]) if got["picture"].shape == truth["picture"].shape else np.full(1, 255)
        task = "edit" if request[3] else "text to image"
        table.add(f"final picture, {task}: levels off", int(off.max()), 1, where)
        table.add(f"final picture, {task}: share of values not equal", float((off != 0).mean()), 0.01, where)


IMAGES, TRUTHS = {}, {}


def truth_of(reference, request, **more):
    """The reference's own run of a request; kept, since several checks ask for it."""
    key = (id(reference), request[0], request[1].split(",")[0])
    if key not in TRUTHS:
        TRUTHS[key] = reference.run(request[2], request_images(request), everything=False, **request[4], **more)
    return TRUTHS[key]


def request_images(request):
    return IMAGES.get((request[0], request[1].split(",")[0]), [])


def check_noise(table, limn, folder, reference):
    channels = reference.pipe.transformer.config.in_channels
    for seed in range(10):
        for size in ((64, 64), (48, 80)) if seed else ((64, 64), (16, 16), (144, 208), (256, 192)):
            for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
                got = limn.dump(folder, "x", size=size, seed=seed, steps=1, noise=name)["noise"]
                shape = (1, channels, size[1] // 16, size[0] // 16)
                truth = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).float()
                truth = reference.pipe._pack_latents(truth)[0].numpy()
                row, bound = ("noise: difference", NOISE) if name == "f32" else ("bf16 noise: difference", 0)
                table.add(row, difference(got, truth), bound, f"seed {seed} size {size[0]}x{size[1]}")


def check_schedule(table, limn, folder, reference, steps_list, big):
    def one(size, steps, sigmas=None):
        tokens = (size[0] // 16) * (size[1] // 16)
        truth = schedule(reference.pipe, tokens, steps, sigmas)
        got = limn.dump(folder, "x", size=size, seed=0, **({"sigmas": sigmas} if sigmas else {"steps": steps}))
        where = f"{size[0]}x{size[1]}, {'a list of ' if sigmas else ''}{steps} steps"
        table.add("sigmas: difference", difference(got["sigmas"], truth[0]), SIGMA, where)
        table.add("timesteps / 1000: difference", difference(got["timesteps"] / 1000, truth[1] / 1000), SIGMA, where)

    for steps in steps_list:
        one(SCHEDULE_SIZES[0], steps)
    for size in SCHEDULE_SIZES[1:]:
        one(size, 4)
        one(size, 8, make_models.TURBO_SIGMAS)
    for size in BIG_SIZES if big else []:
        one(size, 2)
    one(SCHEDULE_SIZES[0], 8, make_models.TURBO_SIGMAS)
    one(SCHEDULE_SIZES[0], 3, [1.0, 0.55, 0.1])


def check_files(table, limn, folder, reference, files):
    for file in files:
        truth = np.array(reference.references([file])[0])
        h, w = truth.shape[0] // 16 * 16, truth.shape[1] // 16 * 16
        top, left = (truth.shape[0] - h) // 2, (truth.shape[1] - w) // 2
        got = limn.dump(folder, "x", images=[file], size=(64, 64), seed=0, steps=1)["reference_0"]
        table.add("reference pixels: difference", difference(got, truth[top : top + h, left : left + w]), 0, file.name)


def check_repeats(table, limn, folders):
    request = REQUESTS[1]
    images = request_images(request)
    for isa in limn.isas:
        for compute, model in (("f32", "a-f32"), ("bf16", "a-bf16")):
            runs = [
                limn.dump(folders[model], request[2], images, seed=2, steps=1, compute=compute, isa=isa, threads=threads)
                for threads in (1, 2, 3, 2)
            ]
            for run in runs[1:]:
                different = [k for k in runs[0] if k not in run or runs[0][k].tobytes() != run[k].tobytes()]
                different += [k for k in run if k not in runs[0]]
                where = f"isa {isa}, {compute}" + (f": {different[0]}" if different else "")
                table.add("1, 2, 3 threads, twice: tensors not the same bytes", len(different), 0, where)


def check_isas(table, limn, references, folders):
    """Every instruction set on one edit, in both computations."""
    request = REQUESTS[4]
    for isa in limn.isas:
        for kind in ("f32", "bf16"):
            model = f"{request[0]}-{kind}"
            got = limn.dump(folders[model], request[2], request_images(request), compute=kind, isa=isa, **request[4])
            check_parts(table, kind, got, references[model], (*request[:1], f"{request[1]}, isa {isa}", *request[2:]))


def judge_lora(table, kind, got, reference, request, guidance, where):
    """The transformer on limn's own inputs, block by block, and the end of a run; the reference has the LoRA."""
    steps = len(got["timesteps"])
    for i in (0, steps - 1):
        exact = reference.transform(got, got["noise"] if i == 0 else got[f"step_{i - 1}_latents"], i, guidance, blocks=i == 0)
        for k, value in exact.items():
            table.add(f"LoRA {kind}: relative error of blocks and velocity", relative(got[k], value), REL_F32, f"{where} {k}")
    truth = reference.run(request[2], request_images(request), everything=False, **request[4])
    last = f"step_{steps - 1}_latents"
    table.add(f"LoRA {kind}: relative error of latents", relative(got[last], truth[last]), REL_LATENTS_F32, where)


def check_loras(table, limn, references, folders, scratch):
    for request in (REQUESTS[1], REQUESTS[3], REQUESTS[6]):
        model = f"{request[0]}-f32"
        reference, folder, guidance = references[model], folders[model], request[4].get("guidance")
        transformer = reference.pipe.transformer
        one, two = loras.Lora(transformer, 1), loras.Lora(transformer, 2)

        def dump(*files, **more):
            return limn.dump(more.pop("folder", folder), request[2], request_images(request), lora=files, compute="f32", **request[4])

        plain, file = dump(), scratch / "lora.safetensors"
        for family in loras.FAMILIES:
            got = dump((one.write(file, family), 1.0))
            table.add("LoRA merged: velocities that it does not change", int(relative(got["step_0_velocity"], plain["step_0_velocity"]) < 0.02), 0, family)
            with one.merged(transformer):
                judge_lora(table, "merged", got, reference, request, guidance, f"{model} {family}")
        other = two.write(scratch / "other.safetensors", "kohya")
        got = dump((file, 0.75), (other, -1.5))
        with one.merged(transformer, 0.75), two.merged(transformer, -1.5):
            judge_lora(table, "two with scales", got, reference, request, guidance, model)
        with one.merged(transformer, 0.74), two.merged(transformer, -1.5): # this comparison can fail
            other_scale = reference.transform(got, got["noise"], 0, guidance)["step_0_velocity"]
        table.add("LoRA: another scale that went unnoticed", int(relative(got["step_0_velocity"], other_scale) <= REL_F32), 0, model)
        off = dump((file, 0.0))
        table.add("LoRA of scale 0: tensors not the same bytes", sum(off[k].tobytes() != plain[k].tobytes() for k in plain), 0, model)
        for family, shared in loras.LOADED.items():
            it = loras.Lora(transformer, 3, shared=shared)
            got = dump((it.write(file, family), 0.5))
            with loras.loaded(reference.pipe, file, 0.5):
                judge_lora(table, "as the reference loads it", got, reference, request, guidance, f"{model} {family}")
        it = loras.Lora(transformer, 4, alpha=False)
        said = {"r": 4, "lora_alpha": 6, "target_modules": sorted(n for names, *_ in it.groups for n in names), "peft_type": "LORA",
                "alpha_pattern": {"attn.to_out.0": 2, "proj_out": 12}}
        got = dump((it.write(file, "diffusers", metadata={f"transformer.{k}": v for k, v in said.items()}), 1.0))
        with loras.loaded(reference.pipe, file):
            judge_lora(table, "with metadata, as the reference loads it", got, reference, request, guidance, model)


def check_turbo(table, limn, references, folders, scratch):
    """A folder on another: the base's parts, a LoRA, the Turbo schedule; beside the published call of the reference."""
    reference, base = references["a-f32"], folders["a-f32"]
    turbo = scratch / "turbo"
    turbo.mkdir(exist_ok=True)
    loras.Lora(reference.pipe.transformer, 5, alpha=False).write(turbo / "turbo.safetensors", "diffusers")
    settings = {"base": f"../{base.name}", "loras": [{"file": "turbo.safetensors"}], "steps": 8, "guidance": 2.5,
                "sigmas": make_models.TURBO_SIGMAS}
    (turbo / "limn.json").write_text(json.dumps(settings))
    for prompt in ("a lighthouse at dusk", ""):
        got = limn.dump(turbo, prompt, seed=11, compute="f32")
        with loras.loaded(reference.pipe, turbo / "turbo.safetensors"):
            truth = reference.run(prompt, seed=11, guidance=2.5, sigmas=make_models.TURBO_SIGMAS, everything=False)
        table.add("a folder on a base with a LoRA and sigmas: sigmas", difference(got["sigmas"], truth["sigmas"]), SIGMA, prompt)
        table.add("a folder on a base with a LoRA and sigmas: relative error of latents",
                  relative(got["step_7_latents"], truth["step_7_latents"]), REL_LATENTS_F32, prompt)
        table.add("a folder on a base with a LoRA and sigmas: levels off", difference(got["picture"].astype(int), truth["picture"].astype(int)), 1, prompt)


def check_all(limn, references, folders, own, files, quick=False):
    table = Table(progress=not quick)
    guarded(table, "token ids: strings that differ", check_text, table, limn, references, folders)
    for request in REQUESTS:
        for kind in ("f32", "bf16"):
            model = f"{request[0]}-{kind}"

            def one():
                got = limn.dump(folders[model], request[2], request_images(request), compute=kind, **request[4])
                check_parts(table, kind, got, references[model], request, own.get(request[0]) if kind == "bf16" else None)

            guarded(table, f"{kind} requests that ran", one)
    half = next(r for r in REQUESTS if r[0] == HALF and r[3])

    def stored_half():
        folder = f"{HALF}-f16"
        got = limn.dump(folders[folder], half[2], request_images(half), compute="f32", **half[4])
        check_parts(table, "f32", got, references[folder], (half[0], f"{half[1]}, f16 weights", *half[2:]))

    guarded(table, "f32 requests that ran", stored_half)
    steps = (4, 8) if quick else (*range(4, 13), 16, 20, 25, 28, 30, 40, 50)
    b = folders["b-f32"], references["b-f32"]
    guarded(table, "noise: difference", check_noise, table, limn, *b)
    guarded(table, "sigmas: difference", check_schedule, table, limn, *b, steps, not quick)
    guarded(table, "reference pixels: difference", check_files, table, limn, *b, files)
    if not limn.isas:
        table.add("instruction sets named by --version: none", 1, 0, "")
    guarded(table, "1, 2, 3 threads, twice: tensors not the same bytes", check_repeats, table, limn, folders)
    if isinstance(limn, Limn):
        guarded(table, "LoRA: requests that ran", check_loras, table, limn, references, folders, limn.scratch)
        guarded(table, "a folder on a base with a LoRA and sigmas: requests that ran", check_turbo, table, limn, references, folders, limn.scratch)
    if not quick:
        guarded(table, "instruction sets: requests that ran", check_isas, table, limn, references, folders)
    return table


def guarded(table, row, function, *arguments):
    """Runs one check; that limn gave no usable answer is a failure of its row, not the end of the comparison."""
    started = time.time()
    try:
        function(*arguments)
        if table.progress:
            print(f"{time.time() - started:6.1f} s  {row.split(':')[0]}", flush=True)
    except (RuntimeError, KeyError, IndexError, ValueError, TypeError, OSError, subprocess.SubprocessError) as error:
        text = f"{type(error).__name__} {error}" if not isinstance(error, RuntimeError) else str(error)
        table.add(row, float("inf"), 1, text.replace("\n", " ")[:400])


def self_check(stand_in, *arguments):
    """Every spoiling must make its row fail, and nothing may fail without one. Returns the number of surprises."""

    def add(name, amount):
        def spoil(tensors, request):
            for key in tensors:
                if key.startswith(name):
                    value = tensors[key]
                    tensors[key] = (value + amount * np.abs(value).max() * (np.arange(value.size).reshape(value.shape) % 7 == 0)).astype(value.dtype)
        return spoil

    def once(name):
        def spoil(tensors, request):
            if request["threads"] == 3:
                tensors[name].flat[0] += 1
        return spoil

    def level(name, share, amount):
        def spoil(tensors, request):
            flat = tensors[name].reshape(-1)
            chosen = slice(0, max(int(flat.size * share), 1))
            flat[chosen] = np.where(flat[chosen] < 128, flat[chosen] + amount, flat[chosen] - amount)
        return spoil

    def only_bf16(function):
        return lambda tensors, request: function(tensors, request) if request["compute"] == "bf16" else None

    surprises = []
    table = check_all(stand_in, *arguments, quick=True)
    print("the reference in limn's place:")
    table.show()
    surprises += [f"unspoilt, yet failed: {row}" for row in table.failed()]
    spoilings = [
        ("f32 prompt embeddings", add("prompt_embeds", 1e-3)),
        ("f32 block outputs", add("step_0_double_0_img", 1e-3)),
        ("f32 block outputs", add("step_0_single_1", 1e-3)),
        ("f32 velocity", add("step_2_velocity", 1e-3)),
        ("f32 latents after the last step", add("step_2_latents", 2e-3)),
        ("f32 autoencoder encode", add("reference_latents_0", 1e-3)),
        ("f32 autoencoder decode", add("decoded", 1e-3)),
        ("bf16 prompt embeddings", only_bf16(add("prompt_embeds", 0.2))),
        ("bf16 block outputs:", only_bf16(add("step_0_double_0_txt", 0.2))),
        ("bf16 block outputs, deep", only_bf16(add("step_0_single_9", 0.2))),
        ("bf16 velocity, deep", only_bf16(add("step_0_velocity", 0.2))),
        ("bf16 latents after the last step, deep", only_bf16(add("step_5_latents", 2.0))),
        ("noise", add("noise", 1e-5)),
        ("sigmas", add("sigmas", 1e-5)),
        ("timesteps", add("timesteps", 1e-5)),
        ("reference pixels", level("reference_0", 0, 1)),
        ("final picture, text to image: levels off", level("picture", 0, 2)),
        ("final picture, text to image: share", level("picture", 0.02, 1)),
        ("final picture, edit: levels off", level("picture", 0, 2)),
        ("token ids in the template", level("tokens", 0, 1)),
        ("token ids in the template", level("empty_tokens", 0, 1)),
        ("f32 prompt embeddings", add("empty_prompt_embeds", 1e-3)),
        ("f32 velocity of the empty prompt", add("step_0_empty_velocity", 1e-3)),
        ("guided velocity of the two", add("step_1_guided_velocity", 1e-6)),
        ("evaluations a step", lambda tensors, request: tensors.pop("empty_tokens")),
        ("bf16 latents after the last step, guided", only_bf16(add("step_3_latents", 2.0))),
        ("1, 2, 3 threads", once("picture")),
    ]
    plain = stand_in.spoil
    for row, spoil in spoilings:
        def careful(tensors, request, spoil=spoil):
            try:
                spoil(tensors, request)
            except KeyError:
                pass
        stand_in.spoil = careful
        failed = check_all(stand_in, *arguments, quick=True).failed()
        caught = any(name.startswith(row) for name in failed)
        print(f"{'ok' if caught else 'MISSED':6} spoilt, must fail: {row}")
        surprises += [] if caught else [f"not noticed: {row}"]
    stand_in.spoil = plain
    stand_in.spoil_ids = lambda ids: ids[7].append(3)
    caught = any(name.startswith("token ids: strings") for name in check_all(stand_in, *arguments, quick=True).failed())
    surprises += [] if caught else ["not noticed: token ids of strings"]
    for line in surprises:
        print(line)
    total = len(spoilings) + 2
    print(f"{total - min(len(surprises), total)} passed, {len(surprises)} failed")
    return len(surprises)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--limn", help="the program")
    arguments.add_argument("--self-check", action="store_true", help="check this comparison itself, without limn")
    options = arguments.parse_args()
    if not options.limn and not options.self_check:
        arguments.error("--limn PROGRAM or --self-check is needed")
    torch.set_num_threads(1)
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="limn-reference-") as scratch:
        scratch = pathlib.Path(scratch)
        folders, references = {}, {}
        for name, spec in make_models.MODELS.items():
            dtypes = [torch.float32, torch.bfloat16] + ([torch.float16] if name == HALF else [])
            for folder in make_models.write_model(scratch, name, spec, dtypes):
                folders[folder.name] = folder
                references[folder.name] = Reference(folder)  # computes in f32 over either storage
        own = {model: Reference(folders[f"{model}-bf16"], torch.bfloat16) for model in (DEEP, GUIDED)}
        paths, files = make_images(scratch)
        IMAGES.update(paths)
        if options.self_check:
            return 1 if self_check(StandIn(references), references, folders, own, files) else 0
        table = check_all(Limn(options.limn, scratch), references, folders, own, files)
    table.show()
    failed = len(table.failed())
    print(f"{time.time() - started:.0f} s")
    print(f"{len(table.rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
