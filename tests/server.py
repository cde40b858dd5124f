"""A web server as a crawl's: ranges, ETags, redirects, and the faults that a long transfer meets.

`files` maps paths to bytes. `faults` maps a path to faults, one for each request in order; after the last one the
file is served as it should be. What is counted (`sent`; `open`, the requests that wait for an answer) is counted
before the bytes go out, since a client may have them before this thread goes on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@functools.lru_cache(16)
def md5(body: bytes) -> str:
    """Kept, so that a request for a few bytes of a large file costs the server no more than they do."""
    return hashlib.md5(body).hexdigest()  # noqa: S324


class CrawlServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type[Handler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str]] = []  # path and Range
        self.sent = self.open = self.most_open = 0
        self.lock = threading.Lock()
        self.latency = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: CrawlServer

    def log_message(self, *_) -> None:
        pass

    def version_string(self) -> str:
        return "AmazonS3"  # whose ETags are the MD5 of the file

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.requests.append((self.path, self.headers.get("Range", "")))
            faults = server.faults.get(self.path.partition("?")[0], [])
            fault = faults.pop(0) if faults else ""
            server.open += 1
            server.most_open = max(server.most_open, server.open)
        time.sleep(server.latency)
        with server.lock:
            server.open -= 1
        self._serve(fault)

    def _serve(self, fault: str) -> None:
        kind, _, value = fault.partition(" ")
        if kind == "status":  # "status 503 Retry-After: 7"
            code, _, header = value.partition(" ")
            self._answer(int(code), b"no", dict([header.split(": ", 1)]) if header else {})
        elif kind == "redirect":
            self._answer(302, b"", {"Location": value})
        elif kind == "refuse":
            self.close_connection = True
        elif kind == "change":  # from now on another file
            self.server.files[self.path] = value.encode() * 1000
            self._file(fault="")
        elif self.path not in self.server.files:
            self._answer(404, b"not found")
        else:
            self._file(fault)

    def _file(self, fault: str) -> None:
        body = self.server.files[self.path]
        etag = f'"{md5(body)}"'
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if_range = self.headers.get("If-Range", etag)
        headers = {"ETag": "W/" + etag if fault == "weak" else etag}
        if fault == "corrupt":
            body = b"\x00" * len(body)
        if not match or if_range != etag or fault == "ignore range":
            self._answer(200, body, headers, fault)
            return
        start, stop = int(match[1]), min(int(match[2]) + 1 if match[2] else len(body), len(body))
        if start >= len(body):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
        if fault == "wrong range":
            headers["Content-Range"] = f"bytes {start + 1}-{stop - 1}/{len(body)}"
        self._answer(206, body[start:stop], headers, fault)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, fault: str = "") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if fault == "no length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        kind, _, value = fault.partition(" ")
        sent = body[: int(value)] if kind == "drop" else body  # "drop 1000": the connection ends after them
        if kind == "slow":
            for i in range(0, len(body), max(1, len(body) // 20)):
                self.wfile.write(body[i : i + max(1, len(body) // 20)])
                time.sleep(float(value))
        else:
            with self.server.lock:
                self.server.sent += len(sent)
            self.wfile.write(sent)
        if kind == "drop":
            self.wfile.flush()
            self.close_connection = True


@contextlib.contextmanager
def serving() -> Iterator[CrawlServer]:
    with CrawlServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket, str], None]) -> Iterator[str]:
    """The URL of a server that calls `answer` with each connection and the path that is asked for."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=handle, args=(connection,), daemon=True).start()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection, connection.recv(2**16).split()[1].decode())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends its accept()
        thread.join()
