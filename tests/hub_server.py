"""A hub in miniature on 127.0.0.1 that can misbehave, for test_download.py and test_hub.py."""

import hashlib
import http.server
import threading

from minbert.checkpoints import download

NAME = "org/tiny-bert"
WEB_PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def safetensors(size, seed=0):
    """What begins like safetensors, with `size` bytes behind that; another seed makes other bytes."""
    return bytes(8) + b"{" + bytes((seed + i) % 251 for i in range(251)) * (size // 251) + bytes(size % 251)


VOCABULARY = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\n"
WEIGHTS = safetensors(300_000)
TINY_BERT = {"config.json": b"{}", "vocab.txt": VOCABULARY, "model.safetensors": WEIGHTS}


def isolate(monkeypatch, tmp_path):
    """Caches in tmp_path, nobody's own settings. Returns the list of pauses, in seconds, that are not waited for."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME", "NETRC", "HTTP_PROXY", "HTTPS_PROXY",
                 "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "theirs"))
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(download, "TIMEOUT", (5, 5))
    monkeypatch.setattr(download.os, "fsync", lambda descriptor: None)  # slow, and no power will be cut
    pauses = []
    monkeypatch.setattr(download, "sleep", pauses.append)
    return pauses


def sentence(caught):
    """The message of an error, after making sure that it is one sentence."""
    message = str(caught.value)
    assert not [stop for stop in ("\n", ". ", ".;") if stop in message + " "], message
    return message


def weights_path(file="model.safetensors", revision="main"):
    return f"/{NAME}/resolve/{revision}/{file}"


class Server:
    """What it serves, what goes wrong next, and who asked for what."""

    def __enter__(self):
        self.files, self.etags, self.faults, self.log = {}, {}, {}, []
        self.headers = {}  # sent with every file
        self.released = threading.Event()  # ends all stalls
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def publish(self, files=TINY_BERT, revision="main"):
        for file, content in files.items():
            self.put(weights_path(file, revision), content)

    def put(self, path, content):
        self.files[path], self.etags[path] = content, f'"{sha256(content)}"'
        return self.url + path

    def fail(self, path, *faults):
        """The next requests for the path meet these, one each; after them all is well."""
        self.faults[path] = list(faults)

    def asked(self, ending=""):
        """The headers of all requests for paths that end so."""
        return [headers for path, headers in self.log if path.endswith(ending)]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server.owner
        server.log.append((self.path, dict(self.headers)))
        if server.faults.get(self.path):
            server.faults[self.path].pop(0)(self)
        elif self.path in server.files:
            self.serve()
        else:
            self.answer(404, b"nothing here")

    def serve(self, stop=None, headers=None, honour_if_range=True):
        """The file, or the range asked for; with `stop`, the connection ends at that byte of the file."""
        server = self.server.owner
        content, etag, start, status = server.files[self.path], server.etags[self.path], 0, 200
        sent = {"ETag": etag, **server.headers, **(headers or {})}
        same = self.headers.get("If-Range", etag) == etag or not honour_if_range
        if "Range" in self.headers and same:
            start, status = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                self.answer(416, b"")
                return
            sent["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.answer(status, content[start:stop], {"Content-Length": str(len(content) - start), **sent})

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


# Faults: what a request may meet in place of its file.


def status(code, headers=None):
    return lambda handler: handler.answer(code, b"", headers)


def redirects(url, headers=None):
    return status(302, {"Location": url, **(headers or {})})


def breaks_off(stop, headers=None):
    return lambda handler: handler.serve(stop, headers)


def stalls(stop):
    def fault(handler):
        handler.serve(stop)
        handler.server.owner.released.wait(10)

    return fault


def ignores_if_range(handler):
    handler.serve(honour_if_range=False)


def sends_another_range(handler):
    handler.answer(206, b"?" * 10, {"Content-Range": "bytes 7-16/300009"})


def hangs_up(handler):
    handler.connection.close()
