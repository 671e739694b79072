#!/usr/bin/env python3
"""Makes the database refuse in every way behind a server that runs through it all, and holds the server to its word:

- locked by another program, moved away, replaced by a damaged file, on a full disk: new requests get an error that a client can
  act on (5xx or 507, in OpenAI's form), /readyz says that the server is not ready, nothing hangs;
- a picture that was in work when it began is delivered all the same, and recorded and charged once the database can be written;
- when the cause is gone the same process serves again within seconds, and what was recorded before is still there;
- a file that is no database, damaged, another program's or a newer limn's keeps the server from starting, with a line that names it.

usage: database_faults.py [--limn FILE] [--worker FILE] [--model FOLDER]
Ends with "N passed, N failed".
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGURATION = """\
local: {{prices: {{"*": {{output_megapixel: 0.008}}}}}}
store: {{path: "{database}", busy_time: 400ms}}
log: {{access: false}}
"""


class Failure(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failure(text)


def until(what, seconds, condition):
    """Waits until condition() is true and returns it; a Failure that names [what] when it is not in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds} s: {what}")
        time.sleep(0.05)


class Server:
    """limn serve over the stand-in worker; [wrap] is put in front of the command."""

    def __init__(self, options, state, database, wrap=()):
        self.state, self.database = state, database
        (state / "limn.yaml").write_text(CONFIGURATION.format(database=database))
        command = [*wrap, options.limn, "serve", "--port", "0", "--config", str(state / "limn.yaml"), "--model", options.model,
                   "--worker-program", options.worker]
        self.process = subprocess.Popen(command, env=dict(os.environ, XDG_STATE_HOME=str(state)), stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        self.lines, self.url, self.ready = [], None, threading.Event()
        threading.Thread(target=self.read, daemon=True).start()
        self.ready.wait(60)

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.search(r"at (http://\S+)/openai/v1", line)
            if found:
                self.url = found.group(1)
                self.ready.set()
        self.ready.set()

    def call(self, path, body=None):
        """Status and JSON of an answer; errors are answers, too."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode() if body else None,
                                         {"Content-Type": "application/json"} if body else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text.startswith(b"{") else None

    def draw(self, prompt="a house", **more):
        return self.call("/v1/images/generations",
                         {"prompt": prompt, "size": "64x64", "response_format": "b64_json", **more})

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def expect_refusal(server, statuses, codes):
    """A new request is refused in time and in form, and the server says that it is not ready."""
    start = time.monotonic()
    status, body = server.draw()
    took = time.monotonic() - start
    expect(status in statuses, f"status {status}, expected one of {statuses}: {body}")
    error = (body or {}).get("error") or {}
    expect(set(error) >= {"message", "type", "param", "code"}, f"no error in OpenAI's form: {body}")
    expect(error["code"] in codes, f"code {error['code']}, expected one of {codes}")
    expect(str(server.state) not in error["message"], f"a path in \"{error['message']}\"")
    expect(took < 10, f"refused only after {took:.1f} s")
    expect(server.call("/readyz")[0] == 503, "/readyz says ready")
    expect(server.call("/healthz")[0] == 200, "/healthz: the process lives")


def expect_recovery(server, before):
    """The same process serves again, and remembers."""
    until("a picture", 15, lambda: server.draw()[0] == 200)
    until("/readyz", 5, lambda: server.call("/readyz")[0] == 200)
    status, record = server.call("/v1/requests/" + before)
    expect(status == 200 and record["status"] == "completed", f"{before}: {status} {record}")
    expect(server.process.poll() is None, "the server has ended")


def draw_behind(server, cause):
    """Draws a picture that takes a while, calls [cause] when it is in work, and returns its answer and id."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(server.draw("slow @ms=1500")))
    thread.start()

    def running():
        data = server.call("/v1/requests?limit=1")[1]["data"]
        return data[0]["id"] if data and data[0]["status"] == "processing" else None
    identity = until("a request in work", 10, running)
    cause()
    thread.join(30)
    expect(answers, "no answer within 30 s")
    return *answers[0], identity


def expect_delivered(server, status, body, identity, price=8000):
    expect(status == 200, f"what was in work: status {status}: {body}")
    expect(body["data"][0]["b64_json"], "no picture")

    def settled():
        record = server.call("/v1/requests/" + identity)[1]
        return record if record and record.get("status") == "completed" else None
    record = until(f"{identity} is recorded as completed", 15, settled)
    expect(record["cost_micros"] == price, f"charged {record['cost_micros']}, expected {price}")


def first(server):
    status, body = server.draw()
    expect(status == 200, f"at first: {status} {body}")
    return server.call("/v1/requests?limit=1")[1]["data"][0]["id"]


def locked(options, state):
    server = Server(options, state, state / "limn.db")
    try:
        before = first(server)
        other = sqlite3.connect(state / "limn.db", isolation_level=None, check_same_thread=False)

        def cause():
            other.execute("BEGIN IMMEDIATE")
        status, body, identity = draw_behind(server, cause)
        expect_refusal(server, [500, 503], ["INTERNAL_ERROR"])
        expect(server.call("/v1/requests/" + before)[0] == 200, "reading does not go on")
        other.execute("ROLLBACK")
        other.close()
        expect_recovery(server, before)
        expect_delivered(server, status, body, identity)
    finally:
        server.stop()


def move(state, names, to):
    for tail in ("", "-wal", "-shm"):
        source = state / (names + tail)
        if source.exists():
            source.rename(state / (to + tail))


def gone(options, state):
    server = Server(options, state, state / "limn.db")
    try:
        before = first(server)
        status, body, identity = draw_behind(server, lambda: move(state, "limn.db", "away.db"))
        until("a refusal", 5, lambda: server.draw()[0] != 200)
        expect_refusal(server, [500, 503], ["INTERNAL_ERROR"])
        expect(not (state / "limn.db").exists(), "an empty database was made in its place")
        move(state, "away.db", "limn.db")
        expect_recovery(server, before)
        expect_delivered(server, status, body, identity)
    finally:
        server.stop()


def damaged(options, state):
    server = Server(options, state, state / "limn.db")
    try:
        before = first(server)
        (state / "bad.db").write_bytes(b"\x5a" * 65536)

        def cause():
            move(state, "limn.db", "away.db")
            (state / "bad.db").rename(state / "limn.db")
        status, body, identity = draw_behind(server, cause)
        until("a refusal", 5, lambda: server.draw()[0] != 200)
        expect_refusal(server, [500, 503], ["INTERNAL_ERROR"])
        expect(any("damaged" in line for line in server.lines), "the log does not say that the file is damaged")
        for tail in ("", "-wal", "-shm"):
            (state / ("limn.db" + tail)).unlink(missing_ok=True)
        move(state, "away.db", "limn.db")
        expect_recovery(server, before)
        expect_delivered(server, status, body, identity)
    finally:
        server.stop()


def full(options, state):
    """The database alone on a file system of 4 MB, in a mount namespace of the server's; filled from outside."""
    disk = state / "disk"
    disk.mkdir()
    wrap = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
            f"mount -t tmpfs -o size=4m limn '{disk}' && exec \"$0\" \"$@\""]
    if subprocess.run([*wrap, "true"], capture_output=True).returncode:
        print("    no file system can be mounted here: not tried")
        return
    server = Server(options, state, disk / "limn.db", wrap)
    try:
        before = first(server)
        inside = pathlib.Path(f"/proc/{server.process.pid}/root{disk}")

        def cause():
            with open(inside / "ballast", "wb", buffering=0) as ballast:
                try:
                    while ballast.write(b"\0" * 4096):
                        pass
                except OSError:
                    pass
        status, body, identity = draw_behind(server, cause)
        until("a refusal", 20, lambda: server.draw()[0] != 200)  # pages that are there already take some
        expect_refusal(server, [507], ["STORAGE_FULL"])
        (inside / "ballast").unlink()
        expect_recovery(server, before)
        expect_delivered(server, status, body, identity)
    finally:
        server.stop()


def refuses_to_start(options, state):
    def noise(path):
        path.write_bytes(b"\x5a" * 65536)

    def foreign(path):
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
        connection.commit()
        connection.close()

    def newer(path):
        subprocess.run([options.limn, "key", "list", "--database", str(path)], check=True, capture_output=True)
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    for make, part in ((noise, "damaged"), (foreign, "another program"), (newer, "newer limn")):
        path = state / f"{make.__name__}.db"
        make(path)
        content = path.read_bytes()
        server = Server(options, state, path)
        try:
            expect(server.url is None, f"{part}: the server has started")
            expect(server.process.wait(20) == 1, f"{part}: exit status {server.process.returncode}")
            text = "".join(server.lines)
            expect(part in text and str(path) in text, f"{part}: {text}")
            expect(path.read_bytes() == content, f"{part}: the file was changed")
        finally:
            server.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limn", default=str(ROOT / "build/release/limn"))
    parser.add_argument("--worker", default=str(ROOT / "build/release/limn-standin"))
    parser.add_argument("--model", default=str(ROOT / "models/pictogram"))
    options = parser.parse_args()
    passed = failed = 0
    for case in (locked, gone, damaged, full, refuses_to_start):
        state = pathlib.Path(tempfile.mkdtemp(prefix="limn-database-"))
        try:
            case(options, state)
            passed += 1
            print(f"  ok      {case.__name__}")
        except Failure as failure:
            failed += 1
            print(f"  FAILED  {case.__name__}: {failure}")
        finally:
            shutil.rmtree(state, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
