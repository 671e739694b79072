"""What happens around requests: clients that leave, workers that die, queues that overflow, servers that stop."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import openai
import pytest

from conftest import FAST, LIMN, ROOT, model_folder, until
from test_pictures import SMALL, opened, picture

# A request that takes far longer than any of these tests waits, on any model.
LONG = {"prompt": "slow", "n": 10, "size": "1024x1024", "steps": 200}


def send_long(server):
    """Sends a long request on a socket of its own and returns the socket once the job runs."""
    body = json.dumps(LONG).encode()
    connection = socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60)
    connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
    until(lambda: server.health()["running"] == 1, 30, "a running job")
    return connection


def in_background(call):
    """Runs call() in a thread; returns a function that waits for its result or exception."""
    box = []

    def work():
        try:
            box.append(call())
        except Exception as error:
            box.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def result():
        thread.join(60)
        assert box, "no answer within 60 s"
        return box[0]

    return result


def draws(server):
    answer = server.client.images.generate(prompt="a", size=SMALL, response_format="b64_json", extra_body={"steps": 1})
    return opened(answer.data[0]).size == (64, 64)


def test_client_that_leaves_cancels(server):
    worker = server.worker()
    connection = send_long(server)
    left = time.monotonic()
    connection.close()
    until(server.idle, 30, "an idle server")
    assert time.monotonic() - left < 25
    assert server.worker() == worker  # it stopped the job by itself
    until(lambda: "the client left" in server.output(), 10, "the request's line")  # written after its job has ended
    assert draws(server)


def test_client_that_leaves_while_waiting(server):
    running, waiting = send_long(server), None
    try:
        body = json.dumps(LONG).encode()
        waiting = socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60)
        waiting.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                        b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        until(lambda: server.health()["waiting"] == 1, 30, "a waiting job")
        waiting.close()
        until(lambda: server.health()["waiting"] == 0, 10, "an empty line")
        assert server.health()["running"] == 1
    finally:
        running.close()
        if waiting:
            waiting.close()


def test_client_that_leaves_while_sending(server):
    """Half an upload leaves nothing behind (idle_between_tests looks into the spool)."""
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
        connection.sendall(b"POST /v1/images/edits HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; "
                           b"boundary=XX\r\nContent-Length: 1000000\r\n\r\n--XX\r\nContent-Disposition: form-data; "
                           b'name="image"; filename="a.png"\r\n\r\n' + picture() + b"x" * 1000)
        until(server.spool_files, 10, "the upload's file")
    until(lambda: not server.spool_files(), 10, "a clean spool")


def test_end_that_comes_with_the_last_bytes(server):
    """Half a request and its end in one go: the connection is closed then, not when it has been idle for long."""
    def descriptors():
        return len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))

    before = descriptors()
    for _ in range(50):
        with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
            connection.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
                               b"\r\nContent-Length: 100\r\n\r\n{")
    until(lambda: descriptors() < before + 10, 10, "closed connections")


def is_drawing(server):
    """Whether the worker has said that it works on the newest request."""
    with urllib.request.urlopen(server.url + "/v1/requests?limit=1&status=processing") as answer:
        page = json.load(answer)["data"]
    if not page:
        return False
    with urllib.request.urlopen(server.url + "/v1/requests/" + page[0]["id"]) as answer:
        return bool(json.load(answer).get("stage"))


def slow(server, prompt="@ms=60000", **more):
    """Begins a call that takes minutes on the stand-in worker; returns a function that waits for its end."""
    result = in_background(lambda: server.client.images.generate(prompt=prompt, size=SMALL, **more))
    until(lambda: is_drawing(server), 30, "a running job")
    return result


def test_killed_worker(fast):
    """The job is run again once; when that worker dies, too, the client is told."""
    started = fast.health()["workers_started"]
    result = slow(fast)
    for count in (1, 2):
        os.kill(until(fast.worker, 10, "a worker"), signal.SIGKILL)
        until(lambda: fast.health()["workers_started"] == started + count, 20, "a new worker")
        if count == 1:
            until(lambda: "is ready" in fast.output().split(f"worker {fast.worker()} started")[-1], 20, "a ready worker")
            until(lambda: is_drawing(fast), 20, "the second run")
    error = result()
    assert isinstance(error, openai.InternalServerError), error
    assert error.status_code == 503 and error.code == "WORKER_DIED" and "signal 9" in str(error)
    assert error.response.headers["x-should-retry"] == "false"  # it was run again already
    killed = time.monotonic()
    assert fast.client.images.generate(prompt="a", size=SMALL).data[0].url
    assert time.monotonic() - killed < 20


def test_worker_that_dies_once(fast):
    answer = fast.client.images.generate(prompt="@crash=steps @once", size=SMALL)
    assert answer.data[0].url and [attempt["status"] for attempt in answer.metadata["attempts"]][-1] == "completed"


def test_crashed_idle_worker(server):
    os.kill(server.worker(), signal.SIGKILL)
    assert draws(server)


def test_hung_worker(own_server):
    """A stopped process beats no more; the lease ends it."""
    server = own_server(*FAST, config="queue:\n  lease: 2s\n  rerun: false\n")
    result = slow(server)
    os.kill(server.worker(), signal.SIGSTOP)
    error = result()
    assert error.status_code == 504 and error.code == "GENERATION_TIMEOUT"
    assert server.client.images.generate(prompt="a", size=SMALL).data[0].url


def test_time_limit(own_server):
    server = own_server(*FAST, config="queue:\n  time_limit: 1s\n  cancel: 1s\n")
    error = slow(server)()
    assert error.status_code == 504 and error.code == "GENERATION_TIMEOUT"
    assert server.client.images.generate(prompt="a", size=SMALL).data[0].url


def test_full_queue(own_server):
    server = own_server("--queue-depth", "1")
    running = send_long(server)
    waiting = in_background(lambda: server.client.images.generate(prompt="a", size=SMALL, extra_body={"steps": 1}))
    until(lambda: server.health()["waiting"] == 1, 30, "a waiting job")
    with pytest.raises(openai.RateLimitError) as caught:
        server.client.images.generate(prompt="a", size=SMALL)
    assert caught.value.code == "QUEUE_FULL" and caught.value.response.headers["retry-after"]
    assert caught.value.body["openai_code"] == "rate_limit_exceeded"
    running.close()
    assert waiting().data[0].url  # the one that waited is served


def test_sdk_retries_until_there_is_room(own_server):
    server = own_server("--queue-depth", "0")
    running = send_long(server)
    patient = in_background(lambda: server.client.with_options(max_retries=20).images.generate(
        prompt="a", size=SMALL, extra_body={"steps": 1}))
    until(lambda: "status=429" in server.output(), 30, "a refusal")
    running.close()
    assert patient().data[0].url


def test_several_at_once(server):
    results = [in_background(lambda k=k: server.client.images.generate(prompt=f"{k}", size=SMALL, extra_body={
        "steps": 1, "seed": k})) for k in range(8)]
    assert [result().data[0].seed for result in results] == list(range(8))


def test_server_answers_while_it_draws(server):
    connection = send_long(server)
    try:
        before = time.monotonic()
        server.client.models.list()
        assert time.monotonic() - before < 5
    finally:
        connection.close()


def test_stop_finishes_what_runs(own_server):
    """One signal: what runs gets its pictures, what waits is told to come again, nothing new is taken."""
    server = own_server(*FAST)
    result = slow(server, "@ms=500 @steps=4")
    waiting = in_background(lambda: server.client.images.generate(prompt="a", size=SMALL))
    until(lambda: server.health()["waiting"] == 1, 10, "a waiting job")
    server.process.send_signal(signal.SIGTERM)
    refused = waiting()
    assert refused.status_code == 503 and refused.code == "INTERRUPTED"
    assert result().data[0].url
    assert server.process.wait(20) == 0
    assert server.spool_files() == []


def test_second_signal_ends_at_once(own_server):
    server = own_server(*FAST)
    result = slow(server)
    worker = server.worker()
    server.process.send_signal(signal.SIGINT)
    until(lambda: "stopping" in server.output(), 10, "the first signal's line")
    assert server.stop(signal.SIGINT) == 0
    error = result()
    assert error.status_code == 503 and error.code == "INTERRUPTED"
    assert not pathlib.Path(f"/proc/{worker}").exists()
    assert server.spool_files() == []


def test_service_manager_is_told(own_server, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        server = own_server(*FAST, environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(200).startswith(b"READY=1")
        server.stop()
        assert manager.recv(200).startswith(b"STOPPING=1")


def test_worker_ends_with_a_killed_server(own_server):
    server = own_server()
    connection = send_long(server)
    worker = server.worker()

    def gone():
        try:
            return " Z " in pathlib.Path(f"/proc/{worker}/stat").read_text()
        except FileNotFoundError:
            return True

    server.stop(signal.SIGKILL)
    until(gone, 10, "the end of the worker")
    connection.close()
    # What the killed one left in the spool is gone when the next one starts.
    (server.state / "limn" / "spool-0" / "req_left-behind").write_text("x")
    environment = dict(os.environ, XDG_STATE_HOME=str(server.state))
    with subprocess.Popen([LIMN, "serve", "--model", model_folder(), "--port", "0"], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as again:
        assert "serves" in again.stdout.readline()
        assert server.spool_files() == []
        again.terminate()
        assert again.wait(30) == 0


def test_media_outlives_a_restart(own_server, tmp_path):
    media = tmp_path / "media"
    first = own_server("--media-dir", str(media), state=tmp_path / "state")
    url = first.client.images.generate(prompt="a", size=SMALL).data[0].url
    assert first.stop() == 0
    second = own_server("--media-dir", str(media), state=tmp_path / "state")
    connection = http.client.HTTPConnection(second.url.removeprefix("http://"), timeout=30)
    name = url.rsplit("/", 1)[1]
    connection.request("GET", "/media/" + name)
    answer = connection.getresponse()
    data = answer.read()
    assert answer.status == 200 and data == (media / name).read_bytes() and "max-age" in answer.headers["Cache-Control"]
    connection.request("HEAD", "/media/" + name)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.read() == b"" and int(answer.headers["Content-Length"]) == len(data)
    # An hour later.
    old = time.time() - 3601
    os.utime(media / name, (old, old))
    connection.request("GET", "/media/" + name)
    answer = connection.getresponse()
    assert answer.status == 404 and json.loads(answer.read())["error"]["code"] == "NOT_FOUND"
    connection.close()


def test_full_disk(own_server, tmp_path):
    """Everything that the server stores lies on a file system of 3 MiB, mounted in a namespace of its own."""
    full = tmp_path / "state-0"
    full.mkdir()
    before = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o size=3m tmpfs "{full}" && exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    server = own_server(before=before)
    with pytest.raises(openai.APIStatusError) as caught:
        server.client.images.edit(image=b"x" * 4_000_000, prompt="a")
    assert caught.value.status_code == 507 and caught.value.code == "STORAGE_FULL"
    # The process's own view of the mount; filled to the last page.
    filler = pathlib.Path(f"/proc/{server.process.pid}/root{full}/filler")
    with pytest.raises(OSError), open(filler, "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    for response_format in ("url", "b64_json"):
        with pytest.raises(openai.APIStatusError) as caught:
            server.client.images.generate(prompt="a", size=SMALL, response_format=response_format)
        assert caught.value.code == "STORAGE_FULL" and str(full) not in str(caught.value)
    filler.unlink()
    assert draws(server)


def run(*options, **environment):
    return subprocess.run([LIMN, "serve", *options], env=dict(os.environ, **environment), capture_output=True, text=True,
                          timeout=60)


def test_wrong_start(server, tmp_path):
    state = {"XDG_STATE_HOME": str(tmp_path)}
    port = server.url.rsplit(":", 1)[1]
    for options, status, part in (
            (["--model", model_folder(), "--port", port], 1, "in use"),
            (["--model", str(tmp_path / "none")], 1, "No such file"),
            (["--model", str(tmp_path)], 1, str(tmp_path)),
            (["--model", model_folder(), "--host", "0.0.0.0", "--port", "0"], 1, "--insecure-no-auth"),
            (["--model", model_folder(), "--host", "no.such.host.invalid", "--port", "0"], 1, "no.such.host.invalid"),
            (["--port", "x"], 2, "--port"), (["--port", "70000"], 2, "--port"), (["--threads", "-1"], 2, "--threads"),
            (["--compute", "f16"], 2, "--compute"), (["--nonsense"], 2, "--help"), (["extra"], 2, "extra"),
            (["--public-url", "ftp://x"], 2, "--public-url"),
            (["--model", model_folder(), "--port", "0", "--isa", "z80"], 1, "z80")):
        ended = run(*options, **state)
        assert (ended.returncode, part in ended.stderr) == (status, True), (options, ended)
        assert "Sanitizer" not in ended.stderr
    shown = run("--help")
    assert shown.returncode == 0 and "--queue-depth" in shown.stdout and not shown.stderr


def test_curl_line_makes_a_picture(server, tmp_path):
    line = next(line for line in server.output().splitlines() if "curl -s" in line)
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_node_sdk(server):
    modules = os.environ.get("LIMN_NODE_MODULES", str(ROOT / "build" / "node" / "node_modules"))
    if not pathlib.Path(modules, "openai").exists():
        pytest.skip("the Node SDK is not installed (./test installs it)")
    script = pathlib.Path(modules).parent / "sdk.test.mjs"  # beside node_modules, where imports are looked up
    script.write_text((ROOT / "tests" / "api" / "node" / "sdk.test.mjs").read_text())
    ended = subprocess.run(["node", "--test", str(script)], env=dict(os.environ, LIMN_URL=server.url),
                           capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_the_model_is_open(tmp_path, how):
    """Whoever starts a server and changes his mind does not wait for the model."""
    (tmp_path / "limn.yaml").write_text("")
    environment = dict(os.environ, XDG_STATE_HOME=str(tmp_path), LIMN_STANDIN="@start=100000")
    server = subprocess.Popen([LIMN, "serve", "--config", str(tmp_path / "limn.yaml"), "--model", model_folder(), "--port", "0", *FAST],
                              env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert "worker" in server.stdout.readline()
    begin = time.monotonic()
    server.send_signal(how)
    output = server.communicate(timeout=20)[0]
    assert server.returncode == 0 and time.monotonic() - begin < 5 and "stopped before the model was open" in output
    assert not pathlib.Path(tmp_path / "limn" / "spool-0").exists()
