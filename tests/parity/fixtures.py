"""Whole requests through `limn dump` against the committed ones of the reference pipeline: fixtures.py --limn PROGRAM.

Needs numpy alone. Every instruction set that `limn --version` names is tried. Errors are relative (norm of the
difference over norm of the reference's values), from end to end: each tensor carries the f32 rounding of all the parts
before it, so the bounds from the transformer on are the one that latents have, not that of a part by itself.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
TYPES = {"F32": np.float32, "I32": np.int32, "U8": np.uint8}
EXACT, END_TO_END = 0.0, 1e-4
# (start of a tensor's name, what is measured, bound); the first that fits counts
RULES = [
    ("tokens", "difference", EXACT), ("empty_tokens", "difference", EXACT), ("empty_prompt_embeds", "relative", 2e-5), ("noise", "difference", 2e-6), ("sigmas", "difference", 1e-6),
    ("timesteps", "difference", 1e-3), ("prompt_embeds", "relative", 2e-5), ("reference_latents_", "relative", 2e-5),
    ("reference_", "difference", EXACT), ("step_", "relative", END_TO_END), ("decoded", "relative", END_TO_END),
    ("picture", "difference", 1.0),
]


def read_safetensors(path):
    """(tensors by name, metadata)."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, metadata


def write_png(path, pixels):
    """pixels: u8 [height, width, 3]."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def measure(kind, value, truth):
    if value.shape != truth.shape or value.dtype != truth.dtype or not np.isfinite(value).all():
        return float("inf")
    value, truth = value.astype(np.float64), truth.astype(np.float64)
    if kind == "difference":
        return float(np.abs(value - truth).max())
    return float(np.linalg.norm(value - truth) / max(np.linalg.norm(truth), 1e-30))


def check_run(program, file, isa, scratch):
    """One request. Returns a list of (tensor, measured, bound, whether it held)."""
    truth, options = read_safetensors(file)
    model = FIXTURES / file.name[: len("model-a")]
    out = scratch / "out.safetensors"
    out.unlink(missing_ok=True)
    command = [program, "dump", "--model", model, "--prompt", options["prompt"], "--seed", options["seed"],
               "--compute", "f32", "--isa", isa, "-o", out]
    for k in range(int(options["images"])):
        write_png(scratch / f"{k}.png", truth[f"image_{k}"])
        command += ["--image", scratch / f"{k}.png"]
    if "size" in options:
        command += ["--size", options["size"]]
    run = subprocess.run([str(word) for word in command], capture_output=True, timeout=120)
    if run.returncode:
        print(run.stderr.decode(errors="replace").strip())
        return [("limn dump", float(run.returncode), 0.0, False)]
    tensors, _ = read_safetensors(out)
    results = []
    for name in sorted(truth):
        if name.startswith("image_"):
            continue
        kind, bound = next((kind, bound) for start, kind, bound in RULES if name.startswith(start))
        measured = measure(kind, tensors[name], truth[name]) if name in tensors else float("inf")
        results.append((name, measured, bound, measured <= bound))
    if "picture" in tensors and tensors["picture"].shape == truth["picture"].shape:
        share = float((tensors["picture"] != truth["picture"]).mean())
        results.append(("picture, share of values not equal", share, 0.01, share <= 0.01))
    return results


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--limn", required=True, help="the program")
    program = arguments.parse_args().limn
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    isas = next(line for line in version.splitlines() if line.startswith("isa:"))[4:].replace(",", " ").split()
    passed = failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        for file in sorted(FIXTURES.glob("model-*-run-*.safetensors")):
            for isa in isas:
                results = check_run(program, file, isa, pathlib.Path(scratch))
                worst = max(results, key=lambda r: r[1] / r[2] if r[2] else (float("inf") if r[1] else 0.0))
                good = all(ok for *_, ok in results)
                print(f"{'ok' if good else 'FAIL':4} {file.stem:20} {isa:12} worst {worst[0]}: {worst[1]:.3g}, bound {worst[2]:.3g}")
                passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
