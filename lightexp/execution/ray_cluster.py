"""A Ray cluster that runs a launcher's jobs: connecting to it, what its nodes lack, and how many jobs fit."""

from __future__ import annotations

import platform
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightexp.core.errors import BadInput, format_reason
from lightexp.core.object_storage import ObjectStorage, StorageUnavailable
from lightexp.core.remote_store import RemoteStore
from lightexp.core.version import __version__

_CONNECT_S = 5.0
_PROBE_S = 120.0  # a node starts a Python process for it
_ERROR_CHARS = 300
_RESOURCES = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""Options of a Ray task, by the resource of a node that each takes."""


@dataclass(frozen=True)
class RayCluster:
    """A running cluster, as the launcher's settings name it.

    Attributes:
        init: Arguments of `ray.init`, with an address.
        remote: Options of the jobs, such as `num_cpus`.
    """

    init: Mapping[str, Any]
    remote: Mapping[str, Any]

    @property
    def address(self) -> str:
        """The cluster's address, as the user has written it."""
        return str(self.init["address"])

    def connect(self, folder: Path, remote_store: str | None = None) -> list[str]:
        """Connect this process, and check every node that can run a job: its version of lightexp, its remote store.

        Args:
            folder: An existing folder of this host.
            remote_store: The address of the remote store that the jobs use. Defaults to None: there is none.

        Returns:
            The addresses of the nodes that do not see the folder.

        Raises:
            BadInput: If the cluster cannot be used.
        """
        self.check_port()
        import ray

        options = dict(self.init)
        if options.get("object_store_memory") is None:  # a value is for a cluster that `ray.init` starts
            options.pop("object_store_memory", None)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**{"ignore_reinit_error": True, **options})
        except (Exception, SystemExit) as error:  # Ray raises anything, and exits by itself where nobody answers
            raise self._refuse(_join_lines(error)) from None
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own
        return self._probe_nodes(folder, remote_store)

    def check_port(self) -> None:
        """Check that somebody answers at the address, for which Ray itself would try for two minutes."""
        parts = urlsplit(self.address if "://" in self.address else f"//{self.address}")
        try:
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise self._refuse(str(error)) from None
        if host is None or port is None:  # such as `auto`
            return
        try:
            socket.create_connection((host, port), _CONNECT_S).close()
        except OSError as error:
            raise self._refuse(format_reason(error)) from None

    def _refuse(self, reason: str) -> BadInput:
        return BadInput(
            f"hydra.launcher.ray.init.address: Ray at {self.address} cannot be used: {reason.rstrip('.')}. "
            "Is it up (ray status), with the same Python and Ray as here?"
        )

    def _probe_nodes(self, folder: Path, remote_store: str | None) -> list[str]:
        import ray
        from ray.exceptions import NodeDiedError, TaskUnschedulableError
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node for node in _list_nodes() if count_slots([node["Resources"]], self.remote)]
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".ray-") as marker:
            path, expected = marker.name, __version__

            def probe() -> tuple[str, bool, str]:  # pickled by value, as a node may lack lightexp
                import os

                try:
                    from lightexp.core.version import __version__ as version
                except ImportError:
                    version = ""
                problem = ""
                if version == expected and remote_store is not None:
                    from lightexp.execution.ray_cluster import find_store_problem

                    problem = find_store_problem(remote_store)
                return version, os.path.exists(path), problem

            task = ray.remote(num_cpus=0, max_retries=0)(probe)
            strategies = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
            answers = [task.options(scheduling_strategy=strategy).remote() for strategy in strategies]
            blind_nodes = []
            for node, answer in zip(nodes, answers, strict=True):
                address = node["NodeManagerAddress"]
                try:
                    version, is_seen, problem = ray.get(answer, timeout=_PROBE_S)
                except (TaskUnschedulableError, NodeDiedError):  # it has just died, so that it takes no job either
                    continue
                except Exception as error:
                    raise self._refuse(f"its node {address} runs nothing ({_join_lines(error)})") from None
                check_version(version, f"Ray's node {address}")
                if problem:
                    raise BadInput(f"Ray's node {address}: {problem}")
                if not is_seen:
                    blind_nodes.append(address)
        return blind_nodes


def find_store_problem(url: str) -> str:
    """Return why this host can never use a remote store; empty if it can, or if the store does not answer now."""
    try:
        RemoteStore(ObjectStorage(url)).connect()
    except BadInput as error:
        return f"{error} A node has the environment of its 'ray start'."
    except StorageUnavailable:  # jobs wait for it, or go on without it
        pass
    return ""


def check_version(version: str, host: str) -> None:
    """Check that a host has the version of lightexp that this process has.

    Args:
        version: That host's; empty if it has none.
        host: The host, at the start of a sentence.

    Raises:
        BadInput: If it is another one.
    """
    if version != __version__:
        actual = f"lightexp {version}" if version else "no lightexp"
        raise BadInput(f"{host} has {actual}, {platform.node()} {__version__}. Install the same version on all hosts.")


def is_connected() -> bool:
    """Return whether this process is connected to a cluster, be it one that it has started."""
    is_initialized = getattr(sys.modules.get("ray"), "is_initialized", None)  # missing while another thread imports it
    return is_initialized is not None and bool(is_initialized())


def list_resources() -> list[dict[str, float]]:
    """Return the resources of each living node of the cluster that this process is connected to."""
    return [node["Resources"] for node in _list_nodes()]


def describe_shortage(nodes: Sequence[Mapping[str, float]], remote: Mapping[str, Any], workers: int) -> str | None:
    """Return a line for the user if fewer than `workers` jobs fit on some nodes at a time; None if all fit.

    Args:
        nodes: The resources of each.
        remote: Options of the jobs.
        workers: The number of jobs.
    """
    slots = count_slots(nodes, remote)
    if slots >= workers:
        return None
    request = ", ".join(f"{name}={amount:g}" for name, amount in _list_requests(remote).items())
    if slots:
        return f"Ray's nodes have room for {slots} of {workers} workers ({request} each); the others wait for room."
    largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in _list_requests(remote)}
    offered = ", ".join(f"{name}={amount:g}" for name, amount in largest.items())
    return (
        f"No node of Ray has room for a worker ({request}): the largest has {offered}. Everything waits until such a "
        "node joins. Else press Ctrl-C and change +hydra.launcher.ray.remote."
    )


def count_slots(nodes: Iterable[Mapping[str, float]], remote: Mapping[str, Any]) -> int:
    """Count the jobs that fit on some nodes at a time.

    Args:
        nodes: The resources of each.
        remote: Options of the jobs.

    Example:
        >>> count_slots([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}], {"num_cpus": 2})
        3
        >>> count_slots([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 3.0}], {"num_cpus": 2, "num_gpus": 1})
        1
    """
    requests = _list_requests(remote)
    if not requests:
        return sys.maxsize
    return sum(int(min(node.get(name, 0.0) / amount for name, amount in requests.items())) for node in nodes)


def _list_requests(remote: Mapping[str, Any]) -> dict[str, float]:
    """Return the amount of each resource that a job takes; a task takes one CPU if it does not say."""
    amounts = {name: remote.get(option) for option, name in _RESOURCES.items()}
    amounts |= {"CPU": remote.get("num_cpus", 1), **remote.get("resources", {})}
    return {name: float(amount) for name, amount in amounts.items() if amount}


def _list_nodes() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own
    return [node for node in nodes if node["Alive"]]


def _join_lines(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{text[:_ERROR_CHARS]} ..." if len(text) > _ERROR_CHARS else text
