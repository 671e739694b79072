#!/usr/bin/env python3
"""Kills the server with SIGKILL at random moments, under load, again and again on one state folder, and holds it to its word:

- every request that it had recorded is afterwards completed, failed (INTERRUPTED) or refused: none stays open;
- nothing is charged twice: what a key has spent is the sum of its completed requests' costs, each Idempotency-Key was run and
  charged at most once, and nothing stays reserved;
- no file of media is an orphan: each belongs to a completed request; the spool is empty;
- what a client was told (200) is recorded as completed, at the price that it was told.

usage: kill_server.py [--kills N] [--seed N] [--limn FILE] [--worker FILE]
Ends with "N passed, N failed".
"""
import argparse
import json
import os
import pathlib
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = 8
CONFIGURATION = """\
local: {prices: {"*": {output_megapixel: 0.008}}}
queue: {depth: 64}
log: {access: false}
"""


class Server:
    def __init__(self, options, state):
        environment = dict(os.environ, XDG_STATE_HOME=str(state))
        self.process = subprocess.Popen(
            [options.limn, "serve", "--port", "0", "--config", str(state / "limn.yaml"), "--model", options.model,
             "--worker-program", options.worker], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace")
        self.lines = []
        self.url = None
        self.ready = threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        if not self.ready.wait(60) or not self.url:
            self.process.kill()
            raise SystemExit("the server did not start:\n" + "".join(self.lines))

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"at (http://\S+)/openai/v1", line)
            if found:
                self.url = found.group(1)
                self.ready.set()
        self.ready.set()


class Clients:
    """Keeps CLIENTS requests of all kinds in flight against whatever server stands."""

    def __init__(self, key, seed):
        self.key, self.random = key, random.Random(seed)
        self.lock = threading.Lock()
        self.url, self.stopping = None, False
        self.told = {}      # request id -> micro-dollars that a client was told
        self.accepted = []  # ids of 202s
        self.keys = {}      # Idempotency-Key -> ids that its calls were answered with
        self.sent = 0
        self.threads = [threading.Thread(target=self.run, args=(self.random.random(),)) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def run(self, seed):
        dice = random.Random(seed)
        pending = None  # an Idempotency-Key whose call got no answer: a program would try again
        while not self.stopping:
            if not self.url:
                time.sleep(0.002)
                continue
            kind = dice.choice(["plain", "plain", "url", "stream", "asynchronous", "key", "key"])
            if pending:
                kind = "key"
            pending = self.call(kind, dice, pending)

    def call(self, kind, dice, pending):
        body = {"prompt": f"x @ms={dice.choice([0, 0, 1, 5])}", "n": dice.choice([1, 1, 2]), "size": "64x64",
                "response_format": "url" if kind == "url" else "b64_json"}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer " + self.key}
        if kind == "stream":
            body.update(stream=True, partial_images=1)
        if kind == "asynchronous":
            headers["Prefer"] = "respond-async"
        if kind == "key":
            pending = pending or (f"key-{dice.getrandbits(60):x}", body)
            headers["Idempotency-Key"], body = pending
        with self.lock:
            self.sent += 1
        try:
            request = urllib.request.Request(self.url + "/v1/images/generations", json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.note(kind, answer.status, answer.read(), pending)
        except urllib.error.HTTPError as answer:
            answer.read()
            return pending if answer.code in (429, 503) else None
        except Exception:  # the connection broke: the server was killed
            time.sleep(0.001)
            return pending
        return None

    def note(self, kind, status, content, pending):
        with self.lock:
            if kind == "stream":
                events = [json.loads(line[6:]) for line in content.decode().split("\n") if line.startswith("data: ")]
                done = [event for event in events if event.get("type", "").endswith(".completed")]
                if done:  # each has its own part of the price
                    self.told[done[0]["id"]] = sum(event["metadata"]["cost_micros"] for event in done)
                return
            answer = json.loads(content)
            if status == 202:
                self.accepted.append(answer["id"])
                return
            self.told[answer["id"]] = answer["metadata"]["cost_micros"]
            if pending:
                self.keys.setdefault(pending[0], set()).add(answer["id"])

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join(60)


def judge(clients, state, server, key_id):
    """Yields (what, whether it holds, what was found)."""
    base = sqlite3.connect(f"file:{state}/limn/limn.db?mode=ro", uri=True)
    base.row_factory = sqlite3.Row
    rows = {row["id"]: dict(row) for row in base.execute("SELECT * FROM requests")}
    yield "requests were recorded", len(rows) > 0, len(rows)

    def ask(path):
        request = urllib.request.Request(server.url + path, headers={"Authorization": "Bearer " + clients.key})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    listed, path = {}, "/v1/requests?limit=100"
    while path:
        page = ask(path)
        listed.update((one["id"], one) for one in page["data"])
        path = page["next_page_url"]
        if path and path.startswith("http"):
            path = path[len(server.url):]
    yield "every record is listed", set(listed) == set(rows), f"{len(listed)} of {len(rows)}"
    open_ones = [one["id"] for one in listed.values() if one["status"] in ("pending", "processing")]
    yield "none stays open", not open_ones, open_ones[:5]
    odd = [one for one in listed.values() if one["status"] == "upstream_failure" and one["error_code"] != "INTERRUPTED"]
    yield "what failed was interrupted", not odd, odd[:2]
    interrupted = [one for one in listed.values() if one["error_code"] == "INTERRUPTED"]
    yield "some were interrupted", len(interrupted) > 0, len(interrupted)
    yield "the interrupted cost nothing", all(one["cost_micros"] == 0 for one in interrupted), ""
    lost = [name for name, cost in clients.told.items()
            if name not in listed or listed[name]["status"] != "completed" or listed[name]["cost_micros"] != cost]
    yield "what clients were told is recorded", not lost, lost[:5]
    lost = [name for name in clients.accepted if name not in listed]
    yield "what was accepted is recorded", not lost, lost[:5]
    twice = {key: ids for key, ids in clients.keys.items() if len(ids) > 1}
    yield "one request for each Idempotency-Key", not twice, list(twice.items())[:3]

    charged = sum(one["cost_micros"] for one in listed.values() if one["status"] == "completed")
    keys = [one for one in ask("/v1/keys")["data"] if one["id"] == key_id]
    usage = keys[0]["usage"]["total"]
    yield "the key has spent what its requests cost", usage["spent_micros"] == charged, f"{usage} and {charged}"
    yield "nothing stays reserved", usage["reserved_micros"] == 0, usage["reserved_micros"]

    files = {entry.name for entry in (state / "limn" / "media").iterdir() if not entry.name.startswith(".")}
    known = set()
    for row in [one for one in listed.values() if one["status"] == "completed"]:
        if row["images"]:
            known.update(one["name"] for one in ask("/v1/requests/" + row["id"])["media"])
    yield "no file of media is an orphan", files <= known, sorted(files - known)[:5]
    yield "no picture that was told is missing", known <= files, sorted(known - files)[:5]
    spool = [entry for folder in (state / "limn").glob("spool-*") if folder.is_dir() for entry in folder.iterdir()]
    yield "the spool is empty", not spool, spool[:5]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limn", default=str(ROOT / "build/release/limn"))
    parser.add_argument("--worker", default=str(ROOT / "build/release/limn-standin"))
    parser.add_argument("--model", default=str(ROOT / "tests/fixtures/model-a"))
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="limn-kill-") as folder:
        state = pathlib.Path(folder)
        (state / "limn").mkdir()
        (state / "limn.yaml").write_text(CONFIGURATION)
        made = subprocess.run([options.limn, "key", "create", "killer", "--admin", "--budget-total", "1000"], check=True,
                              env=dict(os.environ, XDG_STATE_HOME=folder), capture_output=True, text=True).stdout
        key = re.search(r"limn_\S+\.\S+", made).group(0)
        clients = Clients(key, options.seed)
        for _ in range(options.kills):
            server = Server(options, state)
            clients.url = server.url
            time.sleep(dice.choice([0.001, 0.01, 0.05, 0.1, 0.3]) * dice.random() * 2)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            clients.url = None
        server = Server(options, state)
        clients.url = server.url
        time.sleep(0.5)
        clients.stop()
        deadline = time.monotonic() + 30
        key_id = key.split(".")[0].removeprefix("limn_")
        while time.monotonic() < deadline:
            with urllib.request.urlopen(server.url + "/healthz", timeout=30) as answer:
                health = json.load(answer)
            if health["running"] == 0 and health["waiting"] == 0:
                break
            time.sleep(0.05)
        time.sleep(0.2)
        passed = failed = 0
        for what, holds, found in judge(clients, state, server, key_id):
            passed, failed = passed + bool(holds), failed + (not holds)
            if not holds:
                print(f"FAILED: {what}: {found}")
        server.process.send_signal(signal.SIGTERM)
        status = server.process.wait(60)
        if status != 0:
            failed += 1
            print(f"FAILED: the last server ended with status {status}\n" + "".join(server.lines[-20:]))
        print(f"{options.kills} kills, {clients.sent} requests sent, {len(clients.told)} answered, "
              f"{len(clients.accepted)} accepted to be asked after")
        print(f"{passed} passed, {failed} failed")
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
