"""An S3 server on loopback, as a process of its own, and a proxy in front of it that injects faults."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

START_S = 120.0
_CHUNK = 65_536


def _make_answer(status: str, body: str, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/xml", f"Content-Length: {len(body)}", "Connection: close"]
    return ("\r\n".join([*head, *headers]) + "\r\n\r\n" + body).encode()


def _make_refusal(code: str, message: str, *headers: str, status: str = "403 Forbidden") -> bytes:
    return _make_answer(status, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>", *headers)


_ANSWERS = {
    "html": _make_answer("200 OK", "<html>Log in to this network</html>"),
    "denied": _make_refusal("AccessDenied", "Read only"),
    "unknown": _make_refusal("InvalidAccessKeyId", "The key does not exist"),
    "skewed": _make_refusal("RequestTimeTooSkewed", "Too far", f"Date: {formatdate(time.time() - 3_600, usegmt=True)}"),
    "region": _make_refusal(
        "AuthorizationHeaderMalformed", "Wrong", "x-amz-bucket-region: eu-north-1", status="400 Bad Request"
    ),
    "unconditional": _make_refusal(
        "NotImplemented", "A header you provided implies functionality that is not implemented", status="501 No"
    ),
    "full": _make_refusal("InsufficientStorage", "It is full", status="507 Full"),
}


@contextmanager
def serve_s3(folder: Path) -> Iterator[int]:
    """Run moto's server while the context lasts; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


class FaultProxy(socketserver.ThreadingTCPServer):
    """Passes connections on to a server, unless it is told to do otherwise.

    Attributes:
        fault: `none`; `refuse` closes connections; `stall` answers nothing; `html` answers each request with a page;
            `skewed`, `region` and `unknown` refuse each request; `denied` and `full` refuse what writes, and
            `unconditional` what writes on a condition. Defaults to `none`.
        limit: Bytes of one request, after which the proxy takes no more of it. Defaults to None: it takes all.
        stalled: Set once a request has reached the limit.
        url: Its address.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.server_url = ("127.0.0.1", port)
        self.fault, self.limit = "none", None
        self.stalled, self.closed = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    fault: str
    limit: int | None

    def mend(self) -> None:
        """Pass everything on from now, and close the connections that stall."""
        self.fault, self.limit = "none", None
        self.closed.set()
        self.stalled, self.closed = threading.Event(), threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that give up are what the tests are about."""


class _Connection(socketserver.BaseRequestHandler):
    server: FaultProxy

    def handle(self) -> None:
        """Pass on one connection."""
        if self.server.fault == "refuse":
            return
        if self.server.fault == "stall":
            self.server.closed.wait()
            return
        with socket.create_connection(self.server.server_url) as upstream:
            threading.Thread(target=self._answer, args=[upstream], daemon=True).start()
            taken = 0
            while data := self.request.recv(_CHUNK):
                fault, writes = self.server.fault, data.startswith((b"PUT", b"POST"))
                refused = fault in ("html", "skewed", "region", "unknown") or (writes and fault in ("denied", "full"))
                if refused or (fault == "unconditional" and b"\nif-none-match:" in data.lower()):
                    head, _, body = _ANSWERS[fault].partition(b"\r\n\r\n")
                    self.request.sendall(head + b"\r\n\r\n" + (b"" if data.startswith(b"HEAD") else body))
                    return
                taken = len(data) if data.startswith((b"PUT", b"POST", b"GET", b"HEAD")) else taken + len(data)
                if self.server.limit is not None and taken > self.server.limit:
                    self.server.stalled.set()
                    self.server.closed.wait()
                    return
                upstream.sendall(data)

    def _answer(self, upstream: socket.socket) -> None:
        with suppress(OSError):
            while data := upstream.recv(_CHUNK):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_RDWR)


@contextmanager
def inject_faults(port: int) -> Iterator[FaultProxy]:
    """Run a proxy in front of a server while the context lasts."""
    with FaultProxy(port) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.mend()
            proxy.shutdown()
