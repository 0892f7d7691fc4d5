"""Latency, and that only one process of the host times at a time."""

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
from tests.metrics import tiny

HOLD = """
import time
from lightexp.execution.locks import host_lock
with host_lock():
    print(time.monotonic_ns(), flush=True)
    time.sleep(0.3)
    print(time.monotonic_ns())
"""


@pytest.fixture(autouse=True)
def _a_host_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is the whole host's: a test beside this one would hold it too."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def subject(tmp_path: Path) -> MeasurementContext:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny.flat("conv"))
    return MeasurementContext(path, path, tiny.data("conv"), 2)


def test_percentiles_are_positive_and_in_order(subject: MeasurementContext) -> None:
    p50, p95 = Latency(warmup=5, runs=50).measure(subject)
    assert (p50.name, p95.name) == ("latency/p50_us", "latency/p95_us")
    assert 0 < p50.value <= p95.value < 1e6
    assert p50.unit == "µs" and p50.direction == "min"


def test_two_processes_do_not_hold_the_lock_together(subject: MeasurementContext) -> None:
    both = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = sorted(tuple(map(int, p.communicate(timeout=30)[0].split())) for p in both)
    assert times[0][1] <= times[1][0]


def test_timing_waits_for_the_lock(subject: MeasurementContext) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        Latency(warmup=0, runs=1).measure(subject)
        done = time.monotonic_ns()
        assert done > int(other.stdout.readline())
    assert Path(host_lock().lock_file).stat().st_mode & 0o777 == 0o666
