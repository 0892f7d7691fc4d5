"""HTTP servers on loopback that answer as MLflow's server does, and misbehave in one chosen way."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

RUN_ID, EXPERIMENT_ID = "0123456789abcdef" * 2, "7"
_DRIP_PAUSE_S = 0.05

Answer = dict[str, Any]


@dataclass
class StandInServer:
    """What a stand-in server answers, and what it was asked.

    Attributes:
        answers: Changes the answer of an endpoint, such as `runs/search`; its argument is the sound answer.
        artifact: The content of every artifact.
        hangs_after: Number of requests after which none is answered. Defaults to None: all are.
        refused: Text that makes a query invalid, as for servers of earlier versions. Defaults to None: nothing.
        refuses_host: Whether each request is refused for its host name, as by MLflow's `--allowed-hosts`.
        drips: Whether each answer is sent byte by byte, and its headers before it.
        requests: The endpoint of each request so far.
        url: Its address.
    """

    answers: dict[str, Callable[[Answer], Any]] = field(default_factory=dict)
    artifact: bytes = b""
    hangs_after: int | None = None
    refused: str | None = None
    refuses_host: bool = False
    drips: bool = False
    requests: list[str] = field(default_factory=list)
    url: str = ""
    closed: threading.Event = field(default_factory=threading.Event)

    def make_run(self, **info: Any) -> Answer:
        """Return a run as MLflow's REST API describes it."""
        return {
            "info": {
                "run_id": RUN_ID,
                "run_uuid": RUN_ID,
                "experiment_id": EXPERIMENT_ID,
                "status": "FINISHED",
                "start_time": 1_700_000_000_000,
                "lifecycle_stage": "active",
                "artifact_uri": f"mlflow-artifacts:/{EXPERIMENT_ID}/{RUN_ID}/artifacts",
                **info,
            },
            "data": {"metrics": [], "params": [], "tags": []},
            "inputs": {},
        }

    def answer(self, endpoint: str) -> Any:
        """Return the body of the answer to a request."""
        experiment = {"experiment_id": EXPERIMENT_ID, "name": "lightexp", "lifecycle_stage": "active"}
        sound: Answer = {
            "experiments/get-by-name": {"experiment": experiment},
            "experiments/search": {"experiments": [experiment]},
            "experiments/create": {"experiment_id": EXPERIMENT_ID},
            "runs/search": {"runs": [self.make_run()]},
            "runs/get": {"run": self.make_run()},
            "runs/create": {"run": self.make_run(status="RUNNING")},
            "artifacts": {"files": []},
        }.get(endpoint, {})
        return self.answers.get(endpoint, lambda answer: answer)(sound)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stand_in: StandInServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stand_in = stand_in

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: clients that give up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle_request(self) -> None:
        """Answer any request."""
        stand_in = self.server.stand_in
        request = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode(errors="replace")
        path = urlsplit(self.path).path
        is_artifact = "/mlflow-artifacts/artifacts/" in path
        endpoint = path.partition("/mlflow/")[2] or ("artifact" if is_artifact else "artifacts")
        stand_in.requests.append(endpoint)
        if stand_in.hangs_after is not None and len(stand_in.requests) > stand_in.hangs_after:
            stand_in.closed.wait()
            return
        body = stand_in.artifact if is_artifact else json.dumps(stand_in.answer(endpoint)).encode()
        status = "200 OK"
        if stand_in.refused and stand_in.refused in request:
            status, body = "400 Bad Request", b'{"error_code": "INVALID_PARAMETER_VALUE", "message": "invalid filter"}'
        if stand_in.refuses_host:
            status, body = "403 Forbidden", b"Invalid Host header - possible DNS rebinding attack detected"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._send(head.encode() + body)

    do_GET = do_POST = do_PUT = do_PATCH = handle_request  # noqa: N815 (the names that http.server calls)

    def _send(self, answer: bytes) -> None:
        stand_in = self.server.stand_in
        if not stand_in.drips:
            self.wfile.write(answer)
            return
        try:
            for position in range(len(answer)):
                self.wfile.write(answer[position : position + 1])
                if stand_in.closed.wait(_DRIP_PAUSE_S):
                    return
        except OSError:  # the client has given up
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def serve(**behaviour: Any) -> Iterator[StandInServer]:
    """Run a stand-in server while the context lasts.

    Args:
        behaviour: Fields of `StandInServer`.
    """
    stand_in = StandInServer(**behaviour)
    server = _Server(stand_in)
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield stand_in
    finally:
        stand_in.closed.set()
        server.shutdown()
        server.server_close()
