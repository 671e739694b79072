"""Clients that mean no good, or are only slow, and pages of other sites; TLS and proxies. On the stand-in worker."""
import base64
import http.client
import io
import json
import os
import pathlib
import random
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request

import pytest
from PIL import Image

from conftest import FAST, LIMN, ROOT, model_folder, until
from test_calls import call, generate
from test_errors import FORM, form, part
from test_keys import bearer, make_key
from test_pictures import SMALL, picture

HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def connect(server):
    host, port = server.url.split("//")[1].split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def raw(server, data):
    """Sends bytes and returns what comes until the server closes."""
    with connect(server) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# ----------------------------------------------------------------------------------- pages, rebound names, proxies


@pytest.mark.parametrize("headers", [
    {"Host": "limn.attacker.example"}, {"Host": "attacker.example:8080"}, {"Host": "127.0.0.1.attacker.example"},
    {"Origin": "https://attacker.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1.attacker.example"},
    {"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"X-Forwarded-Host": "localhost"},
    {"X-Real-IP": "127.0.0.1"}, {"X-Forwarded-Proto": "https"},
])
def test_strangers_are_refused_without_keys(fast, headers):
    for path in ("/v1/models", "/healthz", "/media/" + "0" * 32 + ".png", "/v1/requests", "/metrics"):
        status, body, answer = call(fast, path, headers=headers)
        assert status == 403 and body["error"]["code"] == "KEY_NOT_ALLOWED", (path, body)
        assert "Access-Control-Allow-Origin" not in answer
    assert generate(fast, {"prompt": "a"}, headers)[0] == 403


def test_malformed_hosts(fast):
    for host in ("a b", "<script>", "localhost/../x", "x" * 300):
        assert call(fast, "/v1/models", headers={"Host": host})[0] == 400, host


def test_own_names_are_fine(fast):
    port = fast.url.rsplit(":", 1)[1]
    for host in ("localhost", "LocalHost:" + port, "127.0.0.1:" + port, "127.9.9.9", "[::1]:" + port):
        assert call(fast, "/v1/models", headers={"Host": host})[0] == 200, host
    for host in ("localhost:" + port, "127.0.0.1:" + port):
        assert call(fast, "/v1/models", headers={"Host": host, "Origin": "http://" + host})[0] == 200, host


def test_pages_of_other_ports_are_foreign(fast):
    port = fast.url.rsplit(":", 1)[1]
    for origin in ("http://localhost:3000", "https://127.0.0.1:" + port, "http://localhost", "null", "http://localhost:" + port):
        assert call(fast, "/v1/models", headers={"Host": "127.0.0.1:" + port, "Origin": origin})[0] == 403, origin


def test_every_proxy_is_noticed(fast):
    for header in ("Via", "X-Forwarded-For", "X-Forwarded-Port", "X-Forwarded-Server", "CF-Connecting-IP", "True-Client-IP"):
        assert call(fast, "/v1/models", headers={header: "1.1 x"})[0] == 403, header


@pytest.mark.parametrize("head", [
    "Host: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", "Host: localhost\r\nContent-Length: 4\r\nContent-Length: 4",
    "Host: localhost\r\nHost: localhost\r\nContent-Length: 4"])
def test_ambiguous_requests_are_refused(fast, head):
    """Nothing behind the head is read as another request."""
    with socket.create_connection(("127.0.0.1", int(fast.url.rsplit(":", 1)[1])), timeout=20) as wire:
        wire.sendall(("POST /v1/images/generations HTTP/1.1\r\nContent-Type: application/json\r\n" + head +
                      "\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").encode())
        answer = b""
        while piece := wire.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1, answer


def test_dry_run_is_asked_for_in_one_way(fast):
    body = {"method": "POST", "headers": {"Content-Type": "application/json"}, "body": b'{"prompt":"a red star"}'}
    for query in ("?dryRun", "?dryRun=true", "?dryRun=1", "?dryrun=true"):
        status, answer, _ = call(fast, "/v1/images/generations" + query, **body)
        assert status == 200 and answer["estimated"] is True, query
    for query in ("?dryRun=", "?dryRun=yes", "?dryRun=false&dryRun=true", "?dryRun=true&dryrun=true"):
        assert call(fast, "/v1/images/generations" + query, **body)[0] == 400, query


def test_listed_origins(own_server):
    server = own_server(*FAST, config="server:\n  allowed_origins: [https://app.example.com]\n")
    origin = {"Origin": "https://app.example.com"}
    status, _, headers = call(server, "/v1/models", headers=origin)
    assert status == 200 and headers["Access-Control-Allow-Origin"] == origin["Origin"] and headers["Vary"] == "Origin"
    status, _, headers = call(server, "/v1/images/generations", method="OPTIONS", headers={
        **origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"})
    assert status == 204 and "POST" in headers["Access-Control-Allow-Methods"]
    assert headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert call(server, "/v1/models", headers={"Origin": "https://other.example.com"})[0] == 403


def test_keys_take_the_place_of_the_walls(own_server, tmp_path):
    """With keys a proxy may stand in front; its word counts where it is trusted."""
    key = make_key(tmp_path / "state", "proxy")
    server = own_server(*FAST, state=tmp_path / "state", key=key,
                        config="server:\n  trusted_proxies: [127.0.0.1]\nlog:\n  format: json\n")
    headers = {**bearer(key), "Host": "limn.internal", "X-Forwarded-For": "198.51.100.7, 203.0.113.9",
               "X-Forwarded-Proto": "https", "X-Forwarded-Host": "pictures.example.com"}
    status, body, _ = generate(server, {"prompt": "a"}, headers)
    assert status == 200 and body["data"][0]["url"].startswith("https://pictures.example.com/media/")
    line = until(lambda: [line for line in server.output().splitlines() if body["id"] in line and '"status"' in line], 5)[-1]
    assert json.loads(line)["client"] == "203.0.113.9"  # what stands before it can be made up
    status, _, answer = call(server, "/v1/models", headers={**bearer(key), "Origin": "https://any.example"})
    assert status == 200 and "Access-Control-Allow-Origin" not in answer
    assert call(server, "/metrics", headers={"X-Forwarded-For": "198.51.100.7"})[0] == 401  # not this machine's own
    assert call(server, "/metrics")[0] == 200


def test_untrusted_proxies_are_not_believed(own_server, tmp_path):
    key = make_key(tmp_path / "state", "proxy")
    server = own_server(*FAST, state=tmp_path / "state", key=key)
    _, body, _ = generate(server, {"prompt": "a"}, {**bearer(key), "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"})
    assert body["data"][0]["url"].startswith(server.url + "/media/")


def test_public_base_url(own_server):
    server = own_server(*FAST, config="server:\n  public_base_url: https://pictures.example.com/limn\n")
    _, body, _ = generate(server, {"prompt": "a"})
    assert body["data"][0]["url"].startswith("https://pictures.example.com/limn/media/")


# ------------------------------------------------------------------------------------------------------ slow clients


SHORT = "limits:\n  header_time: 1s\n  idle_time: 3s\n  body_time: 2s\n"


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    from conftest import Server
    server = Server(tmp_path_factory.mktemp("strict"), *FAST, config=SHORT)
    yield server
    assert server.stop() == 0


def drip(server, first, drop, answered, most):
    """Sends [first], then a byte of [drop] every 0.2 s. Returns what came and after how long the server closed."""
    begin, got = time.monotonic(), b""
    with connect(server) as connection:
        connection.settimeout(0.2)
        connection.sendall(first)
        while time.monotonic() - begin < most:
            try:
                connection.sendall(drop)
                piece = connection.recv(65536)
                if not piece:
                    break
                got += piece
            except socket.timeout:
                continue
            except OSError:
                break
        else:
            raise AssertionError(f"the connection was still open after {most} s")
    assert answered in got, got
    return time.monotonic() - begin


def test_head_byte_by_byte(strict):
    assert drip(strict, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: ", b"x", b"", 10) < 5


def test_body_byte_by_byte(strict):
    assert 1.5 < drip(strict, HEAD + b"Content-Length: 100000\r\n\r\n{", b" ", b" 408 ", 10) < 6
    assert drip(strict, b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
                b"Content-Length: 100000\r\n\r\n--XX\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a\"\r\n\r\n",
                b"x", b"REQUEST_TIMEOUT", 10) < 6
    until(lambda: not strict.spool_files(), 5, "a clean spool")


def test_silent_connections(strict):
    """One that says nothing, one that stops within a head, one that keeps a served connection for nothing."""
    for first, most in ((b"", 4), (b"GET /v1/mod", 4), (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 7)):
        begin = time.monotonic()
        with connect(strict) as connection:
            connection.sendall(first)
            while connection.recv(65536):
                pass
        assert time.monotonic() - begin < most
    assert call(strict, "/healthz")[0] == 200


def test_half_a_head_on_a_used_connection(strict):
    """From its first byte on a later head has as long as a first one, not as long as a connection may lie idle."""
    with connect(strict) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        time.sleep(1.5)  # longer than a head may take: idle is not slow
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        begin = time.monotonic()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        check_refused(connection.recv(65536), 408, "REQUEST_TIMEOUT")
        assert connection.recv(65536) == b""
        assert 0.9 <= time.monotonic() - begin < 3.8


def noise_picture():
    """About 77 kB as PNG."""
    data = io.BytesIO()
    Image.frombytes("RGB", (160, 160), random.Random(1).randbytes(160 * 160 * 3)).save(data, "PNG")
    return data.getvalue()


def test_the_spool_has_a_limit(own_server):
    """Pictures of requests that wait or run take room together; it comes back with their ends, however they end."""
    server = own_server(*FAST, config="limits:\n  spool_bytes: 200000\n")
    big = noise_picture()
    uri = "data:image/png;base64," + base64.b64encode(big).decode()

    def edit(prompt, count=1):
        return call(server, "/v1/images/edits", form(part("prompt", prompt), *[part("image[]", big, "a.png")] * count), FORM)

    def spooled():
        return int(call(server, "/metrics")[1].decode().split("\nlimn_spool_bytes ")[1].split("\n")[0])
    status, body, headers = edit(b"a", 3)
    assert status == 507 and body["error"]["code"] == "STORAGE_FULL" and "limits.spool_bytes" in body["error"]["message"]
    assert headers["retry-after"] == "5" and spooled() == 0
    status, body, _ = call(server, "/v1/images/edits", {"prompt": "a", "images": [{"image_url": uri}] * 3})
    assert status == 507 and spooled() == 0
    slow = threading.Thread(target=edit, args=(b"@ms=500", 2))
    slow.start()
    until(lambda: spooled() > 2 * len(big) - 1, 5, "pictures in the spool")
    assert edit(b"a")[0] == 507
    assert call(server, "/v1/images/edits", {"prompt": "a", "images": [{"image_url": uri}]})[0] == 507
    assert generate(server, {"prompt": "a"})[0] == 200  # needs none
    slow.join()
    assert edit(b"a", 2)[0] == 200
    until(lambda: spooled() == 0, 5, "an empty spool")
    with connect(server) as connection:  # told before it is sent, where the sender waits for that
        connection.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=X\r\n"
                           b"Content-Length: 500000\r\nExpect: 100-continue\r\n\r\n")
        assert b" 507 " in connection.recv(4096)
    with connect(server) as connection:  # one that leaves in the middle
        connection.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=XX\r\n"
                           b"Content-Length: 150000\r\n\r\n" + form(part("prompt", b"a"), part("image", big, "a.png"))[:50000])
        until(lambda: spooled() > 40000, 5, "a part of it")
    until(lambda: spooled() == 0 and not server.spool_files(), 5, "an empty spool")


def test_limits_of_size(own_server):
    server = own_server(*FAST, config="limits:\n  json_bytes: 4096\n  image_bytes: 8192\n  body_bytes: 65536\n"
                        "  image_pixels: 10000\n  header_bytes: 4096\n")
    status, body, _ = generate(server, {"prompt": "a" * 5000})
    assert status == 413 and body["error"]["code"] == "PAYLOAD_TOO_LARGE"
    noise = bytes(range(256)) * 40
    status, body, _ = call(server, "/v1/images/edits", form(part("prompt", b"a"), part("image", noise, "a.png")), FORM)
    assert status == 413 and body["error"]["param"] == "image"
    status, body, _ = call(server, "/v1/images/edits", form(*[part(f"p{k}", b"x" * 7000) for k in range(12)]), FORM)
    assert status == 413
    status, body, _ = call(server, "/v1/images/edits", form(part("prompt", b"a"), part("image", picture(101, 100), "a.png")), FORM)
    assert status == 400 and "pixels" in body["error"]["message"]
    assert b" 431 " in raw(server, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 60000 + b"\r\n\r\n")
    assert generate(server, {"prompt": "a"})[0] == 200


def test_refused_early_when_the_client_asks(fast):
    """A client that waits for "100 Continue" is told at once that its body is not wanted."""
    with connect(fast) as connection:
        connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
                           b"Content-Length: 500000\r\nExpect: 100-continue\r\n\r\n")
        assert b" 415 " in connection.recv(4096)


IDLE = r"""
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[3]) + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sockets = []
for _ in range(int(sys.argv[3])):
    sockets.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30))
print("open", flush=True)
sys.stdin.read()
"""


def test_ten_thousand_idle_connections(own_server):
    """From a process of their own; the server goes on serving and stays small."""
    server = own_server(*FAST, config="limits:\n  header_time: 5m\n")
    host, port = server.url.removeprefix("http://").split(":")
    crowd = subprocess.Popen([sys.executable, "-c", IDLE, host, port, "10000"], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True)
    try:
        assert crowd.stdout.readline() == "open\n"
        until(lambda: len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir())) > 10000, 30, "10,000 connections")
        begin = time.monotonic()
        for _ in range(20):
            assert generate(server, {"prompt": "a"})[0] == 200
        assert time.monotonic() - begin < 10
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) < 400_000
    finally:
        crowd.communicate("")
    until(lambda: len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir())) < 100, 30, "closed connections")
    assert generate(server, {"prompt": "a"})[0] == 200


# -------------------------------------------------------------------------------------------------------- odd requests


def check_refused(answer, status, code):
    """One answer, as JSON with an id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and len(re.findall(rb"HTTP/1\.1 \d\d\d ", answer)) == 1, answer[:300]
    assert re.search(rb"\r\nx-request-id: req_[0-9a-f]{24}\r\n", head) and b"\r\nContent-Type: application/json\r\n" in head, head
    error = json.loads(body)["error"]
    assert error["code"] == code and set(error) >= {"message", "type", "param", "code"} and error["message"]


@pytest.mark.parametrize("request_bytes, status, code", [
    (b"GET\r\n\r\n", 400, "INVALID_REQUEST"), (b"GET / HTTP/9.9\r\n\r\n", 505, "INVALID_REQUEST"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "INVALID_REQUEST"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "INVALID_REQUEST"), (b"\0\1\2", 400, "INVALID_REQUEST"),
    (b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400, "INVALID_REQUEST"),
    (HEAD + b"Content-Length: -5\r\n\r\n", 400, "INVALID_REQUEST"), (HEAD + b"Content-Length: 5, 5\r\n\r\n", 400, "INVALID_REQUEST"),
    (HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", 413, "PAYLOAD_TOO_LARGE"),
    (b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414, "PAYLOAD_TOO_LARGE"),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n", 431, "PAYLOAD_TOO_LARGE"),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2_000_000 + b"\r\n\r\n", 431, "PAYLOAD_TOO_LARGE"),
])
def test_bad_heads_are_answered_as_everything_else(fast, request_bytes, status, code):
    check_refused(raw(fast, request_bytes), status, code)
    with connect(fast) as connection:  # byte by byte, as far as it goes
        try:
            for byte in request_bytes[:200]:
                connection.sendall(bytes([byte]))
            connection.sendall(request_bytes[200:])
        except OSError:
            pass
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    check_refused(answer, status, code)


def test_slow_heads_are_told(strict):
    with connect(strict) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: loc")
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    check_refused(answer, 408, "REQUEST_TIMEOUT")


def head_of(size):
    start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "
    return start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"


def read_answer(connection):
    answer = b""
    while b"\r\n\r\n" not in answer or len(answer.split(b"\r\n\r\n", 1)[1]) < int(re.search(rb"Content-Length: (\d+)", answer).group(1)):
        piece = connection.recv(65536)
        if not piece:
            break
        answer += piece
    return answer


def test_the_limit_of_heads_is_what_it_says(own_server, certificate):
    """The same for the first request of a connection, a later one, and over TLS: limits.header_bytes to the byte."""
    limit = "limits:\n  header_bytes: 4096\n"
    plain = own_server(*FAST, config=limit)
    tls = own_server(*FAST, config=limit + f"server:\n  tls:\n    certificate: {certificate}/certificate.pem\n    key: {certificate}/key.pem\n")
    context = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))

    def open_tls():
        host, port = tls.url.removeprefix("https://").split(":")
        return context.wrap_socket(socket.create_connection((host, int(port)), timeout=30), server_hostname="localhost")
    for connection in (connect(plain), open_tls()):
        with connection:
            for _ in range(2):
                connection.sendall(head_of(4096))
                assert read_answer(connection).startswith(b"HTTP/1.1 200 ")
            connection.sendall(head_of(4097))
            check_refused(read_answer(connection), 431, "PAYLOAD_TOO_LARGE")
    for connection in (connect(plain), open_tls()):
        with connection:
            connection.sendall(head_of(4097))
            check_refused(read_answer(connection), 431, "PAYLOAD_TOO_LARGE")


def test_connections_of_one_address(own_server):
    """This machine's own are not counted; the limit of all together holds, and room comes back."""
    server = own_server(*FAST, config="limits:\n  connections: 20\n  connections_per_address: 2\n")
    crowd = [connect(server) for _ in range(20)]
    extra = connect(server)  # waits in the system's queue
    extra.settimeout(1.5)
    extra.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    with pytest.raises(TimeoutError):
        extra.recv(100)
    extra.settimeout(30)
    crowd.pop().close()
    assert extra.recv(100).startswith(b"HTTP/1.1 200 ")
    for connection in crowd:
        connection.close()
    assert generate(server, {"prompt": "a"})[0] == 200



@pytest.mark.parametrize("request_bytes", [
    b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /v1/models HTTP/1.1\r\n\r\n", b"POST /v1/images/generations HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    HEAD + b"Content-Length: -5\r\n\r\n", HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    b"GET /v1/models?" + b"a=1&" * 4000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET " + b"/" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /%00%ff%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
])
def test_malformed_requests(fast, request_bytes):
    with connect(fast) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    assert not answer or re.match(rb"HTTP/1\.[01] (?:[24]\d\d|505) ", answer), answer[:100]
    assert generate(fast, {"prompt": "a"})[0] == 200


def test_chunked_bodies(fast):
    body = json.dumps({"prompt": "a", "size": SMALL}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = raw(fast, HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b" 200 OK" in answer and b"x-request-id: req_" in answer


def test_pipelined_requests(fast):
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    answer = raw(fast, line % b"" * 20 + line % b"Connection: close\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 21


def test_every_answer_has_an_id(fast):
    ids = set()
    for method, path in (("GET", "/healthz"), ("GET", "/nowhere"), ("DELETE", "/v1/models"), ("OPTIONS", "/v1/models"),
                         ("GET", "/media/x"), ("POST", "/v1/images/generations"), ("TRACE", "/v1/models")):
        connection = http.client.HTTPConnection(fast.url.removeprefix("http://"), timeout=30)
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        assert re.fullmatch(r"req_[0-9a-f]{24}", answer.headers["x-request-id"]), (method, path, answer.status)
        ids.add(answer.headers["x-request-id"])
        connection.close()
    assert len(ids) == 7


# ---------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    ended = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                            "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                            "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")],
                           capture_output=True)
    if ended.returncode:
        pytest.skip("openssl makes no certificate")
    return folder


def test_tls(own_server, certificate):
    server = own_server(*FAST, config=f"server:\n  tls:\n    certificate: {certificate}/certificate.pem\n"
                        f"    key: {certificate}/key.pem\n")
    assert server.url.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
    request = urllib.request.Request(server.url + "/v1/images/generations", json.dumps(
        {"prompt": "@noise", "size": "724x724"}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        url = json.load(answer)["data"][0]["url"]
    assert url.startswith(server.url + "/media/")
    with urllib.request.urlopen(url, context=context, timeout=30) as answer:
        assert len(answer.read()) > 1_000_000
    request = urllib.request.Request(server.url + "/v1/images/generations", json.dumps(
        {"prompt": "@ms=20", "size": SMALL, "stream": True, "partial_images": 2}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, context=context, timeout=30) as answer:
        assert answer.read().count(b"event: image_generation.") == 3
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.set_ciphers("ALL:@SECLEVEL=0")  # it is the server that is to refuse
    old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), connect(server) as plain:
        old.wrap_socket(plain)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        new = ssl.create_default_context(cafile=str(certificate / "certificate.pem"))
        new.minimum_version = new.maximum_version = version
        with connect(server) as plain, new.wrap_socket(plain, server_hostname="localhost") as secured:
            assert secured.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
    with connect(server) as plain:  # no TLS at all
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(100)


def test_wrong_certificate(tmp_path, certificate, own_server):
    (tmp_path / "bad.pem").write_text("not a certificate")
    with pytest.raises(AssertionError, match="a certificate and its key"):
        own_server(*FAST, config=f"server:\n  tls:\n    certificate: {tmp_path}/bad.pem\n    key: {certificate}/key.pem\n")
