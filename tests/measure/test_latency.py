"""Latency, and that only one process of the host times at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import Timeout

from lightexp.core.protocols import Subject
from lightexp.measure.latency import Latency, host_lock
from tests.measure import tiny

HOLD = """
import time
from lightexp.measure.latency import host_lock
with host_lock():
    start = time.monotonic_ns()
    time.sleep(0.3)
    print(start, time.monotonic_ns())
"""


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny.flat("conv"))
    return Subject(path, path, tiny.data("conv"), 2)


def test_percentiles_are_positive_and_in_order(subject: Subject) -> None:
    p50, p95 = Latency(warmup=5, runs=50).measure(subject)
    assert (p50.name, p95.name) == ("latency/p50_us", "latency/p95_us")
    assert 0 < p50.value <= p95.value < 1e6
    assert p50.unit == "µs" and p50.direction == "min"


def test_two_processes_do_not_hold_the_lock_together(subject: Subject) -> None:
    both = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = sorted(tuple(map(int, p.communicate(timeout=30)[0].split())) for p in both)
    assert times[0][1] <= times[1][0]


def test_timing_waits_for_the_lock(subject: Subject) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        lock = Path(host_lock().lock_file)
        end = time.monotonic() + 20
        while other.poll() is None and time.monotonic() < end:
            try:
                with host_lock().acquire(timeout=0):
                    time.sleep(0.01)
            except Timeout:
                break
        Latency(warmup=0, runs=1).measure(subject)
        done = time.monotonic_ns()
        assert other.stdout is not None
        assert done > int(other.stdout.read().split()[1])
    assert lock.stat().st_mode & 0o777 == 0o666
