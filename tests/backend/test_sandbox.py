"""The sandbox: what is a fact about a file, and what is a failure of this machine."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lightexp.backend import micro, sandbox
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.micro import Micro
from tests.metrics import tiny_models

FAULTS = {
    "raises": ("raise ValueError('of another version')", "ValueError: of another version"),
    "misses": ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
    "exits": ("raise SystemExit(7)", "exit code 7"),
    "crashes": ("import os; os.kill(os.getpid(), 4)", "SIGILL"),
}
"""What a module does when it is imported, and what the error says."""


def list_workers() -> list[int]:
    """Return the process ids of this process' sandboxes that run."""
    pids = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
    return [int(pid) for pid in pids if b"lightexp.backend.sandbox" in Path("/proc", pid, "cmdline").read_bytes()]


def kill_workers() -> None:
    """Kill the sandbox, so that the next call starts a new one."""
    for pid in list_workers():
        os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # its owner has collected it
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def extract(file: Path) -> None:
    sandbox.run_sandboxed("extract", file, np.empty(0, np.float32), out=str(file.parent), limit=10**8)


@pytest.fixture
def tflite(tmp_path: Path) -> Path:
    path = tmp_path / "m.tflite"
    path.write_bytes(tiny_models.make_tflite("dense"))
    return path


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("library", ["numpy", "h5py", "tflite_micro"])  # imported at start, with a module, on call
def test_failed_import_is_an_error_of_the_run(
    library: str, fault: str, tflite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if library == "tflite_micro" and (reason := micro.find_unavailable_reason()):
        pytest.skip(reason)
    libraries = tflite.parent / "libraries"
    libraries.mkdir()
    source, message = FAULTS[fault]
    (libraries / f"{library}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", f"{libraries}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    kill_workers()
    context = MeasurementContext(tflite, tflite, tiny_models.make_data("dense"), 1)
    with pytest.raises(RunFailed, match=r"^[^\n]+lightexp doctor$") as caught:
        extract(tflite) if library == "h5py" else Micro({}).measure(context)
    assert message in str(caught.value)
    kill_workers()


def test_killed_worker_is_an_error_of_the_run(tflite: Path) -> None:
    example = np.zeros((6, 6, 1), np.float32)
    sandbox.run_sandboxed("time_single_example", tflite, example, warmup=1, runs=20)
    killer = threading.Timer(0.2, kill_workers)
    killer.start()
    with pytest.raises(RunFailed, match=r"was killed \(SIGKILL\). It may have run out of memory"):
        sandbox.run_sandboxed("time_single_example", tflite, example, warmup=1, runs=10**9, seconds=1e6)
    killer.join()


def test_file_that_takes_too_long_is_refused(tflite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = np.zeros((6, 6, 1), np.float32)
    sandbox.run_sandboxed("time_single_example", tflite, example, warmup=1, runs=20)
    monkeypatch.setattr(sandbox, "TIME_LIMIT_S", 0.5)
    with pytest.raises(BadInput, match=r"busy for 0.5 s\. Use a smaller model"):
        sandbox.run_sandboxed("time_single_example", tflite, example, warmup=1, runs=10**9, seconds=1e6)


def test_missing_file_is_an_error_of_the_run(tmp_path: Path) -> None:
    if reason := micro.find_unavailable_reason():
        pytest.skip(reason)
    with pytest.raises(RunFailed, match=r"gone.tflite could not be read: FileNotFoundError"):
        micro.measure_arena(tmp_path / "gone.tflite")
