"""A hub on this machine that speaks the Hugging Face Hub's protocol: the information on repositories, their trees, the files (large
ones by a redirect to a second host), with the faults that real ones have. Everything that is asked is kept in `requests`."""
import hashlib
import http.server
import json
import random
import re
import socket
import threading
import time
import urllib.parse

LARGE = 1000  # files from this size on are in large file storage


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Repository:
    def __init__(self, files, licence="apache-2.0", gated=False, private=False):
        self.files = dict(files)
        self.licence, self.gated, self.private = licence, gated, private
        self.refs = {}
        self.change()

    def change(self):
        """The commit follows from the files."""
        text = "".join(f"{path} {hashlib.sha256(data).hexdigest()}\n" for path, data in sorted(self.files.items()))
        self.commit = hashlib.sha1(text.encode()).hexdigest()
        self.refs["main"] = self.commit
        return self.commit

    def entry(self, path):
        data = self.files[path]
        entry = {"type": "file", "path": path, "size": len(data), "oid": git_blob(data)}
        if len(data) >= LARGE:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        return entry

    def etag(self, path):
        data = self.files[path]
        return hashlib.sha256(data).hexdigest() if len(data) >= LARGE else git_blob(data)


class Request:
    def __init__(self, host, method, path, headers):
        self.host, self.method, self.path = host, method, path
        self.headers = {key.lower(): value for key, value in headers.items()}


class Hub:
    """Faults, all off: break_after(path, begin) says after how many bytes of an answer the connection is reset (None: never);
    wrong: {path: how often a byte is changed}; failures: [(pattern, status, headers)], each used once; rate: bytes a second of
    the second host; no_ranges; page: entries of the tree a page; tree(entries) and info(info) change what is told; leak: where
    redirects lead instead of to the second host."""

    def __init__(self):
        self.repositories, self.texts = {}, {}
        self.tokens = {}  # token -> repositories whose licence its owner has accepted
        self.requests, self.lock = [], threading.Lock()
        self.break_after = lambda path, begin: None
        self.wrong, self.failures = {}, []
        self.rate = None
        self.no_ranges = False
        self.page = 1000
        self.tree = self.info = lambda value: value
        self.redirect = None
        self.relative = False  # small files by a redirect on the same host, as the real hub has them
        self.links = 0
        self.busy = self.most_busy = 0
        self.random = random.Random(1)
        self.hosts = [self.open("hub"), self.open("cdn")]
        self.url, self.cdn = [f"http://127.0.0.1:{host.server_address[1]}" for host in self.hosts]

    def open(self, name):
        handler = type("Handler", (Handler,), {"hub": self, "host": name})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def close(self):
        for host in self.hosts:
            host.shutdown()
            host.server_close()

    def asked(self, host=None, pattern=""):
        with self.lock:
            return [r for r in self.requests if (not host or r.host == host) and re.search(pattern, r.path)]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = host = None

    def log_message(self, *words):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def send(self, status, headers=(), body=b""):
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        if status not in (204, 304) and not any(key.lower() == "content-length" for key, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message):
        self.send(status, [("X-Error-Code", code), ("X-Error-Message", message)], b'{"error":"%s"}' % message.encode())

    def failure(self):
        """A failure that is due for this request."""
        for entry in self.hub.failures:
            pattern, status, headers = entry
            if re.search(pattern, self.path):
                self.hub.failures.remove(entry)
                self.send(status, headers, b"no")
                return True
        return False

    def answer(self):
        try:
            with self.hub.lock:
                self.hub.requests.append(Request(self.host, self.command, self.path, self.headers))
                failed = self.failure()
            if not failed:
                self.answer_cdn() if self.host == "cdn" else self.answer_hub()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    # ------------------------------------------------------------------------------------------------------- the hub

    def may_read(self, repository, name, file):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        known = token in self.hub.tokens
        if token and not known:
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not known):
            # What is not there and what is private look the same to strangers.
            self.refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        elif repository.gated and file and name not in self.hub.tokens.get(token, ()):
            status = 403 if known else 401
            self.refuse(status, "GatedRepo", f"Access to model {name} is restricted and you are not in the authorized list")
        else:
            return True
        return False

    def answer_hub(self):
        path, _, query = self.path.partition("?")
        if path in self.hub.texts:
            return self.send(200, [], self.hub.texts[path])
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path)
        if match:
            name, kind, revision = match.group(1), match.group(2), urllib.parse.unquote(match.group(3))
        else:
            match = (re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path) or
                     re.fullmatch(r"/api/resolve-cache/models/([^/]+/[^/]+)/([^/]+)/(.+)", path))
            if not match:
                return self.refuse(404, "", "Not Found")
            name, kind, revision = match.group(1), "file", urllib.parse.unquote(match.group(2))
        repository = self.hub.repositories.get(name)
        if not self.may_read(repository, name, kind == "file"):
            return None
        commit = repository.refs.get(revision, revision)
        if commit != repository.commit:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if kind == "revision":
            return self.answer_info(name, repository)
        if kind == "tree":
            return self.answer_tree(repository, path, query)
        return self.answer_file(name, repository, urllib.parse.unquote(match.group(3)))

    def answer_info(self, name, repository):
        info = {"_id": "1", "id": name, "modelId": name, "sha": repository.commit, "private": repository.private,
                "gated": repository.gated, "disabled": False, "tags": [f"license:{repository.licence}"], "downloads": 0,
                "likes": 0, "cardData": {"license": repository.licence},
                "siblings": [{"rfilename": path} for path in sorted(repository.files)]}
        self.send(200, [("Content-Type", "application/json")], json.dumps(self.hub.info(info)).encode())

    def answer_tree(self, repository, path, query):
        options = dict(urllib.parse.parse_qsl(query))
        entries = self.hub.tree([repository.entry(path) for path in sorted(repository.files)])
        begin = int(options.get("cursor", 0))
        headers = [("Content-Type", "application/json")]
        if begin + self.hub.page < len(entries):
            options["cursor"] = str(begin + self.hub.page)
            headers.append(("Link", f'<{self.hub.url}{path}?{urllib.parse.urlencode(options)}>; rel="next"'))
        self.send(200, headers, json.dumps(entries[begin:begin + self.hub.page]).encode())

    def answer_file(self, name, repository, path):
        if path not in repository.files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        etag, headers = repository.etag(path), [("X-Repo-Commit", repository.commit)]
        if len(repository.files[path]) < LARGE:
            if self.hub.relative and "/resolve-cache" not in self.path:
                name, _, rest = self.path[1:].partition("/resolve/")
                return self.send(307, [*headers, ("ETag", f'"{etag}"'), ("X-Linked-Size", str(len(repository.files[path]))),
                                       ("Location", f"/api/resolve-cache/models/{name}/{rest}")])
            return self.give(path, repository.files[path], etag, headers)
        self.hub.links += 1
        target = f"{self.hub.cdn}/{name}/{etag}/{urllib.parse.quote(path)}?signature={self.hub.links}"
        if self.hub.redirect:
            target = self.hub.redirect(target)
        headers += [("X-Linked-ETag", f'"{etag}"'), ("X-Linked-Size", str(len(repository.files[path]))),
                    ("Location", target)]
        return self.send(302, headers, b"Found. Redirecting")

    # ----------------------------------------------------------------------------------------------- the second host

    def answer_cdn(self):
        match = re.match(r"/([^/]+/[^/]+)/[^/]+/([^?]+)", self.path)
        name, path = match.group(1), urllib.parse.unquote(match.group(2))
        data = self.hub.repositories[name].files[path]
        self.give(path, data, "cdn-" + git_blob(data)[:8], [])

    def give(self, path, data, etag, headers):
        begin, status = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        headers = [("ETag", f'"{etag}"'), ("Accept-Ranges", "bytes"), *headers]
        fresh = self.headers.get("If-Range", f'"{etag}"') == f'"{etag}"'
        if wanted and fresh and not self.hub.no_ranges:
            begin, status = int(wanted.group(1)), 206
            if begin >= len(data):
                return self.send(416, [("Content-Range", f"bytes */{len(data)}")])
            headers.append(("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}"))
        with self.hub.lock:
            if self.hub.wrong.get(path, 0) > 0 and self.command == "GET":
                self.hub.wrong[path] -= 1
                data = data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:]
        body = data[begin:]
        self.send_response(status)
        for key, value in [*headers, ("Content-Length", str(len(body)))]:
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return None
        with self.hub.lock:
            self.hub.busy += 1
            self.hub.most_busy = max(self.hub.most_busy, self.hub.busy)
        try:
            self.write_slowly(body, self.hub.break_after(path, begin))
        finally:
            with self.hub.lock:
                self.hub.busy -= 1
        return None

    def write_slowly(self, body, limit):
        end = len(body) if limit is None else min(limit, len(body))
        for at in range(0, end, 16384):
            piece = body[at:min(at + 16384, end)]
            self.wfile.write(piece)
            if self.hub.rate:
                time.sleep(len(piece) / self.hub.rate)
        if end < len(body):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
