"""A hub in miniature on 127.0.0.1, which also serves plain files and can misbehave."""

import hashlib
import http.server
import json
import threading
from urllib.parse import unquote, urlsplit

NAME = "org/tiny-bert"
COMMIT = "0123456789" * 4
WEB_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Server:
    """What it serves, what goes wrong next, and who asked for what."""

    def __enter__(self):
        self.files, self.faults, self.log, self.headers = {}, {}, [], {}
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def put(self, path, content):
        self.files[path] = content
        return self.url + path

    def publish(self, files, name=NAME, revision="main"):
        """Serves a model through the hub's API: its commit, a list of its files, each file."""
        info = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "downloads": 0,
                "tags": [], "siblings": [{"rfilename": file} for file in files]}
        tree = [{"type": "file", "path": file, "size": len(content),
                 "oid": hashlib.sha1(content).hexdigest()} for file, content in files.items()]
        for known_as in (revision, COMMIT):
            self.put(f"/api/models/{name}/revision/{known_as}", json.dumps(info).encode())
            self.put(f"/api/models/{name}/tree/{known_as}", json.dumps(tree).encode())
            for file, content in files.items():
                self.put(f"/{name}/resolve/{known_as}/{file}", content)

    def fail(self, path, *faults):
        """The next requests for the path meet these, one each; after them all is well."""
        self.faults[path] = list(faults)

    def asked(self, ending=""):
        """The headers of all GET requests for paths that end so."""
        return [headers for method, path, headers in self.log
                if method == "GET" and path.endswith(ending)]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server.owner
        self.path = unquote(urlsplit(self.path).path)
        server.log.append((self.command, self.path, self.headers))
        if self.command == "GET" and server.faults.get(self.path):
            server.faults[self.path].pop(0)(self)
        elif self.path in server.files:
            self.serve()
        else:
            # as the hub answers for a model that does not exist
            self.answer(404, b"nothing here", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def serve(self, stop=None):
        """The file, or the range asked for; with `stop`, the connection ends at that byte."""
        server = self.server.owner
        content, start, status = server.files[self.path], 0, 200
        sent = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT,
                **server.headers}
        if "Range" in self.headers:
            start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            sent["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if start >= len(content):
                self.answer(416, b"")
                return
        sent = {"Content-Length": str(len(content) - start), **sent}
        self.answer(status, content[start:stop], sent)

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


# Faults: what a request may meet in place of its file.


def status(code, headers=None):
    return lambda handler: handler.answer(code, b"", headers)


def breaks_off(stop):
    return lambda handler: handler.serve(stop)
