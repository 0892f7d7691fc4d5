"""Worker processes: messages, arrays, time limits, and their end with the parent."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import lightexp
from lightexp.execution.process import WorkerDied, WorkerProcess, isolated_children

WORKERS = Path(__file__).parent / "workers"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(WORKERS), os.environ.get("PYTHONPATH", "")])}
PATIENCE_S = 60.0
PARENT = """
import json, sys, time
from lightexp.execution.process import WorkerProcess
worker = WorkerProcess("echo_worker")
worker.send({"events": 1, **json.loads(sys.argv[1])})
next(worker.messages())
print(worker.pid, flush=True)
time.sleep(1000)
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs and is no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("echo_worker", environment=ENVIRONMENT)
    yield process
    process.close(0)


@pytest.mark.parametrize("shape", [(0,), (3,), (500, 28, 28, 1)])
@pytest.mark.parametrize("dtype", ["int8", "float32", "int64"])
def test_worker_returns_json_and_arrays(worker: WorkerProcess, shape: tuple[int, ...], dtype: str) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    reply = worker.call({"text": "ä\n", "number": 1.5}, array)
    assert reply.content == {"text": "ä\n", "number": 1.5}
    assert reply.array is not None
    assert (reply.array.dtype, reply.array.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(reply.array, array)
    assert worker.call({}).array is None


def test_worker_events_precede_the_reply(worker: WorkerProcess) -> None:
    events: list[dict[str, int]] = []
    assert worker.call({"events": 3}, on_event=events.append).content == {"events": 3}
    assert events == [{"number": number} for number in range(3)]


def test_worker_finishes_its_request_when_stopped(worker: WorkerProcess) -> None:
    threading.Timer(0.2, worker.request_stop).start()
    assert worker.call({"until_stopped": True}).content == {"until_stopped": True}


def test_dead_worker_is_reported_with_its_cause(worker: WorkerProcess) -> None:
    with pytest.raises(WorkerDied, match=r"its process has ended \(exit code 3\)"):
        worker.call({"exit": 3})
    assert not worker.is_running
    assert worker.exit_code == 3
    with pytest.raises(WorkerDied, match="exit code 3"):
        worker.call({})
    worker.send({})  # is no error
    worker.request_stop()


def test_call_kills_a_worker_at_its_time_limit(worker: WorkerProcess) -> None:
    worker.call({})
    with pytest.raises(WorkerDied, match="SIGKILL"):
        worker.call({"sleep": 1000}, timeout=0.2)


def test_interrupted_call_leaves_no_stale_reply(worker: WorkerProcess) -> None:
    def interrupt(event: dict[str, int]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.call({"events": 1, "old": True}, on_event=interrupt)
    assert worker.call({"new": True}).content == {"new": True}


def test_idle_worker_returns_when_closed(worker: WorkerProcess) -> None:
    worker.call({})
    assert worker.close(PATIENCE_S) == 0


def test_worker_is_idle_once_it_has_replied(worker: WorkerProcess) -> None:
    worker.call({"sleep_after": 0.5})  # has replied, but does not yet wait for the next request
    assert worker.close(PATIENCE_S) == 0


def test_busy_worker_is_terminated_when_its_input_closes(worker: WorkerProcess) -> None:
    worker.send({"events": 1, "sleep": 1000})
    next(worker.messages())
    worker.disconnect()
    assert worker.wait(PATIENCE_S) == -signal.SIGTERM


def test_worker_ends_when_collected() -> None:
    worker = WorkerProcess("echo_worker", environment=ENVIRONMENT)
    pid = worker.pid
    del worker
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "request_text",
    ["{}", '{"sleep": 1000}', '{"ignores_sigterm": true, "sleep": 1000}'],
    ids=["idle", "busy", "held up"],
)
def test_worker_dies_with_a_killed_parent(request_text: str) -> None:
    command = [sys.executable, "-c", PARENT, request_text]
    parent = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize("entry", ["", ".", "../here"])
def test_worker_imports_nothing_from_the_current_folder(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(here)
    python_path = os.pathsep.join([entry, ENVIRONMENT["PYTHONPATH"], entry])
    worker = WorkerProcess("echo_worker", environment={**ENVIRONMENT, "PYTHONPATH": python_path})
    assert worker.call({"a": 1}).content == {"a": 1}
    worker.close()


def test_every_started_python_is_isolated() -> None:
    starts = [
        line.strip()
        for path in Path(lightexp.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "sys.executable" in line
    ]
    assert len(starts) > 3
    assert [line for line in starts if '[sys.executable, "-P", ' not in line] == []


@pytest.mark.parametrize("entry", ["", ".", "../here"])
def test_isolated_children_ignore_the_current_folder(
    entry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([entry, str(WORKERS)]))
    before = dict(os.environ)
    with isolated_children():
        for command in (["-c", "import json, echo_worker"], ["-m", "json.tool", "--help"]):
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    assert dict(os.environ) == before


def test_worker_finds_plugins_in_relative_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugin.py").write_text("")
    monkeypatch.chdir(tmp_path)
    worker = WorkerProcess("echo_worker", environment={**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:."})
    assert worker.call({"import": "my_plugin"}).content == {"import": "my_plugin"}
    worker.close()


def test_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    worker = WorkerProcess("broken", environment={**ENVIRONMENT, "PYTHONPATH": str(tmp_path)})
    with pytest.raises(
        WorkerDied, match=r"\(exit code 1\): ModuleNotFoundError: No module named 'nothing_of_that_name'"
    ):
        worker.call({})


def test_supervisor_ends_the_group_with_its_parent(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    child = f"sleep 1000 & echo $! > {file}.draft && mv {file}.draft {file}; wait"
    supervisor = WorkerProcess("lightexp.execution.supervisor", "sh", "-c", child)
    wait_until(file.exists)
    pid = int(file.read_text())
    assert is_alive(pid)
    supervisor.close(PATIENCE_S)
    wait_until(lambda: not is_alive(pid))


def test_supervisor_exits_as_its_program_does() -> None:
    supervisor = WorkerProcess("lightexp.execution.supervisor", "sh", "-c", "exit 5")
    assert supervisor.wait(PATIENCE_S) == 5
