"""What comes over the wire malformed is answered as everything else is: first requests and later ones, plain and over TLS, heads and
bodies in chunks. On the stand-in worker."""
import base64
import contextlib
import hashlib
import http.client
import io
import json
import os
import pathlib
import random
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request

import pytest
from PIL import Image

from conftest import FAST, until
from test_calls import call, generate
from test_errors import form, part
from test_hostile import HEAD, SHORT, certificate, check_refused, connect, read_answer
from test_pictures import SMALL, picture

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = json.dumps({"prompt": "a", "size": SMALL}).encode()
WAYS = ["first", "later", "after chunks", "tls", "tls later"]


def with_tls(certificate):
    return f"  tls:\n    certificate: {certificate}/certificate.pem\n    key: {certificate}/key.pem\n"


@pytest.fixture(scope="module")
def secure(tmp_path_factory, certificate):
    from conftest import Server
    server = Server(tmp_path_factory.mktemp("secure"), *FAST, config="server:\n" + with_tls(certificate))
    server.context = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    yield server
    assert server.stop() == 0 and "Sanitizer" not in server.output()


def connect_tls(server, context=None):
    host, port = server.url.removeprefix("https://").split(":")
    return (context or server.context).wrap_socket(socket.create_connection((host, int(port)), timeout=30), server_hostname="localhost")


@contextlib.contextmanager
def opened(way, fast, secure):
    """A connection that has carried what [way] says."""
    with (connect_tls(secure) if "tls" in way else connect(fast)) as connection:
        if "later" in way:
            for _ in range(2):
                connection.sendall(GOOD)
                assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        if "chunks" in way:
            connection.sendall(CHUNKED + chunks(BODY, 7))
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        if way == "later":
            time.sleep(0.01)  # what comes in the instant of the answer before is not looked at (docs/running.md)
        yield connection


def everything(connection):
    answer = b""
    with contextlib.suppress(ConnectionResetError, ssl.SSLError):
        while piece := connection.recv(65536):
            answer += piece
    return answer


def chunks(body, size, extension=b"", trailer=b""):
    parts = [b"%x%s\r\n%s\r\n" % (len(body[at:at + size]), extension, body[at:at + size]) for at in range(0, len(body), size)]
    return b"".join(parts) + b"0%s\r\n%s\r\n" % (extension, trailer)


# --------------------------------------------------------------------------------------------------------------- heads


MALFORMED = [
    (b"GET\r\n\r\n", 400, "INVALID_REQUEST"), (b"GET / HTTP/9.9\r\n\r\n", 505, "INVALID_REQUEST"), (b"\0\1\2", 400, "INVALID_REQUEST"),
    (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400, "INVALID_REQUEST"),
    (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: a\r\n folded\r\n\r\n", 400, "INVALID_REQUEST"),
    (HEAD + b"Content-Length: -5\r\n\r\n", 400, "INVALID_REQUEST"), (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 400, "INVALID_REQUEST"),
    (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 413, "PAYLOAD_TOO_LARGE"),
    (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "PAYLOAD_TOO_LARGE"),
    (b"GET /healthz?" + b"a&" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "PAYLOAD_TOO_LARGE"),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", 431, "PAYLOAD_TOO_LARGE"),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 431, "PAYLOAD_TOO_LARGE"),
    (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a=b;" * 3000 + b"\r\n\r\n", 431, "PAYLOAD_TOO_LARGE"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head, status, code", MALFORMED)
def test_malformed_heads(fast, secure, way, head, status, code):
    with opened(way, fast, secure) as connection:
        connection.sendall(head)
        check_refused(everything(connection), status, code)
    with opened(way, fast, secure) as connection:  # in pieces
        with contextlib.suppress(OSError):
            for at in range(0, min(len(head), 300), 3):
                connection.sendall(head[at:at + 3])
            connection.sendall(head[300:])
        check_refused(everything(connection), status, code)


@pytest.mark.parametrize("way", WAYS)
def test_heads_up_to_the_weight_are_fine(fast, secure, way):
    """250 headers, or cookies, or parameters: what is let through is not answered by somebody else."""
    for head in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: y\r\n" * 250 + b"\r\n",
                 b"GET /healthz?" + b"a=b&" * 250 + b"c HTTP/1.1\r\nHost: localhost\r\n\r\n",
                 b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: a=" + b"x" * 15000 + b"\r\n\r\n",
                 b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a=b; " * 200 + b"c=d\r\n\r\n"):
        with opened(way, fast, secure) as connection:
            for _ in range(2):
                connection.sendall(head)
                assert read_answer(connection).startswith(b"HTTP/1.1 200 "), head[:60]


@pytest.mark.parametrize("way", WAYS)
def test_good_heads_in_pieces(fast, secure, way):
    """Later heads that come byte by byte, then whole ones again."""
    with opened(way, fast, secure) as connection:
        for _ in range(3):
            for at in range(0, len(GOOD), 5):
                connection.sendall(GOOD[at:at + 5])
                time.sleep(0.002)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
            connection.sendall(GOOD)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("way", ["tls", "after chunks"])
def test_what_came_before_is_answered_first(fast, secure, way):
    """Pipelined: the answers come in order, then the refusal."""
    slow = json.dumps({"prompt": "@ms=300", "size": SMALL}).encode()
    post = HEAD + b"Content-Length: %d\r\n\r\n" % len(slow) + slow
    with opened(way, fast, secure) as connection:
        connection.sendall(GOOD + post + GOOD + b"nonsense\r\n\r\n" + GOOD)
        answer = everything(connection)
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)] == [200, 200, 200, 400]
    check_refused(answer[answer.index(b"HTTP/1.1 400"):], 400, "INVALID_REQUEST")


def mutated(dice):
    head = bytearray(dice.choice([GOOD, HEAD + b"Content-Length: 2\r\n\r\n{}", CHUNKED + chunks(b'{"prompt":"a"}', 4),
                                  b"GET /v1/models?schema=true&x HTTP/1.1\r\nHost: localhost\r\nCookie: a=b; c\r\nAccept: */*\r\n\r\n"]))
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(head))
        how = dice.randrange(4)
        if how == 0:
            head[at] = dice.choice(b"\0\r\n :;,?&=%/x0\xff\t")
        elif how == 1:
            del head[at:at + dice.randint(1, 6)]
        elif how == 2:
            head[at:at] = bytes(dice.choices(b"\r\n :;0fx%", k=dice.randint(1, 4)))
        else:
            end = min(len(head), at + 20)
            head[at:at] = head[at:end]
    return bytes(head)


def test_whatever_comes_is_answered_by_limn(fast, secure):
    """Mutated requests, behind good ones or not: each answer has an id, none is libmicrohttpd's own."""
    dice = random.Random(int(os.environ.get("LIMN_TEST_SEED", "7")))
    for _ in range(int(os.environ.get("LIMN_WIRE_REQUESTS", "300"))):
        way, request = dice.choice(WAYS), mutated(dice)
        with opened(way, fast, secure) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(request)
                (connection.unwrap if "tls" in way and dice.random() < 0.5 else lambda: connection.shutdown(socket.SHUT_WR))()
            answer = everything(connection) if connection.fileno() >= 0 else b""
        heads = len(re.findall(rb"HTTP/1\.[01] [2-5]\d\d [A-Z]", answer))
        assert answer.count(b"\r\nx-request-id: req_") == heads and b"<html>" not in answer, (way, request, answer)
    assert generate(fast, {"prompt": "a"})[0] == 200


# ------------------------------------------------------------------------------------------------------------- chunks


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("body", [
    b"ZZZ\r\n", b"\r\n", b"-1\r\n", b"0x5\r\nhello\r\n", b"ffffffffffffffffff\r\nx", b"5\r\nhelloworld\r\n", b"5\r\nhello\n\rx",
    b"5\rhello", b";x\r\n", b"5;" + b"x" * 5000 + b"\r\n", chunks(BODY, 5)[:-2] + b"X: " + b"y" * 5000, b"3\r\n{} \r\nnext\r\n"])
def test_broken_chunks(fast, secure, way, body):
    with opened(way, fast, secure) as connection:
        connection.sendall(CHUNKED + body)
        check_refused(everything(connection), 400, "INVALID_REQUEST")
    server = secure if "tls" in way else fast
    until(lambda: re.search(r"POST /v1/images/generations.* 400", server.output()) or re.search(r"status=400", server.output()), 5,
          "a line in the log")


@pytest.mark.parametrize("way", WAYS)
def test_good_chunks(fast, secure, way):
    """All sizes, extensions, what may come behind the last; many requests of all kinds on one connection."""
    dice = random.Random(3)
    post = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    with opened(way, fast, secure) as connection:
        for size in (1, 2, 7, 4096):
            for body in (chunks(BODY, size), chunks(BODY, size, b";a=b;c"), chunks(BODY, size, b" ; a=\"b\"", b"X-Sum: 5\r\nY: z\r\n")):
                request = CHUNKED + body
                at = dice.randrange(len(request))
                connection.sendall(request[:at])
                connection.sendall(request[at:])
                answer = read_answer(connection)
                assert answer.startswith(b"HTTP/1.1 200 ") and b"x-request-id: req_" in answer, (size, answer)
            connection.sendall(post)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
            connection.sendall(GOOD)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def noise(side):
    data = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(side).randbytes(side * side * 3)).save(data, "PNG", compress_level=0)
    return data.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_pictures_come_through_whole(fast, secure, way):
    """A form of some megabytes in chunks of odd sizes; the picture that comes back, by its URL and in ranges."""
    body = form(part("prompt", b"@noise"), part("size", b"724x724"), part("image", noise(900), "a.png"))
    head = (b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n")
    with opened(way, fast, secure) as connection:
        for size in (100_003, 13_001):
            connection.sendall(head + chunks(body, size))
            answer = json.loads(read_answer(connection).partition(b"\r\n\r\n")[2])
            assert answer["usage"]["input_tokens_details"]["image_tokens"] > 0
            path = answer["data"][0]["url"].split("/media/")[1].encode()
            connection.sendall(b"GET /media/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            data = read_answer(connection).partition(b"\r\n\r\n")[2]
            assert Image.open(io.BytesIO(data)).size == (724, 724) and len(data) > 1_000_000
            connection.sendall(b"GET /media/%s HTTP/1.1\r\nHost: localhost\r\nRange: bytes=500000-1000000\r\n\r\n" % path)
            assert read_answer(connection).partition(b"\r\n\r\n")[2] == data[500000:1000001]


def test_a_client_that_reads_slowly(secure):
    """What libmicrohttpd has written already comes in full, though it closes first."""
    with connect_tls(secure) as connection:
        body = json.dumps({"prompt": "@noise", "size": "724x724", "response_format": "b64_json"}).encode()
        connection.sendall(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = connection.recv(1000)
        time.sleep(1)
        answer += everything(connection)
    picture = json.loads(answer.partition(b"\r\n\r\n")[2])["data"][0]["b64_json"]
    assert Image.open(io.BytesIO(base64.b64decode(picture))).size == (724, 724)


# ------------------------------------------------------------------------------------------------------ times and ends


def test_limits_of_time_over_tls(own_server, certificate):
    server = own_server(*FAST, config=SHORT + "server:\n" + with_tls(certificate))
    server.context = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    for first, status in ((b"GET /v1/models HTTP/1.1\r\nHost: loc", 408), (HEAD + b"Content-Length: 1000\r\n\r\n{", 408),
                          (CHUNKED + b"5\r\nhel", 408)):
        begin = time.monotonic()
        with connect_tls(server) as connection:
            connection.sendall(first)
            check_refused(everything(connection), status, "REQUEST_TIMEOUT")
        assert time.monotonic() - begin < 6
    for first in (None, b"", b"\x16\x03\x01"):  # idle behind the handshake, before it, within it
        begin = time.monotonic()
        with (connect_tls(server) if first is None else connect(server)) as connection:
            connection.sendall(first or b"")
            assert everything(connection) == b""
        assert time.monotonic() - begin < 4
    begin = time.monotonic()
    with connect_tls(server) as connection:
        connection.sendall(GOOD)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ") and everything(connection) == b""
    assert 2 < time.monotonic() - begin < 7


def files(server):
    return len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.mark.parametrize("way", ["later", "after chunks", "tls"])
def test_a_client_that_leaves_stops_the_work(fast, secure, way):
    server = secure if "tls" in way else fast
    body = json.dumps({"prompt": "@ms=20000", "size": SMALL}).encode()

    def health():
        with contextlib.closing(http.client.HTTPConnection(*fast.url.split("//")[1].split(":"))
                                if server is fast else
                                http.client.HTTPSConnection(*secure.url.split("//")[1].split(":"), context=secure.context)) as wire:
            wire.request("GET", "/healthz")
            return json.load(wire.getresponse())
    before = files(server)
    with opened(way, fast, secure) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        until(lambda: health()["running"] == 1, 5, "the request in work")
    until(lambda: health()["running"] == 0, 5, "a free worker")
    until(lambda: files(server) <= before, 10, "closed sockets")


def test_no_socket_is_left(fast, secure):
    for server, way in ((fast, "after chunks"), (secure, "tls")):
        with opened(way, fast, secure):
            pass
        until(lambda: server.url and files(server) < 60, 10, "closed sockets")
        before = files(server)
        for k in range(200):
            with opened(way, fast, secure) as connection:
                connection.sendall([GOOD, b"bad\r\n\r\n", CHUNKED + b"zz", CHUNKED + b"5\r\nab", b""][k % 5])
                if k % 3 == 0:  # gone at once
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        until(lambda: files(server) <= before, 10, "closed sockets")


# --------------------------------------------------------------------------------------------------------- certificates


def make_certificate(folder, days):
    folder.mkdir(exist_ok=True)
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days),
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout",
                    str(folder / "key.pem"), "-out", str(folder / "certificate.pem")], capture_output=True, check=True)


def served(server):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with connect_tls(server, context) as connection:
        connection.sendall(GOOD)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
        return hashlib.sha256(connection.getpeercert(binary_form=True)).hexdigest()


def test_a_renewed_certificate_is_served(own_server, tmp_path):
    """Replaced behind a link, as certbot does it, or written over; no restart, and open connections go on."""
    for k in range(3):
        make_certificate(tmp_path / f"c{k}", 2 + k)
    live = tmp_path / "live"
    live.symlink_to(tmp_path / "c0")
    server = own_server(*FAST, config="server:\n" + with_tls(live))
    first = served(server)
    context = ssl.create_default_context(cafile=str(tmp_path / "c0" / "certificate.pem"))
    with connect_tls(server, context) as before:
        other = tmp_path / "next"
        other.symlink_to(tmp_path / "c1")
        other.rename(live)
        second = until(lambda: (found := served(server)) != first and found, 15, "the renewed certificate")
        before.sendall(GOOD)
        assert read_answer(before).startswith(b"HTTP/1.1 200 ")
    shutil.copy(tmp_path / "c2" / "certificate.pem", live / "certificate.pem")  # the key is not there as yet
    until(lambda: "the one before stays" in server.output(), 15, "a warning")
    assert served(server) == second
    shutil.copy(tmp_path / "c2" / "key.pem", live / "key.pem")
    third = until(lambda: (found := served(server)) != second and found, 15, "the next certificate")
    (live / "certificate.pem").unlink()
    until(lambda: server.output().count("the one before stays") == 2, 15, "a second warning")
    assert served(server) == third and first != third
