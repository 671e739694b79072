#!/usr/bin/env python3
"""Puts load on a server with a stand-in worker and says whether it holds, some rounds in a row, each measurement in one go with
what it is compared with:

rate     500 requests a second with records in SQLite: none fails, and p99 is within 2 ms of a bare libmicrohttpd handler's
parked   2,000 requests that wait at once: none fails, and the server takes less than 200 MB
bytes    50 edits of 8 MB in flight: none fails, and the server takes at most 2.5 times their bytes
answers  50 answers a second of 1.5 MB in base64: none fails

usage: load.py [--rounds N] [--only NAME] [--seconds N] [--synchronous normal|full] [--build DIR]
Prints one line a measurement, with pass or FAIL, and at the end how many held; exit status 1 when one did not. DIR
(build/release) must have limn, limn-standin and bench_load (scripts/build release limn limn-standin bench_load). Means nothing
on a machine that does other things at the time.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGURATION = """queue: {depth: 5000}
log: {access: false}
auth: {keyless_requests_per_minute: 0}
store: {synchronous: %s}
"""
SLOWER_MOST = 0.002  # seconds that p99 may be above the bare handler's
PARKED_MOST = 200    # MB
BYTES_MOST = 2.5     # of what is sent


class Server:
    def __init__(self, options, folder):
        (folder / "limn.yaml").write_text(CONFIGURATION % options.synchronous)
        self.process = subprocess.Popen(
            [options.build / "limn", "serve", "--port", "0", "--config", folder / "limn.yaml", "--worker-program",
             options.build / "limn-standin", "--model", ROOT / "tests/fixtures/model-a"],
            env=dict(os.environ, XDG_STATE_HOME=str(folder)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        self.port, self.lines = None, []
        threading.Thread(target=self.read, daemon=True).start()
        deadline = time.monotonic() + 60
        while not self.port:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start:\n" + "".join(self.lines))
            time.sleep(0.02)
        self.memory_most, self.watching = 0, True
        self.memory_start = self.memory()
        threading.Thread(target=self.watch, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"at http://[^:]+:(\d+)/openai/v1", line)
            if found:
                self.port = int(found.group(1))

    def memory(self):
        """MB of the server's own process."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024

    def watch(self):
        while self.watching and self.process.poll() is None:
            self.memory_most = max(self.memory_most, self.memory())
            time.sleep(0.02)

    def stop(self):
        self.watching = False
        self.process.terminate()
        self.process.wait(60)


def request(path, body, kind="application/json"):
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def generation(**fields):
    return request("/v1/images/generations", json.dumps({"prompt": "x", "size": "64x64", **fields}).encode())


def edit(picture):
    parts = [b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nx @ms=200\r\n',
             b'--b\r\nContent-Disposition: form-data; name="size"\r\n\r\n64x64\r\n',
             b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n',
             picture, b"\r\n--b--\r\n"]
    return request("/v1/images/edits", b"".join(parts), "multipart/form-data; boundary=b")


def big_picture(size):
    """A PNG of 1024x1024 whose file is so large: what stands behind its end is not read."""
    head = bytes([0x89]) + b"PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + b"IHDR"
    head += (1024).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]) + bytes(4)
    return head + bytes(size - len(head))


def load(options, folder, words, what):
    path = folder / "request"
    path.write_bytes(what)
    out = subprocess.run([options.build / "bench_load", *map(str, words), path], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def say(name, good, text):
    print(f"{name:8} {'pass' if good else 'FAIL'}  {text}", flush=True)
    return good


def run_rate(options, folder):
    server = Server(options, folder)
    bare = subprocess.Popen([options.build / "bench_load", "bare", str(server.port + 1)])
    time.sleep(0.3)
    what = generation()
    load(options, folder, ["rate", server.port, 200, 1], what)
    plain = load(options, folder, ["rate", server.port + 1, 500, options.seconds], what)
    full = load(options, folder, ["rate", server.port, 500, options.seconds], what)
    bare.kill()
    bare.wait()
    server.stop()
    more = full["p99"] - plain["p99"]
    return say("rate", full["failed"] == 0 and more <= SLOWER_MOST * 1000,
               f"500/s: bare p50 {plain['p50']} p99 {plain['p99']} ms; limn p50 {full['p50']} p99 {full['p99']} ms, "
               f"{full['failed']} failed; p99 {more:+.3f} ms (at most {SLOWER_MOST * 1000:+.0f})")


def run_parked(options, folder):
    count = 2000
    server = Server(options, folder)
    first = subprocess.Popen(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{server.port}/v1/images/generations",
                              "-H", "Content-Type: application/json", "-d", '{"prompt":"x @ms=1000 @steps=6"}'])
    time.sleep(0.5)
    result = load(options, folder, ["parked", server.port, count, 120], generation())
    first.wait()
    server.stop()
    return say("parked", result["good"] == count and server.memory_most < PARKED_MOST,
               f"{result['good']} of {count} answered, {result['failed']} failed; memory {server.memory_start:.0f} MB before, "
               f"{server.memory_most:.0f} MB at most (below {PARKED_MOST})")


def run_bytes(options, folder):
    size, count = 8_000_000, 50
    server = Server(options, folder)
    result = load(options, folder, ["parked", server.port, count, 120], edit(big_picture(size)))
    server.stop()
    more = server.memory_most - server.memory_start
    times = more * 1048576 / (size * count)
    return say("bytes", result["good"] == count and times <= BYTES_MOST,
               f"{result['good']} of {count} edits of {size / 1e6:.0f} MB, {result['failed']} failed; memory {more:.0f} MB more at "
               f"most, {times:.2f} of their bytes (at most {BYTES_MOST})")


def run_answers(options, folder):
    server = Server(options, folder)
    what = generation(prompt="x @noise", size="608x608", response_format="b64_json")
    result = load(options, folder, ["rate", server.port, 50, options.seconds], what)
    server.stop()
    size = result["bytes"] / max(1, result["good"]) / 1e6
    return say("answers", result["failed"] == 0 and size >= 1.45,
               f"50/s of {size:.2f} MB: {result['failed']} failed, p50 {result['p50']} p99 {result['p99']} ms; memory "
               f"{server.memory_most:.0f} MB at most")


RUNS = {"rate": run_rate, "parked": run_parked, "bytes": run_bytes, "answers": run_answers}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(RUNS))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--synchronous", choices=["normal", "full"], default="normal")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    options = parser.parse_args()
    held = []
    # Every folder stays until the end: for five seconds ext4 does not use the inodes of removed files again and looks at each of
    # them whenever a file is made, so thousands of files that one round removed would slow down the next one's.
    with tempfile.TemporaryDirectory(prefix="limn-load-") as folders:
        for turn in range(options.rounds):
            print(f"round {turn + 1} of {options.rounds}", flush=True)
            for name, run in RUNS.items():
                if options.only in (None, name):
                    os.sync()  # the disk is done with what the one before left in memory
                    held.append(run(options, pathlib.Path(tempfile.mkdtemp(dir=folders))))
    print(f"{sum(held)} of {len(held)} measurements held")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
