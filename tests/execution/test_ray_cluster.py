"""What a command says of a Ray cluster before it runs on it; `tests/search/test_ray_cluster.py` has a real one."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.version import __version__
from lightexp.execution.ray_cluster import (
    RayCluster,
    check_version,
    describe_shortage,
    find_store_problem,
    is_connected,
)

NODES = [{"CPU": 4.0, "memory": 8e9}, {"CPU": 2.0}]


def test_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(BadInput, match=f"Ray at {address} cannot be used: Connection refused. Is it up"):
        RayCluster({"address": address}, {}).connect(tmp_path)
    with pytest.raises(BadInput, match="cannot be used: Port could not be cast"):
        RayCluster({"address": "HEAD:PORT"}, {}).connect(tmp_path)


@pytest.mark.parametrize(
    ("remote", "workers", "expected"),
    [
        ({}, 6, None),
        ({}, 7, "Ray's nodes have room for 6 of 7 workers (CPU=1 each)"),
        ({"num_cpus": 2}, 4, "room for 3 of 4 workers (CPU=2 each)"),
        ({"num_cpus": 0}, 99, None),
        ({"num_gpus": 1}, 1, "No node of Ray has room for a worker (CPU=1, GPU=1): the largest has CPU=4, GPU=0."),
        ({"num_cpus": 0, "resources": {"board": 1}}, 1, "No node of Ray has room for a worker (board=1)"),
    ],
)
def test_shortage_is_described(remote: dict[str, Any], workers: int, expected: str | None) -> None:
    line = describe_shortage(NODES, remote, workers)
    assert line is expected if expected is None else expected in str(line)


def test_other_versions_are_refused() -> None:
    check_version(__version__, "One host")
    with pytest.raises(BadInput, match=r"^Ray's node 10.0.0.2 has lightexp 0.1.0, .* Install the same version"):
        check_version("0.1.0", "Ray's node 10.0.0.2")
    with pytest.raises(BadInput, match="has no lightexp, "):
        check_version("", "Ray's node 10.0.0.2")


def test_store_that_a_node_can_never_use_is_a_problem(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"file://{tmp_path}"
    assert find_store_problem(url) == ""
    (tmp_path / "lightexp-store.json").write_text('{"format": 99}')
    assert find_store_problem(url).startswith(f"{url} is of format 99; ")
    (tmp_path / "lightexp-store.json").write_text("<html>")  # a proxy, for the moment
    assert find_store_problem(url) == ""


def test_ray_that_another_thread_imports_is_not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    assert not is_connected()
