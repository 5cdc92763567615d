"""A web server of a folder on this host that knows ranges, and fails on demand."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server:
    """What it serves, what it was asked for, and how it fails.

    `faults` are used up one a request (of the method GET): a status such as 503, "cut" (the
    connection ends in the middle), "stall" (no byte comes any more), None (none).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: list[int | str | None] = []
        self.always: int | str | None = None
        self.ranges = True
        self.requests: list[tuple[str, str, str]] = []  # method, path, range
        self.signed: dict[str, str] = {}  # files by the only target that gives them; others: 403
        self.redirects: dict[str, str] = {}  # locations by target
        self.stalled = threading.Event()  # set: those that stall end
        self.url = ""

    def got(self, name: str) -> int:
        """How often a file was asked for."""
        return sum(method == "GET" and path == f"/{name}" for method, path, _ in self.requests)

    def fault(self) -> int | str | None:
        return self.faults.pop(0) if self.faults else self.always


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    state = Server(root)
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Quiet(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.stalled.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(ThreadingHTTPServer):
    request_queue_size = 128  # or some of many connections at once are refused

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked has gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # a small answer leaves in one packet: the hardest to read when it is cut
    state: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(None)

    def do_GET(self) -> None:
        self._answer(self.state.fault())

    def _answer(self, fault: int | str | None) -> None:
        name = self.path.partition("?")[0]
        asked = self.headers.get("Range", "")
        self.state.requests.append((self.command, name, asked))
        name = self.state.signed.get(self.path, name)
        path = self.state.root / name.lstrip("/")
        if isinstance(fault, int):
            self._head(fault, 0)
        elif self.path in self.state.redirects:
            self._head(302, 0, {"Location": self.state.redirects[self.path]})
        elif self.state.signed and self.path not in self.state.signed:
            self._head(403, 0)
        elif path.is_dir():
            links = "".join(f'<a href="{p.name}">{p.name}</a>' for p in path.iterdir())
            self._body(200, links.encode(), None, {"Content-Type": "text/html"})
        elif not path.is_file():
            self._head(404, 0)
        else:
            self._file(path.read_bytes(), asked if self.state.ranges else "", fault)

    def _file(self, data: bytes, asked: str, fault: object) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if not match:
            self._body(200, data, fault, {"ETag": f'"{hash(data)}"'})
            return
        first = int(match[1])
        last = min(int(match[2] or len(data)), len(data) - 1)
        if first >= len(data):
            self._head(416, 0)
            return
        extent = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        self._body(206, data[first : last + 1], fault, extent)

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, status: int, data: bytes, fault: object, headers: dict[str, str]) -> None:
        self._head(status, len(data), headers)
        if self.command == "HEAD":
            return
        broken = fault in ("cut", "stall")
        with suppress(ConnectionError):  # who asked has gone
            self.wfile.write(data[: len(data) // 2] if broken else data)
            self.wfile.flush()
        if fault == "stall":
            self.state.stalled.wait(120)
        self.close_connection = broken
