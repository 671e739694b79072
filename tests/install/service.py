#!/usr/bin/env python3
"""The service as it is installed: `scripts/install-service` into a folder of its own, the unit as systemd reads it, and its
ExecStart line with its environment, under a user without rights and, where the machine lets us, with everything but its state
read-only. Ends with "N passed, N failed"."""
import base64
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PREFIX = "/usr/local"
NOBODY = 65534


def install(folder):
    subprocess.run([ROOT / "scripts/install-service", PREFIX], env=dict(os.environ, DESTDIR=str(folder)), check=True, timeout=300)
    return folder / PREFIX.lstrip("/")


def read_unit(path):
    """{section: {key: [values]}}"""
    unit, section = {}, None
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = unit.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            section.setdefault(name, []).append(value)
    return unit


def check_files(folder, installed):
    for name in ("bin/limn", "share/limn/models/pictogram/model_index.json", "share/limn/models/pictogram/transformer/config.json",
                 "lib/systemd/system/limn.service", "lib/sysusers.d/limn.conf", "lib/tmpfiles.d/limn.conf", "share/man/man1/limn.1", "share/doc/limn/running.md",
                 "share/doc/limn/LICENSE"):
        assert (installed / name).is_file(), name
    assert os.access(installed / "bin/limn", os.X_OK)
    unit = (installed / "lib/systemd/system/limn.service").read_text()
    assert "@" not in unit and f"ExecStart={PREFIX}/bin/limn serve\n" in unit
    document = re.search(r"file://(\S+)", unit).group(1)
    assert (folder / document.lstrip("/")).is_file(), document


def check_unit(folder, installed):
    """systemd takes every line of it."""
    if not shutil.which("systemd-analyze"):
        print("  systemd-analyze is not here: the unit is not checked by it")
        return
    text = (installed / "lib/systemd/system/limn.service").read_text().replace(f"ExecStart={PREFIX}", f"ExecStart={installed}")
    copy = folder / "limn.service"
    copy.write_text(text)
    ended = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0 and "limn.service" not in ended.stderr, ended.stderr


def check_user(folder, installed):
    if not shutil.which("systemd-sysusers"):
        print("  systemd-sysusers is not here: its file is not checked by it")
        return
    (folder / "etc").mkdir()
    ended = subprocess.run(["systemd-sysusers", "--root", folder, installed / "lib/sysusers.d/limn.conf"], capture_output=True,
                           text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    user = next(line for line in (folder / "etc/passwd").read_text().splitlines() if line.startswith("limn:")).split(":")
    ended = subprocess.run(["systemd-tmpfiles", "--root", folder, "--create", installed / "lib/tmpfiles.d/limn.conf"],
                           capture_output=True, text=True, timeout=60)
    state = (folder / "var/lib/limn").stat()
    assert ended.returncode == 0 and (os.getuid() != 0 or state.st_uid == int(user[2])) and state.st_mode & 0o777 == 0o750, ended
    assert 0 < int(user[2]) < 1000 and user[5] == "/var/lib/limn" and user[6].endswith("nologin"), user


def confined(state, words):
    """The words that run others as the unit does: a user without rights or ways to get any, what is not its state read-only."""
    if os.getuid() != 0:
        return words
    plain = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", "--bounding-set=-all",
             "--inh-caps=-all", *words]
    script = ('set -e; mount --make-rprivate /; mount --bind "$1" "$1"; mount -t tmpfs none /home; '
              'mount -o remount,bind,ro /; shift; exec "$@"')
    walled = ["unshare", "--mount", "sh", "-c", script, "sh", str(state)]
    if subprocess.run([*walled, "true"], capture_output=True, timeout=60).returncode == 0:
        return [*walled, *plain]
    print("  no mount namespaces here: the file system stays writable")
    return plain


def start(folder, installed, state, manager):
    unit = read_unit(installed / "lib/systemd/system/limn.service")["Service"]
    assert unit["Type"] == ["notify"] and unit["User"] == ["limn"] and unit["OOMPolicy"] == ["continue"]
    environment = dict(item.split("=", 1) for line in unit["Environment"] for item in line.split())
    environment = {name: value.replace("/var/lib", str(state)) for name, value in environment.items()}
    environment.update(PATH="/usr/bin:/bin", NOTIFY_SOCKET=str(manager), WATCHDOG_USEC=str(3_000_000), LIMN_SERVER_PORT="0")
    working = pathlib.Path(unit["WorkingDirectory"][0].replace("/var/lib", str(state)))
    working.mkdir()
    if os.getuid() == 0:
        os.chown(working, NOBODY, NOBODY)
    words = [str(folder) + unit["ExecStart"][0].split()[0], *unit["ExecStart"][0].split()[1:]]

    def prepare():
        os.umask(int(unit["UMask"][0], 8))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = int(unit["LimitNOFILE"][0])
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    return working, subprocess.Popen(confined(state, words), cwd=working, env=environment, preexec_fn=prepare, stdin=subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def draw(url):
    body = json.dumps({"prompt": "a red circle", "size": "64x64", "response_format": "b64_json"}).encode()
    request = urllib.request.Request(url + "/v1/images/generations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return base64.b64decode(json.load(answer)["data"][0]["b64_json"])


def check_start(folder, installed):
    """It starts with the bundled model, says so to the manager, draws, beats, and ends when it is told."""
    state = pathlib.Path(tempfile.mkdtemp(dir=folder))
    os.chmod(state, 0o755)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(state / "notify"))
    os.chmod(state / "notify", 0o777)
    manager.settimeout(120)
    working, server = start(folder, installed, state, state / "notify")
    try:
        heard = [manager.recv(300).decode()]
        assert heard[0].startswith("READY=1"), heard
        url = re.search(r"limn serves pictogram at (http://\S+)/openai/v1", "".join(iter(server.stdout.readline, "\n"))).group(1)
        assert draw(url).startswith(b"\x89PNG")
        if os.getuid() == 0:
            status = pathlib.Path(f"/proc/{server.pid}/status").read_text()
            assert re.search(rf"^Uid:\s+{NOBODY}\s", status, re.M) and "NoNewPrivs:\t1" in status
        while "WATCHDOG=1" not in heard:
            heard.append(manager.recv(300).decode())
        for path in working.rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path
        server.send_signal(signal.SIGTERM)
        while not heard[-1].startswith("STOPPING=1"):
            heard.append(manager.recv(300).decode())
        assert server.wait(60) == 0
    finally:
        if server.poll() is None:
            server.kill()
        output = server.communicate()[0]
        if server.returncode:
            print(output[-3000:])


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        os.chmod(folder, 0o755)
        installed = install(folder)
        for check in (check_files, check_unit, check_user, check_start):
            try:
                check(folder, installed)
                passed += 1
            except Exception:
                traceback.print_exc(file=sys.stdout)
                print(f"failed: {check.__name__}")
                failed += 1
    print(f"{passed} passed, {failed} failed")
    return failed > 0


sys.exit(main())
