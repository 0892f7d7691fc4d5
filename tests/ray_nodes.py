"""Nodes of a Ray cluster on loopback: real raylets, each in a folder of its own, that are killed and added."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

_START_S = 180.0  # a busy machine is no failure
_TOKEN = {"RAY_AUTH_TOKEN": "of-this-test-alone-0123456789abcdef", "RAY_AUTH_MODE": "token"}
"""Without a token Ray writes one into the user's home folder."""
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "300"}


class RayNode:
    """A node: what `ray start --block` runs.

    Attributes:
        folder: The folder in which it was started, and in which its jobs work.
        state: The folder of Ray's own files, which is `TMPDIR` of all of the node's processes.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], state: Path) -> None:
        """Take over a node that is starting."""
        self.folder, self.state, self._process = folder, state, process

    @property
    def is_alive(self) -> bool:
        """Whether the node has not been killed."""
        return self._process.poll() is None

    def is_up(self) -> bool:
        """Return whether the node has started."""
        if self._process.poll() is not None:
            pytest.fail(f"ray start failed: {(self.folder / 'ray.log').read_text()[-2000:]}")
        return "Ray runtime started" in (self.folder / "ray.log").read_text()

    def kill(self) -> None:
        """Kill the raylet, all other processes of the node and the workers on it, as a power cut does."""
        for pid in find_processes(f"TMPDIR={self.state}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


class RayNodes:
    """A cluster whose nodes are started and killed one by one.

    Attributes:
        address: The head's, where nodes and commands join.
        environment: Environment variables of nodes and commands.
        nodes: The nodes, dead ones included.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        """Start nothing yet.

        Args:
            folder: Gets a folder for each node.
            environment: Environment variables.
        """
        self.environment = {**environment, **_TOKEN, **_QUIET}
        self._folder = folder
        self._state = Path(tempfile.mkdtemp(prefix="ray-"))  # short: paths of sockets are limited
        self.nodes: list[RayNode] = []
        self.address = f"127.0.0.2:{_find_free_port()}"

    def start(self, name: str, cpus: int) -> RayNode:
        """Start a node, the first of them as the head.

        Args:
            name: Its folder's name.
            cpus: Number of its CPUs, by its own account.
        """
        folder, state = self._folder / name, self._state / name
        folder.mkdir()
        state.mkdir()
        number = len(self.nodes) + 2
        place = ["--head", f"--port={self.address.rpartition(':')[2]}", "--include-dashboard=false"]
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--num-cpus={cpus}"]
        command += place if not self.nodes else [f"--address={self.address}"]
        command += [f"--node-ip-address=127.0.0.{number}", f"--temp-dir={state}"]
        environment = {**self.environment, "TMPDIR": str(state)}
        with (folder / "ray.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        node = RayNode(folder, process, state)
        self.nodes.append(node)
        end = time.monotonic() + _START_S
        while not node.is_up() and time.monotonic() < end:
            time.sleep(0.2)
        return node

    def stop(self) -> None:
        """Kill all nodes and remove their files."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self._state, ignore_errors=True)


def _find_free_port() -> int:
    """Return a free port above those of Ray's workers and below those that Linux gives to outgoing connections."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", random.randrange(20_000, 32_000)))
            return int(probe.getsockname()[1])


def find_processes(variable: str) -> list[int]:
    """Return the processes with an environment variable, such as `NAME=value`."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable.encode() in (entry / "environ").read_bytes().split(b"\0"):
                pids.append(int(entry.name))
    return pids


@contextmanager
def start_ray_nodes(folder: Path, environment: Mapping[str, str]) -> Iterator[RayNodes]:
    """Provide a cluster without nodes, whose nodes are killed at the end."""
    if find_spec("hydra_plugins.hydra_ray_launcher") is None:
        pytest.skip("the launcher ray is missing: pip install 'lightexp[ray]'")
    nodes = RayNodes(folder, environment)
    try:
        yield nodes
    finally:
        nodes.stop()
