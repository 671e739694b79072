"""`limn pull` against a hub on this machine (hub.py). LIMN is the binary (default: build/release/limn). Nothing here sleeps to wait:
it polls with a deadline."""
import hashlib
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from hub import Hub, Repository, git_blob  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMN = os.environ.get("LIMN", str(ROOT / "build" / "release" / "limn"))
KLEIN = "black-forest-labs/FLUX.2-klein-4B"


def until(condition, seconds=30, what="the condition"):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.005)


def model_files(size=300_000, seed=1):
    """Files in the layout of klein, of random bytes, and some that no pull wants."""
    source = random.Random(seed)
    files = {"model_index.json": b'{"_class_name": "Flux2Pipeline"}', "README.md": b"# a model",
             "flux-2-klein-4b.safetensors": source.randbytes(5000), "scheduler/scheduler_config.json": b"{}",
             "tokenizer/tokenizer.json": source.randbytes(20_000), "transformer/config.json": b'{"a": 1}',
             "text_encoder/config.json": b'{"b": 2}', "vae/config.json": b'{"c": 3}'}
    for part, count in ("transformer", 2), ("text_encoder", 2), ("vae", 1):
        for i in range(count):
            files[f"{part}/model-{i + 1:05}-of-{count:05}.safetensors"] = source.randbytes(size + 1000 * i)
    return files


class Place:
    """A user's folders, and what is in them."""

    def __init__(self, folder, hub):
        self.folder, self.hub = folder, hub
        self.home, self.data = folder / "hf", folder / "data"
        self.cache = self.home / "hub"
        self.environment = {key: value for key, value in os.environ.items()
                            if not key.startswith(("HF_", "HUGGING")) and not key.lower().endswith("_proxy")}
        self.environment.update(HF_ENDPOINT=hub.url, HF_HOME=str(self.home), XDG_DATA_HOME=str(self.data),
                                LIMN_GITHUB_RAW=hub.url + "/raw", XDG_STATE_HOME=str(folder / "state"))

    def start(self, *words, before=(), **environment):
        return subprocess.Popen([*before, LIMN, "pull", *words], env=dict(self.environment, **environment),
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                errors="replace")

    def pull(self, *words, timeout=120, **more):
        process = self.start(*words, **more)
        try:
            process.out, process.err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert "Sanitizer" not in process.err and "runtime error" not in process.err, process.err
        return process

    def repository(self, name):
        return self.cache / f"models--{name.replace('/', '--')}"

    def snapshot(self, name):
        return self.repository(name) / "snapshots" / self.hub.repositories[name].commit

    def check_cache(self):
        """Whatever stands under a final name is whole."""
        for blob in self.cache.glob("models--*/blobs/*"):
            if blob.name.endswith(".incomplete"):
                continue
            data = blob.read_bytes()
            assert blob.name in (hashlib.sha256(data).hexdigest(), git_blob(data)), blob
        for link in self.cache.glob("models--*/snapshots/*/**/*"):
            if not link.is_dir():
                assert link.is_symlink() and link.exists(), link
                assert not os.path.isabs(os.readlink(link))

    def check_snapshot(self, name, wanted):
        """Exactly the wanted files, byte for byte; nothing unfinished is left."""
        folder, files = self.snapshot(name), self.hub.repositories[name].files
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
        assert found == set(wanted)
        for path in wanted:
            assert (folder / path).read_bytes() == files[path], path
        assert not list(self.repository(name).glob("blobs/*.incomplete"))
        self.check_cache()


WANTED = sorted(path for path in model_files() if path not in ("README.md", "flux-2-klein-4b.safetensors"))


@pytest.fixture
def hub():
    hub = Hub()
    hub.repositories[KLEIN] = Repository(model_files())
    yield hub
    hub.close()


@pytest.fixture
def place(tmp_path, hub):
    return Place(tmp_path, hub)


def interrupt(process):
    process.send_signal(signal.SIGINT)
