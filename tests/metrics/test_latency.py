"""Tests of latency, and that only one process of the host measures at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from lightexp.backend import litert
from lightexp.core.latency_quality import list_doubts
from lightexp.core.protocols import MeasurementContext, Metric, Note
from lightexp.execution.locks import host_lock
from lightexp.metrics import latency
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
    measured = Latency(warmup=5, runs=50, seconds=0.2).measure(context)
    p50, p95, *others = [metric for metric in measured if isinstance(metric, Metric)]
    assert (p50.name, p95.name) == ("latency/p50_us", "latency/p95_us")
    assert 0 < p50.value <= p95.value < 1e6
    assert p50.unit == "µs" and p50.direction == "min"
    assert [metric.name for metric in (p50, p95, *others)] == list(Latency.gives)
    assert all(metric.value >= 0 for metric in others)
    assert others[2].value * (os.cpu_count() or 1) >= 1  # this process runs


@pytest.mark.parametrize(
    ("medians", "is_noisy"), [((100, 100, 101, 102, 103), False), ((100, 100, 100, 100, 110), True)]
)
def test_measure_notes_a_noisy_latency(
    medians: tuple[float, ...], is_noisy: bool, context: MeasurementContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = np.repeat([medians], 4, axis=0).T.astype(np.float64)
    monkeypatch.setattr(litert, "time_single_example", lambda *_, **__: times)
    measured = Latency(seconds=1.5).measure(context)
    notes = [item.text for item in measured if isinstance(item, Note)]
    expected = "noisy: medians of batches still differ by 10% after 1.5 s. End what else computes here, or set"
    assert len(notes) == is_noisy and all(note.startswith(expected) for note in notes)
    values = {item.name: item.value for item in measured if isinstance(item, Metric)}
    assert ("noisy" in list_doubts(values)) is is_noisy


@pytest.mark.parametrize("content", [None, "", "0.1 0.2", "0.1 0.2 0.3 x/y 7"])
def test_measure_does_without_the_systems_load(
    content: str | None, context: MeasurementContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "LOADAVG", tmp_path / "loadavg")
    if content is not None:
        (tmp_path / "loadavg").write_text(content)
    measured = Latency(warmup=0, runs=1, seconds=0.1).measure(context)
    assert [item.value for item in measured if item.name == "latency/runnable"] == [0]


def test_lock_excludes_other_processes(context: MeasurementContext) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    times = sorted(tuple(map(int, p.communicate(timeout=30)[0].split())) for p in processes)
    assert times[0][1] <= times[1][0]


def test_measure_waits_for_lock(context: MeasurementContext) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        Latency(warmup=0, runs=1, seconds=0.1).measure(context)
        done = time.monotonic_ns()
        assert done > int(other.stdout.readline())
    assert Path(host_lock().lock_file).stat().st_mode & 0o777 == 0o666
