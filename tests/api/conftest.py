"""The live server: LIMN is the binary (default: build/release/limn), LIMN_TEST_MODEL the model folder (default: the bundled
model where it has weights, else a tiny random one of the fixtures). Nothing here sleeps to wait: it polls with a deadline."""
import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.request

import pytest
from openai import OpenAI

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMN = os.environ.get("LIMN", str(ROOT / "build" / "release" / "limn"))
# The stand-in worker speaks the worker's protocol and draws at once (tests/standin).
STANDIN = os.environ.get("LIMN_STANDIN_PROGRAM", str(pathlib.Path(LIMN).with_name("limn-standin")))
FAST = ("--worker-program", STANDIN)
# Where the Node SDK is installed: scripts that import it lie beside node_modules.
BUILD_NODE = pathlib.Path(os.environ.get("LIMN_NODE_MODULES", str(ROOT / "build" / "node" / "node_modules"))).parent


def model_folder():
    if os.environ.get("LIMN_TEST_MODEL"):
        return os.environ["LIMN_TEST_MODEL"]
    bundled = ROOT / "models" / "pictogram"
    return str(bundled if (bundled / "model_index.json").exists() else ROOT / "tests" / "fixtures" / "model-a")


def served_model():
    """The name that the server gives the model."""
    return pathlib.Path(model_folder()).name.lower()


def until(condition, seconds=30, what="the condition"):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come within {seconds} s")
        time.sleep(0.02)


class Server:
    """`limn serve` on a free port, with a state folder of its own."""

    def __init__(self, folder, *options, before=(), config=None, environment=None, key="any"):
        """before: words in front of the program's own, for a namespace of its own. config: text of limn.yaml."""
        self.state = folder
        self.lines = []
        folder.mkdir(parents=True, exist_ok=True)
        settings = folder.with_name(folder.name + ".yaml")
        settings.write_text(config or "")
        options = ("--config", str(settings), *options)
        environment = dict(os.environ, XDG_STATE_HOME=str(folder), **(environment or {}))
        self.process = subprocess.Popen(
            [*before, LIMN, "serve", "--model", model_folder(), "--port", "0", *options], env=environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        threading.Thread(target=self.read, daemon=True).start()
        self.url = until(self.find_url, 120, "the server's greeting")
        self.client = OpenAI(api_key=key, base_url=self.url + "/openai/v1", max_retries=0, timeout=300)

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)

    def find_url(self):
        if self.process.poll() is not None:
            raise AssertionError(f"limn serve ended with status {self.process.returncode}:\n{''.join(self.lines)}")
        found = re.search(r"at (https?://\S+)/openai/v1", "".join(list(self.lines)))
        return found and found.group(1)

    def output(self):
        return "".join(list(self.lines))

    def health(self):
        import json
        try:
            with urllib.request.urlopen(self.url + "/healthz", timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as answer:
            return json.load(answer)

    def idle(self):
        health = self.health()
        return health["ready"] and health["running"] == 0 and health["waiting"] == 0

    def worker(self):
        """The worker's process id."""
        children = []
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            children += (task / "children").read_text().split()
        return int(children[0]) if children else None

    def spool_files(self):
        return [path for path in (self.state / "limn").glob("spool-*/*")]

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(30)
        finally:
            if self.process.poll() is None:
                self.process.kill()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("state"))
    yield running
    status = running.stop()
    assert status == 0, running.output()
    assert "Sanitizer" not in running.output()


@pytest.fixture(scope="session")
def fast(tmp_path_factory):
    """A server whose worker draws at once."""
    running = Server(tmp_path_factory.mktemp("fast"), *FAST, config="aliases:\n  gpt-image-*: %s\n" % served_model())
    yield running
    status = running.stop()
    assert status == 0, running.output()
    assert "Sanitizer" not in running.output()


@pytest.fixture(autouse=True)
def idle_between_tests(request):
    yield
    for name in {"server", "fast"} & set(request.fixturenames):
        running = request.getfixturevalue(name)
        until(running.idle, 120, "an idle server")
        assert running.spool_files() == []


@pytest.fixture
def client(server):
    return server.client


@pytest.fixture
def own_server(tmp_path):
    """Starts servers with options; each is stopped at the end."""
    started = []

    def start(*options, state=None, **more):
        started.append(Server(state or tmp_path / f"state-{len(started)}", *options, **more))
        return started[-1]

    yield start
    for running in started:
        running.stop()
        assert "Sanitizer" not in running.output()
