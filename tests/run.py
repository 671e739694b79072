#!/usr/bin/env python3
"""Runs limn's tests step by step and adds up what passed; see ./test."""

import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
JOBS = str(os.cpu_count() or 2)


class Failure(Exception):
    """A step could not be carried out at all; counts as one failed test."""


def command(words, timeout=600, env=None, cwd=ROOT, show=False):
    """Runs words and returns (exit status, output); with show, prints the lines as they come."""
    environment = dict(os.environ, **(env or {}))
    process = subprocess.Popen([str(word) for word in words], cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines, deadline = [], time.monotonic() + timeout
    os.set_blocking(process.stdout.fileno(), True)
    import threading
    watchdog = threading.Timer(timeout, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            lines.append(line)
            if show:
                print("  " + line.rstrip(), flush=True)
        status = process.wait()
    finally:
        watchdog.cancel()
    if time.monotonic() >= deadline:
        lines.append(f"stopped after {timeout} s\n")
    return status, "".join(lines)


def must(words, **options):
    status, output = command(words, **options)
    if status:
        raise Failure(f"{' '.join(str(word) for word in words)}: exit status {status}\n{output[-6000:]}")
    return output


def environment(name, requirements):
    """A private Python environment in build/, made again when its requirements change. Returns its interpreter."""
    folder = BUILD / f"venv-{name}"
    python = folder / "bin" / "python"
    stamp = folder / "requirements.sha256"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest() + " " + str(folder)
    if not (stamp.exists() and stamp.read_text() == digest):
        print(f"  installing {requirements.relative_to(ROOT)}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        must([sys.executable, "-m", "venv", folder])
        must([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements], timeout=1800)
        stamp.write_text(digest)
    return python


def check(words, **options):
    """One test: passes when the command exits with 0."""
    status, output = command(words, **options)
    if status:
        print(output[-6000:])
    return (0, 1) if status else (1, 0)


def layers():
    passed, failed = check([sys.executable, "tests/check_layers.py"])
    # The check itself must be able to fail: an upward include in a tree of its own is found.
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder) / "src" / "base"
        base.mkdir(parents=True)
        (base / "wrong.c").write_text('#include "server/http.h"\n')
        status, _ = command([sys.executable, ROOT / "tests/check_layers.py", folder])
    return passed + (status != 0), failed + (status == 0)


def formatted():
    """Every C file is as clang-format leaves it."""
    files = must(["git", "ls-files", "*.c", "*.h"]).split()
    return check(["clang-format-14", "--dry-run", "--Werror", *files])


def build(preset):
    def step():
        return check(["scripts/build", preset], timeout=1800)
    return step


CMOCKA = re.compile(r"\[  (PASSED|FAILED)  \] (\d+) test\(s\)")


def unit(preset):
    """Every test program of a preset. A program that ends without cmocka's summary counts as one failure."""
    def step():
        passed = failed = 0
        programs = sorted(path for path in (BUILD / preset).glob("test_*") if path.is_file() and os.access(path, os.X_OK))
        if not programs:
            raise Failure(f"no test programs in build/{preset}")
        for program in programs:
            status, output = command([program], timeout=600, env={
                "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
                "LSAN_OPTIONS": f"suppressions={ROOT}/tests/leaks.supp:print_suppressions=0",
                "UBSAN_OPTIONS": "print_stacktrace=1"})
            good = sum(int(number) for kind, number in CMOCKA.findall(output) if kind == "PASSED")
            bad = sum(int(number) for kind, number in CMOCKA.findall(output) if kind == "FAILED")
            if status and not bad:
                bad = 1
            if not status and not good:
                bad, output = 1, output + "ran no test\n"
            if bad:
                print(f"  {program.name}: {bad} failed (exit status {status})\n{output[-6000:]}")
            passed, failed = passed + good, failed + bad
        return passed, failed
    return step


def cross():
    """The engine compiles for arm64 without a warning."""
    compiler = shutil.which("aarch64-linux-gnu-gcc")
    if not compiler:
        raise Failure("aarch64-linux-gnu-gcc is not installed")
    include = BUILD / "cross" / "include"
    shutil.rmtree(include, ignore_errors=True)
    include.mkdir(parents=True)
    # Only the libraries' own headers, not this machine's libc.
    flags = must(["pkg-config", "--cflags-only-I", "vips", "jansson", "libmicrohttpd", "gnutls", "libpcre2-8", "libutf8proc",
                  "libsodium"]).split()
    for name in ("jansson.h", "jansson_config.h", "pcre2.h", "utf8proc.h", "microhttpd.h", "sodium.h", "sodium", "vips",
                 "sqlite3.h", "yaml.h", "curl", "gnutls", "glib-2.0"):
        for folder in ("/usr/include", "/usr/include/x86_64-linux-gnu"):
            if os.path.exists(f"{folder}/{name}"):
                (include / name).symlink_to(f"{folder}/{name}")
                break
    folders = [flag for flag in flags if flag not in ("-I/usr/include", "-I/usr/include/x86_64-linux-gnu")]
    sources = [path for path in sorted(ROOT.glob("src/**/*.c"))
               if not re.search(r"_(avx2|avx512|avx512bf16|avx512vnni|amx)$", path.stem)]
    passed = failed = 0
    for source in sources:
        status, output = command([compiler, "-std=gnu17", "-D_GNU_SOURCE", '-DLIMN_VERSION="0"', "-Isrc", "-Iinclude",
                                  "-isystem", include, *[f"-isystem{flag[2:]}" for flag in folders], "-O1", "-Wall", "-Wextra",
                                  "-Wno-unused-parameter", "-Werror", "-c", source, "-o", "/dev/null"])
        if status:
            print(output[-3000:])
        passed, failed = passed + (status == 0), failed + (status != 0)
    return passed, failed


SUMMARY = re.compile(r"(\d+) (passed|failed|errors?)\b")


def counted(words, **options):
    """A runner whose output ends in a line that counts: pytest's, or "N passed, N failed"."""
    status, output = command(words, **options)
    last = [line for line in output.splitlines() if SUMMARY.search(line)][-1:]
    counts = {"passed": 0, "failed": 0}
    for number, word in SUMMARY.findall(last[0]) if last else []:
        counts["passed" if word == "passed" else "failed"] += int(number)
    if status and not counts["failed"]:
        counts["failed"] = 1
    if not counts["passed"] and not counts["failed"]:
        counts["failed"] = 1
    if counts["failed"]:
        print(output[-8000:])
    return counts["passed"], counts["failed"]


def fuzz(seconds):
    def step():
        return counted(["tests/fuzz/run", str(seconds)], timeout=1200 + 20 * seconds)
    return step


def parity():
    python = environment("parity", ROOT / "tests/parity/requirements.txt")
    return counted([python, "tests/parity/fixtures.py", "--limn", BUILD / "release" / "limn"], timeout=900)


def api(examples=30):
    """examples: how many requests an operation schemathesis makes of the OpenAPI document."""
    def step():
        return api_with(examples)
    return step


def api_with(examples):
    python = environment("api", ROOT / "tests/api/requirements.txt")
    node = ROOT / "tests/api/node"
    modules = BUILD / "node"
    modules.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        if (node / name).exists():
            shutil.copy(node / name, modules / name)
    if not (modules / "node_modules" / "openai").exists():
        must(["npm", "install", "--no-audit", "--no-fund", "--silent"], cwd=modules, timeout=600)
    return counted([python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/api"], timeout=3600,
                   env={"LIMN_OPENAPI_EXAMPLES": str(examples), "LIMN": str(BUILD / "release" / "limn"), "LIMN_NODE_MODULES": str(modules / "node_modules")})


def pull(kills):
    """kills: at how many random moments a download is killed."""
    def step():
        python = environment("pull", ROOT / "tests/pull/requirements.txt")
        return counted([python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/pull"], timeout=1800,
                       env={"LIMN": str(BUILD / "release" / "limn"), "LIMN_PULL_KILLS": str(kills)})
    return step


def killed(kills):
    def step():
        return counted([sys.executable, "tests/fault/kill_server.py", "--kills", str(kills)], timeout=300 + 5 * kills)
    return step


def worker_lost():
    return counted([sys.executable, "tests/fault/worker_faults.py"], timeout=300)


def database_refuses():
    return counted([sys.executable, "tests/fault/database_faults.py"], timeout=300)


def installed():
    return counted([sys.executable, "tests/install/service.py"], timeout=600)


def judge():
    python = environment("judge", ROOT / "training/judge/requirements.txt")
    return counted([python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "training/judge/test_judge.py",
                    "training/test_fit.py"],
                   timeout=600)


def judged_pictures():
    python = environment("judge", ROOT / "training/judge/requirements.txt")
    return counted([python, "training/judge/judge_sample.py", "--limn", BUILD / "release" / "limn", "--count", "12"],
                   timeout=600)


def reference():
    python = environment("reference", ROOT / "tests/reference/requirements.txt")
    return counted([python, "tests/reference/compare.py", "--limn", BUILD / "release" / "limn"], timeout=3000, show=True)


def converted():
    python = environment("reference", ROOT / "tests/reference/requirements.txt")
    return counted([python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/reference/test_convert.py"],
                   timeout=900)


def forms():
    python = environment("reference", ROOT / "tests/reference/requirements.txt")
    return counted([python, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "tests/reference/test_forms.py"],
                   timeout=1800)


def steps_for(options):
    if options.reference:
        return [("build release", build("release")), ("reference pipeline", reference),
                ("models in every form", forms), ("converted models in the reference tools", converted)]
    return [("layers", layers), ("format", formatted),
            ("build release", build("release")), ("unit tests", unit("release")),
            ("build debug (sanitizers)", build("debug")), ("unit tests, sanitizers", unit("debug")),
            ("build plain", build("plain")), ("unit tests, plain C", unit("plain")),
            ("arm64 compiles", cross),
            ("parity", parity),
            ("fuzz", fuzz(300 if options.long else 10)),
            ("api", api(200 if options.long else 20)),
            ("pull", pull(200 if options.long else 24)),
            ("faults: the worker is lost", worker_lost),
            ("faults: the server is killed", killed(200 if options.long else 30)),
            ("faults: the database refuses", database_refuses),
            ("installed as a service", installed),
            ("judge", judge), ("judged pictures", judged_pictures)]


def main():
    parser = argparse.ArgumentParser(prog="./test", description=__doc__)
    parser.add_argument("--reference", action="store_true", help="compare with the reference pipeline (installs PyTorch)")
    parser.add_argument("--long", action="store_true", help="fuzz each target for 300 seconds instead of 10")
    parser.add_argument("--only", metavar="WORD", help="run only the steps whose name contains WORD")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    passed = failed = 0
    for name, step in steps_for(options):
        if options.only and options.only not in name:
            continue
        started = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            good, bad = step()
        except Failure as failure:
            print(failure)
            good, bad = 0, 1
        print(f"   {good} passed, {bad} failed ({time.monotonic() - started:.0f} s)", flush=True)
        passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
