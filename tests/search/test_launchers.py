"""`lightexp run -m hydra/sweeper=lightexp`: Hydra's launchers start the workers of a study."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from lightexp.core.records import load_records
from tests.search.launchers import launcher
from tests.search.studies import COMMAND, LEVEL, MODE, PATIENCE, SECONDS, Studies, alive, children, until

FIELDS = ["study=tried", "objectives=[faulty/error,size/file_bytes]"]


class Swept(Studies):
    """The studies of a sweeper."""

    def command(self, *words: str) -> list[str]:
        own = [word for word in self.words if not word.startswith("search")]
        fields = ["hydra/sweeper=lightexp", *(f"hydra.sweeper.{field}" for field in FIELDS)]
        return [str(COMMAND), "run", "-m", *self.flags, *own, *fields, *words]

    def logs(self) -> list[str]:
        """One for each process that has worked on it."""
        return [path.name for path in (self.outputs / "searches" / "tried" / "workers").iterdir()]


def test_a_failed_trial_stops_no_other_and_search_goes_on_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Swept(tmp_path)
    words = [f"{LEVEL}=interval(0.1,1)", f"{MODE}=fine,raise"]
    with launcher("joblib", monkeypatch) as chosen:
        limit = "hydra.sweeper.constraints=['faulty/level <= 0.9']"
        done = study.run(*chosen, *words, "hydra.sweeper.trials=8", "hydra.sweeper.workers=2", limit)
    assert done.returncode == 0, done.stderr
    assert "hypervolume" in done.stdout
    trials = study.trials()
    assert [t.user_attrs.get("corner") for t in trials[:2]] == ["recipe", "strongest"]
    ended = {mode: {t.state for t in trials if t.params.get(MODE) == mode} for mode in ("fine", "raise")}
    assert ended == {"fine": {TrialState.COMPLETE}, "raise": {TrialState.FAIL}}
    assert len(trials) == 8 and len(study.logs()) >= 2
    assert all(t.constraints for t in trials if t.state is TrialState.COMPLETE)
    assert "accuracy/test" in study.front()["front"][0]["figures"]
    search = Studies(tmp_path)
    search.words[0] = "search=_settings"  # no preset: what the command line says, as for a sweeper
    fields = [f"search.{field}" for field in FIELDS[1:]]
    more = search.run(*words, *fields, limit.replace("hydra.sweeper", "search"), "search.trials=9")
    assert more.returncode == 0, more.stderr
    assert len(study.trials()) == 9


def states(study: Swept) -> list[TrialState]:
    return [t.state for t in study.trials()]


def test_ctrl_c_has_jobs_of_submitit_finish_their_trials_and_mlflow_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Swept(tmp_path, tracking="mlflow")
    with launcher("submitit_local", monkeypatch) as chosen:
        process = study.start(*chosen, f"{LEVEL}=interval(0.1,1)", f"{SECONDS}=1")
        until(lambda: states(study)[:1] == [TrialState.COMPLETE], process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "trials done" in out and "The running trials are being finished" in err
    assert err.count("Interrupted") == 1
    begun = [state for state in states(study) if state is not TrialState.WAITING]  # it may have been between trials
    assert set(begun) == {TrialState.COMPLETE} and len(begun) < 5
    parent, *trials = study.mlflow()
    assert [run.data.tags["mlflow.parentRunId"] for run in trials] == [parent.info.run_id] * len(begun)
    assert (parent.info.status, {run.info.status for run in trials}) == ("KILLED", {"FINISHED"})
    assert list(study.outputs.glob("sweeps/*/.submitit/*/*_log.err"))


def test_ctrl_c_twice_has_two_workers_of_a_local_ray_drop_their_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Swept(tmp_path)
    with launcher("ray", monkeypatch) as chosen:
        words = ["hydra.sweeper.trials=6", "hydra.sweeper.workers=2", f"{SECONDS}=60"]
        process = study.start(*chosen, f"{LEVEL}=interval(0.1,1)", *words)
        until(lambda: states(study)[:2] == [TrialState.RUNNING] * 2, process)
        os.killpg(process.pid, signal.SIGINT)
        until(lambda: "being finished" in process.stderr.readline(), process)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert set(states(study)) == {TrialState.WAITING}
    assert len(study.logs()) == 2


def test_a_job_that_dies_is_replaced_and_jobs_end_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Swept(tmp_path)
    words = [f"{LEVEL}=interval(0.1,1)", "hydra.sweeper.trials=40", "hydra.sweeper.workers=2", f"{SECONDS}=0.5"]
    with launcher("joblib", monkeypatch) as chosen:
        process = study.start(*chosen, *words)

    def begun(count: int) -> bool:
        return sum(t.state is TrialState.COMPLETE for t in study.trials()) >= count

    until(lambda: begun(2), process)
    first = jobs(process)
    os.kill(first[0], signal.SIGKILL)
    replaced = until(lambda: [pid for pid in jobs(process) if pid not in first], process)
    assert not alive(first[0])
    done = len(study.trials())
    until(lambda: begun(done + 2), process)
    process.kill()
    end = time.monotonic() + PATIENCE
    while any(alive(job) or children(job) for job in replaced) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [job for job in replaced if alive(job) or children(job)]
    assert "A job of the launcher has failed" in process.communicate()[1]
    assert not [t for t in study.trials() if t.state is TrialState.FAIL]
    assert len(study.trials()) < 40


def jobs(process: subprocess.Popen[str]) -> list[int]:
    """The launcher's processes that have a worker."""
    below = [path.read_text().split() for path in Path(f"/proc/{process.pid}/task").glob("*/children")]
    return [int(pid) for found in below for pid in found if children(int(pid))]


def test_a_grids_jobs_run_in_a_launchers_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Studies(tmp_path)
    own = [word for word in grid.words if not word.startswith("search")]
    with launcher("joblib", monkeypatch) as chosen:
        done = subprocess.run(
            [str(COMMAND), "run", "-m", *grid.flags, *own, *chosen, f"{LEVEL}=0.5", f"{MODE}=fine,raise"],
            cwd=tmp_path,
            env=grid.environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "it broke" in done.stderr.splitlines()[-1]
    assert sorted(record.status for record in load_records(grid.outputs)[0]) == ["done", "failed"]
    assert f"{MODE}=fine" in done.stdout  # the table of what is done, though other processes did it


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([f"{LEVEL}=interval(0.9,0.5)"], f"search.space: {LEVEL}=interval(0.9,0.5) is empty or reversed."),
        ([f"{LEVEL}=interval(0.1,1)", "hydra.sweeper.trials=0"], "search.trials"),
        ([f"{LEVEL}=interval(0.1,1)", "hydra/launcher=joblob"], "hydra/launcher=joblob: no such choice, did you mean"),
    ],
)
def test_bad_input_is_one_line_and_2(tmp_path: Path, words: list[str], expected: str) -> None:
    done = Swept(tmp_path).run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"lightexp: {expected}")
    assert done.stderr.count("\n") == 1
