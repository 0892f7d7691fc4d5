"""A PostgreSQL server for tests, and a way to it that is cut."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from pathlib import Path


class Server:
    """A PostgreSQL server for the tests."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Initialize the server's data; it refuses to run as root."""
        self._folder, self._programs = folder, programs
        self._run_as = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self._run_as:
            shutil.chown(folder, "postgres")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        """Stop the server as a crash does."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._run_as, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder)


class CuttingProxy:
    """A way to the server on which a connection is cut after a number of answers, once.

    Attributes:
        url: The server's address by this way.
        answers_left: Number of answers of all connections before the cut; negative if none is cut.
    """

    def __init__(self, server: Server) -> None:
        """Listen at a free port."""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server_port = server.port
        self.url = server.url.replace(f":{server.port}", f":{self._socket.getsockname()[1]}")
        self.answers_left = -1
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no further connection."""
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._connect, args=[client], daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server_port)) as server:
            requests = threading.Thread(target=self._pass_on, args=[client, server])
            requests.start()
            self._pass_on(server, client)
            requests.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                if source.getpeername()[1] == self._server_port:
                    self.answers_left -= 1
                    if self.answers_left == -1:
                        break
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
