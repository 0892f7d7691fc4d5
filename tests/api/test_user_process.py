"""The user's process stays as it is, whatever it has done before and however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.core.record import read_record
from lightexp.core.records import list_trial_folders
from tests.api.snapshots import SNAPSHOT
from tests.cli.commands import PATIENCE, environment, read_records
from tests.command_server import start_warm_python

TINY = "model.width=0.25 pipeline=control pipeline.stages.train.epochs=1 measure=quick tracking=none runtime.threads=1"
LONG = TINY.replace("epochs=1", "epochs=100000")


def run_script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a separate process, as a user does."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.fixture
def warm_workers_line(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the first line of scripts whose workers are forks, for tests that need no worker as users start it."""
    python, variables = start_warm_python()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return f"import sys; sys.executable = {python!r}\n"


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Poll until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize(
    "use",
    [
        "import lightexp",
        f"import lightexp; lightexp.run({TINY!r})",
        "import lightexp\ntry: lightexp.run('modle=lenet5')\nexcept lightexp.BadInput: pass\nelse: raise SystemExit(3)",
    ],
    ids=["import", "run", "bad input"],
)
def test_the_users_process_is_not_changed(use: str, warm_workers_line: str, tmp_path: Path) -> None:
    code = (
        f"{warm_workers_line}{SNAPSHOT}\nbefore, known = take_snapshot(), set(sys.modules)\n{use}\n"
        "after = take_snapshot()\n"
        "print([name for name in before if before[name] != after[name]], list_foreign_modules(known))"
    )
    done = run_script(code, tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("[] []\n", "", 0)


def test_tensorflow_may_have_computed_before(tmp_path: Path) -> None:
    compute = "tf.reduce_sum(tf.ones(3))"
    train = "m.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)"
    run = f"print(lightexp.run({TINY!r}).status)"
    code = (
        f"import tensorflow as tf; {compute}\nimport lightexp\n{run}\n{compute}\n"
        "import keras, numpy as np; m = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2)])\n"
        f"m.compile('sgd', 'mse'); {train}\n{run}\n{train}"
    )
    done = run_script(code, tmp_path)
    assert (done.stdout, done.returncode) == ("done\ndone\n", 0), done.stderr


def start_script(call: str, awaited: str, folder: Path, first_line: str = "") -> subprocess.Popen[str]:
    """Start a script that calls lightexp for hours, and wait until a text is logged."""
    code = (
        f"{first_line}import logging, lightexp\n"
        "logging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        f"try: {call}\n"
        "except KeyboardInterrupt: print('interrupted')\n"
        f"print(lightexp.run({TINY!r}).status)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    while awaited not in (line := process.stderr.readline()):
        assert line, process.communicate()
    return process


def start_long_run(folder: Path, first_line: str = "") -> subprocess.Popen[str]:
    """Start a script whose run takes hours, and wait until it trains."""
    return start_script(f"lightexp.run({LONG!r})", "epoch", folder, first_line)


def list_workers(parent: int) -> list[int]:
    """Return the worker processes of the Python API that a process has started."""
    workers = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            status = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if b"lightexp.api.worker" in command and int(status[1]) == parent and status[0] != "Z":
            workers.append(int(path.name))
    return workers


def test_ctrl_c_interrupts_the_run_and_not_the_script(tmp_path: Path) -> None:
    process = start_long_run(tmp_path)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (output.split(), process.returncode) == (["interrupted", "done"], 0), errors
    assert [record.status for record in read_records(tmp_path / "outputs")] == ["interrupted", "done"]


def test_ctrl_c_ends_a_search_without_testing_the_front(warm_workers_line: str, tmp_path: Path) -> None:
    overrides = f"{TINY} search=mixed_precision search.trials=100000 search.study=long".replace("pipeline=control ", "")
    process = start_script(f"lightexp.search({overrides!r})", "trial 0", tmp_path, warm_workers_line)
    os.kill(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=PATIENCE)
    assert (output.split(), process.returncode) == (["interrupted", "done"], 0), errors
    trials = [read_record(folder) for folder in list_trial_folders(tmp_path / "outputs")]
    assert "done" in [record.status for record in trials]
    assert not list(tmp_path.rglob("front/*/record.json"))


def test_a_worker_ends_with_the_users_process(warm_workers_line: str, tmp_path: Path) -> None:
    process = start_long_run(tmp_path, warm_workers_line)
    [worker] = list_workers(process.pid)
    process.kill()
    process.communicate()
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    wait_until(lambda: [record.status for record in read_records(tmp_path / "outputs")] == ["interrupted"])


def test_a_killed_worker_fails_the_run_alone(warm_workers_line: str, tmp_path: Path) -> None:
    process = start_long_run(tmp_path, warm_workers_line)
    [worker] = list_workers(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    last_line = errors.strip().splitlines()[-1]
    assert "RunFailed: lightexp's worker process has ended (SIGKILL). It may have run out of memory." in last_line


def test_importing_lightexp_is_light_and_lists_the_api(tmp_path: Path) -> None:
    code = (
        "import json, sys, lightexp, lightexp.search.space, lightexp.report.runs\n"
        "from lightexp.search import space\n"
        "print(json.dumps([dir(lightexp), callable(lightexp.search), callable(lightexp.report)]))"
    )
    done = run_script(code, tmp_path)
    names, *are_callable = json.loads(done.stdout)
    assert names == ["BadInput", "RunFailed", "__version__", "ablate", "records", "report", "run", "search"]
    assert are_callable == [True, True]
