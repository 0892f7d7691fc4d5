"""Tests of latency, and that only one process of the host measures at a time."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from lightexp.core.protocols import MeasurementContext
from lightexp.execution.locks import host_lock
from lightexp.metrics.latency import Latency
from tests.metrics import tiny_models

HOLD = """
import time
from lightexp.execution.locks import host_lock
with host_lock():
    print(time.monotonic_ns(), flush=True)
    time.sleep(0.3)
    print(time.monotonic_ns())
"""


@pytest.fixture(autouse=True)
def private_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a private lock: other tests on this host may hold the real one."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def context(tmp_path: Path) -> MeasurementContext:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("conv"))
    return MeasurementContext(path, path, tiny_models.make_data("conv"), 2)


def test_percentiles_are_positive_and_ordered(context: MeasurementContext) -> None:
    p50, p95 = Latency(warmup=5, runs=50).measure(context)
    assert (p50.name, p95.name) == ("latency/p50_us", "latency/p95_us")
    assert 0 < p50.value <= p95.value < 1e6
    assert p50.unit == "µs" and p50.direction == "min"


def test_lock_excludes_other_processes(context: MeasurementContext) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = sorted(tuple(map(int, p.communicate(timeout=30)[0].split())) for p in processes)
    assert times[0][1] <= times[1][0]


def test_measure_waits_for_lock(context: MeasurementContext) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        Latency(warmup=0, runs=1).measure(context)
        done = time.monotonic_ns()
        assert done > int(other.stdout.readline())
    assert Path(host_lock().lock_file).stat().st_mode & 0o777 == 0o666
