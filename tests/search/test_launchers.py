"""`lightexp run -m hydra/sweeper=lightexp`: Hydra's launchers start the workers of a study."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.command_server import run_command
from tests.run_records import load_records
from tests.search.launchers import use_launcher
from tests.search.studies import COMMAND, LEVEL, MODE, PATIENCE_S, SECONDS, Studies, find_workers, is_alive, wait_until

FIELDS = ["study=tried", "objectives=[faulty/error,size/file_bytes]"]


class SweptStudies(Studies):
    """Starts studies by `lightexp run -m hydra/sweeper=lightexp`."""

    def command(self, *overrides: str) -> list[str]:
        own = [text for text in self.overrides if not text.startswith("search")]
        fields = ["hydra/sweeper=lightexp", *(f"hydra.sweeper.{field}" for field in FIELDS)]
        return [str(COMMAND), "run", "-m", *self.flags, *own, *fields, *overrides]

    def logs(self) -> list[str]:
        """Return the names of the logs, one for each process that has worked on the study."""
        return [path.name for path in (self.outputs / "searches" / "tried" / "workers").iterdir()]


def test_sweeper_study_is_continued_by_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = SweptStudies(tmp_path)
    overrides = [f"{LEVEL}=interval(0.1,1)", f"{MODE}=fine,raise"]
    with use_launcher("joblib", monkeypatch) as selection:
        limit = "hydra.sweeper.constraints=['faulty/level <= 0.9']"
        finished = study.run(*selection, *overrides, "hydra.sweeper.trials=8", "hydra.sweeper.workers=2", limit)
    assert finished.returncode == 0, finished.stderr
    assert "hypervolume" in finished.stdout
    trials = study.list_trials()
    assert [t.user_attrs.get("corner") for t in trials[:2]] == ["recipe", "strongest"]
    states = {mode: {t.state for t in trials if t.params.get(MODE) == mode} for mode in ("fine", "raise")}
    assert states == {"fine": {TrialState.COMPLETE}, "raise": {TrialState.FAIL}}
    assert len(trials) == 8 and len(study.logs()) >= 2
    assert all(t.constraints for t in trials if t.state is TrialState.COMPLETE)
    assert "accuracy/test" in study.read_front()["front"][0]["metrics"]
    search = Studies(tmp_path)
    search.overrides[0] = "search=_settings"  # no preset: the command line's settings alone, as for a sweeper
    fields = [f"search.{field}" for field in FIELDS[1:]]
    continued = search.run(*overrides, *fields, limit.replace("hydra.sweeper", "search"), "search.trials=9")
    assert continued.returncode == 0, continued.stderr
    assert len(study.list_trials()) == 9


def list_states(study: SweptStudies) -> list[TrialState]:
    return [t.state for t in study.list_trials()]


def test_ctrl_c_drains_jobs_of_submitit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy_database: Callable[[Path], None]
) -> None:
    study = SweptStudies(tmp_path, tracking="mlflow")
    copy_database(study.outputs)
    with use_launcher("submitit_local", monkeypatch) as selection:
        process = study.start(*selection, f"{LEVEL}=interval(0.1,1)", f"{SECONDS}=1")
        wait_until(lambda: list_states(study)[:1] == [TrialState.COMPLETE], process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert "trials done" in out and "The running trials are being finished" in err
    assert err.count("Interrupted") == 1
    started = [state for state in list_states(study) if state is not TrialState.WAITING]
    assert set(started) == {TrialState.COMPLETE} and len(started) < 5
    parent, *trials = study.list_mlflow_runs()
    assert [run.data.tags["mlflow.parentRunId"] for run in trials] == [parent.info.run_id] * len(started)
    assert (parent.info.status, {run.info.status for run in trials}) == ("KILLED", {"FINISHED"})
    assert list(study.outputs.glob("sweeps/*/.submitit/*/*_log.err"))


def test_ctrl_c_twice_requeues_trials_of_ray_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = SweptStudies(tmp_path)
    with use_launcher("ray", monkeypatch) as selection:
        overrides = ["hydra.sweeper.trials=6", "hydra.sweeper.workers=2", f"{SECONDS}=60"]
        process = study.start(*selection, f"{LEVEL}=interval(0.1,1)", *overrides)
        wait_until(lambda: list_states(study)[:2] == [TrialState.RUNNING] * 2, process)
        os.killpg(process.pid, signal.SIGINT)
        wait_until(lambda: "being finished" in process.stderr.readline(), process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert set(list_states(study)) == {TrialState.WAITING}
    assert len(study.logs()) == 2


def test_dead_job_is_replaced_and_jobs_end_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = SweptStudies(tmp_path)
    overrides = [f"{LEVEL}=interval(0.1,1)", "hydra.sweeper.trials=40", "hydra.sweeper.workers=2", f"{SECONDS}=0.5"]
    with use_launcher("joblib", monkeypatch) as selection:
        process = study.start(*selection, *overrides)

    def has_completed(count: int) -> bool:
        return sum(t.state is TrialState.COMPLETE for t in study.list_trials()) >= count

    wait_until(lambda: has_completed(2), process)
    first = find_jobs(process)
    os.kill(first[0], signal.SIGKILL)
    replaced = wait_until(lambda: [pid for pid in find_jobs(process) if pid not in first], process)
    assert not is_alive(first[0])
    count = len(study.list_trials())
    wait_until(lambda: has_completed(count + 2), process)
    process.kill()
    end = time.monotonic() + PATIENCE_S
    while any(is_alive(job) or find_workers(job) for job in replaced) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [job for job in replaced if is_alive(job) or find_workers(job)]
    assert "A job of the launcher has failed" in process.communicate()[1]
    assert not [t for t in study.list_trials() if t.state is TrialState.FAIL]
    assert len(study.list_trials()) < 40


def find_jobs(process: subprocess.Popen[str]) -> list[int]:
    """Return the launcher's processes that have a worker."""
    descendants = [path.read_text().split() for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    return [int(pid) for line in descendants for pid in line if find_workers(int(pid))]


def test_grid_jobs_run_in_a_launchers_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Studies(tmp_path)
    own = [text for text in grid.overrides if not text.startswith("search")]
    with use_launcher("joblib", monkeypatch) as selection:
        arguments = ["run", "-m", *grid.flags, *own, *selection, f"{LEVEL}=0.5", f"{MODE}=fine,raise"]
        finished = run_command(arguments, tmp_path, grid.environment(), PATIENCE_S)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr and "it broke" in finished.stderr.splitlines()[-1]
    assert sorted(record.status for record in load_records(grid.outputs)[0]) == ["done", "failed"]
    assert f"{MODE}=fine" in finished.stdout  # the table has runs of other processes


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([f"{LEVEL}=interval(0.9,0.5)"], f"search.space: {LEVEL}=interval(0.9,0.5) is empty or reversed."),
        ([f"{LEVEL}=interval(0.1,1)", "hydra.sweeper.trials=0"], "search.trials"),
        (
            ["hydra/launcher=ray", "hydra.launcher.ray.init.address=127.0.0.1:1", f"{LEVEL}=interval(0.1,1)"],
            "hydra.launcher.ray.init.address: Ray at 127.0.0.1:1 cannot be used: Connection refused. Is it up",
        ),
        ([f"{LEVEL}=interval(0.1,1)", "hydra/launcher=joblob"], "hydra/launcher=joblob: no such choice, did you mean"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, overrides: list[str], expected: str) -> None:
    finished = SweptStudies(tmp_path).run(*overrides)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith(f"lightexp: {expected}")
    assert finished.stderr.count("\n") == 1
