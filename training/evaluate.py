"""Draws the held-out list with the reference pipeline (diffusers) and has the judge read it: facts held a class, and
edits that keep both pose and character. judge_sample.py does the same through limn, without PyTorch."""

import argparse
import json
import time

import numpy as np
import torch
from diffusers import Flux2Pipeline
from PIL import Image

from training.judge import heldout, judge
from training.world import draw


def open_pipeline(folder, device, dtype):
    with open(f"{folder}/limn.json") as f:
        own = json.load(f)
    pipe = Flux2Pipeline.from_pretrained(folder, torch_dtype=dtype).to(device)
    pipe.set_progress_bar_config(disable=True)
    pipe.system_message = own["system_message"]
    side = int(own["default_size"].split("x")[0])

    def run(prompts, seeds, images=None, steps=None):
        every = steps is None or steps == own["steps"]
        out = pipe(prompt=prompts, image=images, height=side, width=side, guidance_scale=own["guidance"],
                   num_inference_steps=steps or own["steps"], sigmas=own["sigmas"] if every else None,
                   generator=[torch.Generator("cpu").manual_seed(s) for s in seeds],
                   max_sequence_length=own["text_length"], text_encoder_out_layers=tuple(own["text_taps"]),
                   output_type="pil")
        return [np.asarray(p) for p in out.images]

    return run


def tally(table, cls, held):
    t = table.setdefault(cls, [0, 0])
    t[0] += int(held)
    t[1] += 1


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--model", default="models/pictogram")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--steps", type=int, default=None, help="another count of steps, on the plain schedule")
    ap.add_argument("--every", type=int, default=1, help="take every n-th entry of the list")
    ap.add_argument("--no-edits", action="store_true")
    ap.add_argument("--out", help="write the figures here as JSON")
    ap.add_argument("--sheet", help="write a sheet of the first 48 pictures here")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    run = open_pipeline(a.model, a.device, torch.float32)
    lists = heldout.load()
    caps = lists["captions"][::a.every]
    table, seen, t0 = {}, [], time.time()
    with torch.no_grad():
        for i in range(0, len(caps), 20):
            part = caps[i:i + 20]
            for c, p in zip(part, run([c["caption"] for c in part], [c["seed"] for c in part], steps=a.steps)):
                for cls, fact, held in judge.verdict(p, c["scene"]):
                    tally(table, cls, held)
                    tally(table, f"{cls}: {fact[0]}", held)
                seen.append(p)
        for e in [] if a.no_edits else lists["edits"][::a.every]:
            refs = [Image.fromarray(draw.draw(r)) for r in e["refs"]]
            p = run([e["prompt"]], [e["seed"]], refs, steps=a.steps)[0]
            v = {f[0]: h for _, f, h in judge.verdict(p, e["target"])}
            tally(table, "edits: pose kept", v["pose"])
            tally(table, "edits: character kept", v["hair"] and v["shirt"] and v["trousers"])
            tally(table, "edits: pose and character", all(v[k] for k in ("pose", "hair", "shirt", "trousers")))
            tally(table, "edits: each fact", 0)
            table["edits: each fact"][0] += sum(v.values())
            table["edits: each fact"][1] += len(v) - 1
            seen.append(p)
    for k, (h, n) in sorted(table.items()):
        print(f"{k:32s} {h:5d} of {n:5d}  {100 * h / n:.1f} %")
    print(f"{(time.time() - t0) / len(seen):.2f} s a picture")
    if a.out:
        with open(a.out, "w") as f:
            json.dump({k: {"held": h, "of": n} for k, (h, n) in sorted(table.items())}, f, indent=1)
            f.write("\n")
    if a.sheet:
        pick = [seen[i] for i in np.linspace(0, len(seen) - 1, 48).astype(int)]
        Image.fromarray(np.concatenate([np.concatenate(pick[r * 8:r * 8 + 8], 1) for r in range(6)])).save(a.sheet)


if __name__ == "__main__":
    main()
