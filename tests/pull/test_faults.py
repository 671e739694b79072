"""What goes wrong: kills at any moment, broken and lying connections, full disks, refusals, hostile answers."""
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import KLEIN, LIMN, WANTED, Place, interrupt, model_files, until
from hub import Hub, Repository

KILLS = int(os.environ.get("LIMN_PULL_KILLS", "24"))


def incomplete(place):
    return list(place.cache.glob("models--*/blobs/*.incomplete"))


def sent_bytes(place):
    total = 0
    for path in place.cache.glob("models--*/blobs/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            pass  # it has just got its final name
    return total


# ------------------------------------------------------------------------------------------------------- kills and ends

def test_killed_at_random_moments(place, hub):
    """Each run is killed when some more bytes have come; whatever has a final name is whole, and bytes are not fetched again."""
    source = random.Random(3)
    hub.repositories[KLEIN] = Repository(model_files(2_000_000))
    total = sum(len(hub.repositories[KLEIN].files[path]) for path in WANTED)
    hub.rate = 6_000_000
    kills = 0
    for _ in range(KILLS):
        mark = sent_bytes(place) + source.randrange(total // KILLS)
        process = place.start("flux.2-klein-4b", "-q")
        until(lambda: process.poll() is not None or sent_bytes(place) > mark, 60, "some bytes")
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        place.check_cache()
    assert kills >= 20
    hub.rate = None
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    place.check_snapshot(KLEIN, WANTED)
    ranges = [request for request in hub.asked("cdn") if "range" in request.headers]
    assert len(ranges) > KILLS  # they were continued


def test_killed_between_the_steps(place, hub, tmp_path):
    """A blob without its link, a link without its ref, a ref that is half written: the next run puts it right."""
    assert place.pull("flux.2-klein-4b").returncode == 0
    (place.snapshot(KLEIN) / "vae/config.json").unlink()
    (place.repository(KLEIN) / "refs" / "main").write_text("12")
    asked = len(hub.asked(pattern="resolve"))
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)
    assert len(hub.asked(pattern="resolve")) == asked
    assert (place.repository(KLEIN) / "refs" / "main").read_text() == hub.repositories[KLEIN].commit
    # A blob of another size than it should have is fetched again.
    blob = (place.snapshot(KLEIN) / "vae/model-00001-of-00001.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)


def test_an_unfinished_blob_that_is_no_beginning(place, hub):
    """Damaged bytes in what is there: the hash shows it, and the file is fetched from the front."""
    entry = hub.repositories[KLEIN].etag("vae/model-00001-of-00001.safetensors")
    for junk in b"junk" * 1000, b"x" * 400_000:
        blobs = place.repository(KLEIN) / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        (blobs / f"{entry}.incomplete").write_bytes(junk)
        done = place.pull("flux.2-klein-4b", "--include", "vae/*")
        assert done.returncode == 0, done.err
        place.check_snapshot(KLEIN, ["vae/config.json", "vae/model-00001-of-00001.safetensors"])
        assert ("its hash is wrong; fetched once more" in done.err) == (len(junk) < 300_000)
        import shutil
        shutil.rmtree(place.cache)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(place, hub, number):
    hub.rate = 300_000
    process = place.start("flux.2-klein-4b")
    until(lambda: sent_bytes(place) > 200_000, 30, "some bytes")
    begin = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - begin < 5
    assert re.search(r"interrupted\nlimn: .* of 1\.5 MB are here; `limn pull flux.2-klein-4b` goes on from there", err), err
    assert incomplete(place) and not (place.repository(KLEIN) / "refs" / "main").exists()
    hub.rate = None
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)


def test_interrupted_while_the_hub_is_silent(place, hub):
    listener = socket.create_server(("127.0.0.1", 0))
    process = place.start("flux.2-klein-4b", HF_ENDPOINT=f"http://127.0.0.1:{listener.getsockname()[1]}")
    connection = listener.accept()[0]
    interrupt(process)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "interrupted" in err
    connection.close()
    listener.close()


# ------------------------------------------------------------------------------------------------------ several at once

def test_several_pulls_at_once(place, hub):
    hub.repositories[KLEIN] = Repository(model_files(400_000))
    hub.rate = 500_000
    processes = [place.start("flux.2-klein-4b") for _ in range(3)]
    outcome = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outcome
    place.check_snapshot(KLEIN, WANTED)
    # Each large file came once.
    large = [path for path in WANTED if path.endswith(".safetensors")]
    assert len(hub.asked("cdn", "safetensors")) == len(large)


def test_one_of_two_is_killed(place, hub):
    hub.rate = 300_000
    first = place.start("flux.2-klein-4b", "--parallel", "2")
    until(lambda: incomplete(place), 30, "a beginning")
    second = place.start("flux.2-klein-4b", "--parallel", "2")
    until(lambda: sent_bytes(place) > 300_000, 30, "more bytes")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    hub.rate = None
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    place.check_snapshot(KLEIN, WANTED)


# --------------------------------------------------------------------------------------------------------- connections

def test_connections_that_break(place, hub):
    source = random.Random(7)
    hub.repositories[KLEIN] = Repository(model_files(100_000))
    hub.break_after = lambda path, begin: source.randrange(1, 60_000) if source.random() < 0.8 else None
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    place.check_snapshot(KLEIN, WANTED)
    again = [request for request in hub.asked("cdn") if "range" in request.headers]
    assert len(again) >= 5 and all("if-range" in request.headers for request in again)
    assert "trying again" in done.err


def test_a_host_without_ranges(place, hub):
    hub.no_ranges = True
    broken = set()
    hub.break_after = lambda path, begin: None if path in broken else broken.add(path) or 20_000
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    place.check_snapshot(KLEIN, WANTED)


def test_answers_that_pass(place, hub):
    hub.failures = [("/revision/", 503, []), ("/tree/", 429, [("Retry-After", "1")]), ("resolve.*vae/model", 500, []),
                    ("model-00001-of-00001", 502, []), ("text_encoder/model-00001", 429, [("Retry-After", "0")]),
                    ("signature=", 403, [])]  # a link of the second host that has aged
    begin = time.monotonic()
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    place.check_snapshot(KLEIN, WANTED)
    assert not hub.failures and time.monotonic() - begin >= 1
    assert "status 503" in done.err and "too many requests" in done.err and "trying again in" in done.err


def test_answers_that_stay(place, hub):
    hub.failures = [("/revision/", 503, [])] * 3
    done = place.pull("flux.2-klein-4b", "--retries", "1")
    assert done.returncode == 1 and "status 503" in done.err
    hub.failures = [("resolve.*vae/model", 500, [])] * 3
    done = place.pull("flux.2-klein-4b", "--retries", "1")
    assert done.returncode == 1 and "vae/model-00001-of-00001.safetensors" in done.err and "status 500" in done.err
    place.check_cache()


def test_a_connection_that_stalls(place, hub):
    """Of the first answer only the beginning comes, then nothing."""
    stalled = threading.Event()
    release = threading.Event()
    original = hub.break_after

    def stall(path, begin):
        if path.startswith("vae/model") and not stalled.is_set():
            stalled.set()
            release.wait(30)
        return original(path, begin)
    hub.break_after = stall
    done = place.pull("flux.2-klein-4b", "--timeout", "1")
    release.set()
    assert stalled.is_set() and done.returncode == 0, done.err
    assert "no answer in time" in done.err
    place.check_snapshot(KLEIN, WANTED)


def test_wrong_bytes(place, hub):
    hub.wrong = {"vae/model-00001-of-00001.safetensors": 1, "vae/config.json": 1}
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    assert done.err.count("its hash is wrong; fetched once more") == 2
    place.check_snapshot(KLEIN, WANTED)


def test_wrong_bytes_that_stay(place, hub):
    path = "transformer/model-00001-of-00002.safetensors"
    hub.wrong = {path: 100}
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and f"{KLEIN}/{path}: its hash is wrong, twice" in done.err
    assert len(hub.asked("cdn", path)) == 2
    place.check_cache()
    assert not (place.snapshot(KLEIN) / path).exists()


def test_a_file_of_another_size(place, hub):
    """The tree says less or more than comes."""
    def tree(entries, by):
        for entry in entries:
            if entry["path"].startswith("vae/model"):
                entry["size"] += by
                entry["lfs"]["size"] += by
        return entries
    for by, message in (-1000, "more bytes came"), (1000, "ended after 300000 of 301000 bytes|cannot continue"):
        hub.tree = lambda entries: tree(entries, by)
        done = place.pull("flux.2-klein-4b", "--retries", "2")
        assert done.returncode == 1 and re.search(message, done.err), done.err
        place.check_cache()


def test_the_hub_says_two_hashes(place, hub):
    def tree(entries):
        for entry in entries:
            if "lfs" in entry:
                entry["lfs"]["oid"] = "0" * 64
        return entries
    hub.tree = tree
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "000000000000..." in done.err
    assert not list(place.cache.glob("*/blobs/" + "0" * 64))


# ------------------------------------------------------------------------------------------------------------- the disk

def test_no_room_is_known_before(place, hub):
    def tree(entries):
        for entry in entries:
            if "lfs" in entry:
                entry["size"] = entry["lfs"]["size"] = 1 << 48
        return entries
    hub.tree = tree
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "are free; make room" in done.err and "PB" in done.err
    assert not hub.asked(pattern="resolve") and not place.cache.exists()


def tmpfs(path, size):
    path.mkdir()
    return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "limn-test", path], capture_output=True).returncode == 0


def test_a_disk_that_fills_up(place, hub):
    """Space that was free is taken by others meanwhile."""
    disk = place.folder / "disk"
    if not tmpfs(disk, "12m"):
        pytest.skip("no tmpfs can be mounted here")
    process = None
    try:
        place.environment["HF_HUB_CACHE"], place.cache = str(disk / "hub"), disk / "hub"
        hub.rate = 600_000
        process = place.start("flux.2-klein-4b")
        until(lambda: sent_bytes(place) > 200_000, 30, "some bytes")
        ballast = disk / "ballast"
        with ballast.open("wb") as file, pytest.raises(OSError):
            while True:
                file.write(bytes(65536))
                file.flush()
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1 and "No space left on device" in err, err
        assert "goes on from there" in err and ".safetensors: cannot be written" in err
        place.check_cache()
        ballast.unlink()
        assert place.pull("flux.2-klein-4b").returncode == 0
        place.check_snapshot(KLEIN, WANTED)
    finally:
        if process:
            process.kill()
            process.wait()
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_may_not_grow(place, hub):
    done = place.pull("flux.2-klein-4b", before=["prlimit", "--fsize=200000"])
    assert done.returncode == 1 and "cannot be written: File too large" in done.err, done.err
    place.check_cache()
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)


def test_a_cache_that_cannot_be_written(place, hub):
    place.home.mkdir()
    (place.home / "hub").write_text("a file")
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "hub" in done.err and ("Not a directory" in done.err or "cannot be made" in done.err)


# ------------------------------------------------------------------------------------------------------------- refusals

@pytest.fixture
def gated(hub):
    hub.repositories["some/gated"] = Repository(model_files(2000), licence="other", gated="manual")
    hub.repositories["some/private"] = Repository(model_files(2000), private=True)
    hub.tokens = {"member": {"some/gated"}, "stranger": set()}


@pytest.mark.parametrize("model, token, messages", [
    ("some/gated", None, ["Make a token at {url}/settings/tokens", "HF_TOKEN", "accept the licence at {url}/some/gated"]),
    ("some/gated", "wrong", ["does not accept the token of HF_TOKEN"]),
    ("some/gated", "stranger", ["Accept the licence at {url}/some/gated", "not in the authorized list"]),
    ("some/private", None, ["private or does not exist"]),
    ("some/nothing", "member", ["has no such repository"]),
    ("some/gated@v9", "member", ["no such revision: v9"]),
])
def test_refused(place, hub, gated, model, token, messages):
    environment = {"HF_TOKEN": token} if token else {}
    done = place.pull(model, "--yes", **environment)
    assert done.returncode == 1
    for message in messages:
        assert message.format(url=hub.url) in done.err, done.err
    assert not hub.asked("cdn")


def test_no_such_file(place, hub):
    done = place.pull("flux.2-klein-4b", "--include", "vae/*.gguf")
    assert done.returncode == 1 and 'has no file that matches "vae/*.gguf"' in done.err
    hub.tree = lambda entries: entries + [{"type": "file", "path": "vae/z", "size": 3, "oid": "1" * 40}]
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "vae/z" in done.err and "does not have it" in done.err


def test_the_token_of_the_file(place, hub, gated):
    place.home.mkdir()
    (place.home / "token").write_text("member\n")
    assert place.pull("some/gated", "--yes").returncode == 0
    (place.home / "token").write_text("wrong\n")
    done = place.pull("some/gated", "--yes")
    assert done.returncode == 1 and str(place.home / "token") in done.err


def test_the_token_stays_at_the_hub(place, hub, gated):
    hub.texts["/raw/x"] = b""
    assert place.pull("some/gated", "--yes", HF_TOKEN="member").returncode == 0
    assert all(request.headers.get("authorization") == "Bearer member" for request in hub.asked("hub"))
    assert hub.asked("cdn") and not any("member" in str(request.headers) + request.path for request in hub.asked("cdn"))


def test_redirects_that_are_not_followed(place, hub, gated):
    other = Hub()
    other.repositories = hub.repositories
    try:
        for target, message in (("ftp://127.0.0.1/x", "not https"), ("file:///etc/passwd", "not https"),
                                ("http://user:word@127.0.0.1:1/x", "not https"), ("gopher://x", "not https")):
            hub.redirect = lambda url, target=target: target
            done = place.pull("some/gated", "--yes", HF_TOKEN="member")
            assert done.returncode == 1 and message in done.err, done.err
        # Another origin, that sends back and forth: the token goes to neither.
        hub.redirect = lambda url: f"{other.url}/some/gated/resolve/{hub.repositories['some/gated'].commit}/vae/config.json"
        other.tokens = {}
        done = place.pull("some/gated", "--yes", "--retries", "0", HF_TOKEN="member")
        assert done.returncode == 1
        assert other.requests and not any("authorization" in request.headers for request in other.requests)
        hub.redirect = lambda url: url.replace(hub.cdn, hub.url).replace("/some/gated/", "/some/gated/resolve/x/")
        done = place.pull("some/gated", "--yes", "--retries", "0", HF_TOKEN="member")
        assert done.returncode == 1
    finally:
        other.close()


def test_a_redirect_in_a_circle(place, hub):
    hub.redirect = lambda url: f"{hub.url}/{KLEIN}/resolve/main/vae/model-00001-of-00001.safetensors"
    done = place.pull("flux.2-klein-4b", "--include", "vae/*")
    assert done.returncode == 1 and "circle" in done.err
    assert len(hub.asked(pattern="resolve.*safetensors")) < 20


# -------------------------------------------------------------------------------------------------------------- no hub

def test_no_name_and_no_connection(place):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = place.pull("flux.2-klein-4b", HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert done.returncode == 1 and "no connection" in done.err
    done = place.pull("flux.2-klein-4b", HF_ENDPOINT="http://nowhere.invalid")
    assert done.returncode == 1 and "the name is not found" in done.err


def test_no_tls(place, hub, tmp_path):
    """A server that speaks no TLS, and one whose certificate nobody has signed."""
    done = place.pull("flux.2-klein-4b", "--retries", "0", HF_ENDPOINT=hub.url.replace("http:", "https:"))
    assert done.returncode == 1 and "the connection failed" in done.err, done.err
    import ssl
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                           "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out",
                           tmp_path / "cert.pem"], capture_output=True)
    if made.returncode:
        pytest.skip("no openssl")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    for host in hub.hosts:
        host.socket = context.wrap_socket(host.socket, server_side=True)
    hub.url, hub.cdn = hub.url.replace("http:", "https:"), hub.cdn.replace("http:", "https:")
    place.environment["HF_ENDPOINT"] = hub.url
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "certificate is not trusted" in done.err and "SSL_CERT_FILE" in done.err
    place.environment["SSL_CERT_FILE"] = str(tmp_path / "cert.pem")
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)
    # From https there is no way back to http elsewhere.
    hub.repositories[KLEIN] = Repository(model_files(2000, seed=2))
    hub.redirect = lambda url: "http://192.0.2.1/x"
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "not https" in done.err


# ----------------------------------------------------------------------------------------------------- hostile answers

@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a/../../outside", "a//outside", "./outside", "a\\outside",
                                  "a/\u0001outside", "a/\u202eoutside", "", "a" * 300, "vae/.."])
def test_paths_that_lead_out(place, hub, path):
    hub.tree = lambda entries: entries + [{"type": "file", "path": path, "size": 3, "oid": "1" * 40}]
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and "path that must not be used" in done.err, done.err
    assert not place.cache.exists() and "outside" not in str(list(place.folder.rglob("*")))


@pytest.mark.parametrize("change, message", [
    (lambda info: {**info, "sha": "../../../x"}, "expected a commit"),
    (lambda info: {**info, "sha": 5}, "sha"),
    (lambda info: {}, "sha"),
    (lambda info: [], "expected an object")])
def test_information_that_is_none(place, hub, change, message):
    hub.info = change
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and message in done.err


@pytest.mark.parametrize("change, message", [
    (lambda entries: {}, "expected a list"),
    (lambda entries: [5], "no object"),
    (lambda entries: entries + entries[-1:], "there twice"),
    (lambda entries: [{**entry, "size": -1} for entry in entries], "size"),
    (lambda entries: [{**entry, "oid": "../../x", "lfs": None} for entry in entries], "expected a hash"),
    (lambda entries: [{**entry, "lfs": {"oid": "/etc/passwd", "size": 3}} for entry in entries], "expected a hash"),
    (lambda entries: [], "no file that matches")])
def test_trees_that_are_none(place, hub, change, message):
    hub.tree = change
    if not isinstance(change([{"path": "a"}]), list):
        hub.page = 10 ** 6
        hub.tree = lambda entries: Anything()
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 1 and message in done.err, done.err
    place.check_cache()


class Anything(list):
    """Sliced, it is an object instead of a list."""

    def __getitem__(self, key):
        return {}


def test_a_next_page_elsewhere(place, hub):
    hub.page = 3
    place.environment["HF_TOKEN"] = "member"
    hub.tokens = {"member": set()}
    url, hub.url = hub.url, hub.cdn  # what the Link header says
    done = place.pull("flux.2-klein-4b")
    hub.url = url
    assert done.returncode == 1 and "on another host" in done.err
    assert not hub.asked("cdn")


def test_links_in_the_cache_are_not_followed_out(place, hub, tmp_path):
    """An unfinished blob that is a link elsewhere is not written through."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    entry = hub.repositories[KLEIN].etag("vae/model-00001-of-00001.safetensors")
    blobs = place.repository(KLEIN) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{entry}.incomplete").symlink_to(outside)
    done = place.pull("flux.2-klein-4b", "--include", "vae/*")
    assert done.returncode == 1 and outside.read_bytes() == b"precious"
