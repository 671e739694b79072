#!/usr/bin/env python3
"""Loses the worker in every way at every stage, behind a server that runs through it all, and holds the server to its word:

- a request whose worker is lost once is run again and answered as if nothing had been (plain requests, several pictures);
- one whose worker is lost each time gets the error that says so (503 WORKER_DIED, 504 GENERATION_TIMEOUT, 503 OUT_OF_MEMORY),
  or the pictures that were finished before;
- a stream that has shown a preview ends with one error event, one that has not is run again;
- what waits behind it is served, and the next request is served by a new worker within seconds;
- nothing stays in the spool, the records are closed, the process is the same one from beginning to end;
- the same with the real worker, killed while it draws, and with media that may hold no more (507, then recovery).

usage: worker_faults.py [--limn FILE] [--worker FILE] [--model FOLDER]
Ends with "N passed, N failed".
"""
import argparse
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = ["accept", "text", "references", "steps", "decode", "image", "done"]
DEATHS = ["crash", "kill", "exit"]
GARBAGE = ["json", "length", "version", "type", "order", "early", "foreign", "escape"]
CONFIGURATION = """\
queue: {lease: 2s, stall: 3s, cancel: 2s}
media: {quota: 100KiB, lifetime: 4s}
log: {access: false}
"""


class Server:
    def __init__(self, options, state, worker=None):
        (state / "limn.yaml").write_text(CONFIGURATION)
        self.state = state
        command = [options.limn, "serve", "--port", "0", "--config", str(state / "limn.yaml"), "--model", options.model]
        self.process = subprocess.Popen(command + (["--worker-program", worker] if worker else []),
                                        env=dict(os.environ, XDG_STATE_HOME=str(state)), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.lines, self.url, self.ready = [], None, threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        if not self.ready.wait(120) or not self.url:
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

    def get(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None

    def draw(self, prompt, **more):
        """The status and the answer's object, or a stream's events."""
        body = {"prompt": prompt, "size": "64x64", "response_format": "b64_json", **more}
        request = urllib.request.Request(self.url + "/v1/images/generations", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read().decode()
                if not more.get("stream"):
                    return answer.status, json.loads(text)
                return answer.status, [json.loads(line[6:]) for line in text.split("\n") if line.startswith("data: ")]
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def spool(self):
        return [str(path.name) for path in (self.state / "limn").glob("spool-*/*")]

    def workers(self):
        """Process ids of the server's children."""
        children = []
        for task in pathlib.Path(f"/proc/{self.process.pid}/task").iterdir():
            try:
                children += [int(word) for word in (task / "children").read_text().split()]
            except OSError:
                pass  # the thread has ended meanwhile
        return children

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, what, good, shown=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED: {what}: {shown}", flush=True)

    def drawn(self, what, answer, count=1):
        status, body = answer
        self.check(what, status == 200 and len(body.get("data", [])) == count, answer)

    def refused(self, what, answer, status, code):
        self.check(what, answer[0] == status and answer[1]["error"]["code"] == code, answer)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def lose_once(server, checks):
    for stage in STAGES:
        for fault in DEATHS:
            prompt = f"@once @{fault}={stage}"
            checks.drawn(prompt, server.draw(prompt, n=2), 2)
    for kind in GARBAGE:
        checks.drawn(f"@once @garbage={kind}", server.draw(f"@once @garbage={kind}"))
    for fault in ("hang", "stall"):
        checks.drawn(f"@once @{fault}=steps", server.draw(f"@once @{fault}=steps"))


def lose_each_time(server, checks):
    for stage in STAGES[1:-2]:  # before it is acknowledged a job is given to several workers
        prompt = f"@crash={stage}"
        checks.refused(prompt, server.draw(prompt), 503, "WORKER_DIED")
        checks.drawn("after " + prompt, server.draw("x"))
        prompt = f"@memory={stage}"
        checks.refused(prompt, server.draw(prompt), 503, "OUT_OF_MEMORY")
    for fault in ("crash", "memory"):
        for stage, finished in (("image", 1), ("done", 2)):
            checks.drawn(f"@{fault}={stage}", server.draw(f"@{fault}={stage}", n=2), finished)
    for kind in GARBAGE:
        checks.refused(f"@garbage={kind}", server.draw(f"@garbage={kind}"), 503, "WORKER_DIED")
    for fault in ("hang", "stall"):
        checks.refused(f"@{fault}", server.draw(f"@{fault}=steps"), 504, "GENERATION_TIMEOUT")
    checks.drawn("after them all", server.draw("x"))


def lose_streams(server, checks):
    status, events = server.draw("@once @crash=text", stream=True, partial_images=1)
    kinds = [event.get("type") for event in events]
    checks.check("a stream before its previews", kinds == ["image_generation.partial_image", "image_generation.completed"],
                 (status, kinds))
    status, events = server.draw("@once @crash=decode", stream=True, partial_images=1)
    good = (len(events) == 2 and events[0].get("type") == "image_generation.partial_image" and
            events[1].get("error", {}).get("code") == "WORKER_DIED")
    checks.check("a stream after its previews", good, (status, [list(event) for event in events]))


def lose_with_others_waiting(server, checks):
    answers = [None] * 12

    def call(index):
        answers[index] = server.draw("@crash=steps" if index % 4 == 0 else "@ms=5", seed=index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answer in enumerate(answers):
        if index % 4 == 0:
            checks.refused(f"call {index} of many", answer, 503, "WORKER_DIED")
        else:
            checks.drawn(f"call {index} of many", answer)


def fill_media(server, checks):
    """Each picture of noise has 12 KB; media may hold 100 KiB, for four seconds."""
    answers = [server.draw("@noise", response_format="url") for _ in range(12)]
    statuses = [status for status, _ in answers]
    checks.check("media fill up", statuses[0] == 200 and statuses[-1] == 507, statuses)
    checks.check("it says so", answers[-1][1]["error"]["code"] == "STORAGE_FULL", answers[-1])
    checks.drawn("base64 needs no room", server.draw("@noise"))
    checks.check("room comes back", until(lambda: server.draw("@noise", response_format="url")[0] == 200))


def close_up(server, checks, what):
    checks.check(f"{what}: the spool is empty", until(lambda: not server.spool()), server.spool())
    status, page = server.get("/v1/requests?limit=100")
    still = {"queued", "running", "pending", "processing"}
    left = [row["status"] for row in page["data"] if row["status"] in still] if status == 200 else status
    checks.check(f"{what}: the records are closed", left == [], left)
    checks.check(f"{what}: it is the same process", server.process.poll() is None)
    checks.check(f"{what}: it ends with 0", server.stop() == 0, "".join(server.lines[-5:]))


def kill_the_real_worker(options, checks):
    with tempfile.TemporaryDirectory(prefix="limn-fault-") as folder:
        server = Server(options, pathlib.Path(folder))
        checks.drawn("the real worker", server.draw("a red circle"))
        for moment in (0.0, 0.05, 0.1, 0.2, 0.4):
            answers = []
            thread = threading.Thread(target=lambda: answers.append(server.draw("a red circle", steps=20)))
            thread.start()
            time.sleep(moment)  # wherever it may be
            for pid in server.workers():
                os.kill(pid, signal.SIGKILL)
            thread.join()
            checks.drawn(f"killed after {moment} s", answers[0])
        close_up(server, checks, "the real worker")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--limn", default=str(ROOT / "build/release/limn"))
    parser.add_argument("--worker", default=str(ROOT / "build/release/limn-standin"))
    parser.add_argument("--model", default=str(ROOT / "models/pictogram"))
    options = parser.parse_args()
    checks = Checks()
    with tempfile.TemporaryDirectory(prefix="limn-fault-") as folder:
        server = Server(options, pathlib.Path(folder), options.worker)
        for part in (lose_once, lose_each_time, lose_streams, lose_with_others_waiting, fill_media):
            part(server, checks)
        close_up(server, checks, "the stand-in")
    kill_the_real_worker(options, checks)
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
