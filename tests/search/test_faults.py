"""Faults in a study: real processes that raise, hang, die and are killed, and what happens to their trials."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.search.studies import LEVEL, MODE, PATIENCE_S, SECONDS, Studies, find_workers, is_alive, wait_until
from tests.small_disk import fill_disk, mount_small_disk

RUNNING, COMPLETE, FAIL = TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL


def test_faulty_trial_fails_with_a_reason_and_others_run(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    modes = f"{MODE}=choice(raise,memory,void,hang,die,fine)"
    limits = ["search.trials=6", "search.trial_timeout=12", "search.corners=[]", "search.sampler=grid"]
    finished = study.run(modes, f"{LEVEL}=choice(0.5)", "search.workers=2", *limits)
    assert finished.returncode == 0, finished.stderr
    reasons = {t.params[MODE]: t.user_attrs["outcome"]["reason"] for t in study.list_trials()}
    assert reasons.pop("fine") is None
    assert re.search(r"faulty\.py, line \d+: ValueError: it broke", reasons.pop("raise"))
    assert "MemoryError: Unable to allocate" in reasons.pop("memory")
    assert "faulty: faulty/error is nan, measured by Padding." in reasons.pop("void")
    assert reasons == {
        "hang": "it overran its time limit of 12 s",
        "die": "its process died 3 times (out of memory?)",
    }
    assert [t.state for t in study.list_trials()].count(FAIL) == 5
    assert "it broke" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_trial_of_a_killed_worker_is_repeated(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    process = study.start(f"{SECONDS}=1.5", "search.trials=3", "search.corners=[]")
    worker = wait_until(lambda: [t for t in study.list_trials() if t.params] and find_workers(process.pid), process)[0]
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    trials = study.list_trials()
    assert [t.state for t in trials] == [COMPLETE] * 3, out + err
    assert [t.user_attrs.get("starts") for t in trials] == [2, None, None]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, copy_database: Callable[[Path], None]) -> dict[str, object]:
    """A study whose command is killed; it is continued, interrupted, tested, continued to its end and shown again."""
    study = Studies(tmp_path_factory.mktemp("story"), tracking="mlflow")
    copy_database(study.outputs)
    overrides = [f"{SECONDS}=1", "search.workers=2", f"{MODE}=choice(fine,raise)", "search.max_failures=99"]
    study.list_mlflow_runs()  # import MLflow before the clock starts
    observed: dict[str, object] = {}
    process = study.start(
        *overrides, "search.trials=99"
    )  # more than can end before MLflow has started, on a busy machine
    workers = wait_until(lambda: len(study.list_mlflow_runs()) > 1 and find_workers(process.pid), process)
    process.kill()
    process.communicate(timeout=120)
    end = time.monotonic() + PATIENCE_S  # a worker that is still starting notices once it has started
    while any(map(is_alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    observed["alive"] = [is_alive(pid) for pid in workers]
    while study.list_mlflow_runs()[0].info.status == "RUNNING" and time.monotonic() < end:
        time.sleep(0.2)
    observed["shown"] = [study.list_mlflow_runs()]
    observed["killed"] = study.list_trials()
    process = study.start(*overrides, "search.trials=99")
    wait_until(lambda: len(study.list_trials()) > len(observed["killed"]) and study.list_trials()[-1].params, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    observed["interrupted"] = (process.returncode, out, err, study.list_trials())
    observed["shown"].append(study.list_mlflow_runs())
    observed["untested"] = list((study.outputs / "searches" / "tried").glob("front*"))
    observed["now"] = study.run(*overrides, "search.trials=99", "search.test=now")
    observed["tested_now"] = (study.list_trials(), study.read_front(), study.list_mlflow_runs())
    overrides.append(f"search.trials={len(study.list_trials()) + 2}")
    observed["end"] = study.run(*overrides)
    observed["shown"].append(study.list_mlflow_runs())
    observed["trials"] = study.list_trials()
    observed["again"] = study.run(*overrides)
    observed["after"] = study.list_trials()
    observed["shown"].append(study.list_mlflow_runs())
    observed["study"] = study
    return observed


def test_workers_die_with_a_killed_command(story: dict) -> None:
    assert story["alive"] == [False, False]
    assert RUNNING in [t.state for t in story["killed"]]


def test_ctrl_c_finishes_running_trials_and_shows_the_front(story: dict) -> None:
    code, out, err, trials = story["interrupted"]
    assert code == 130, err
    assert RUNNING not in [t.state for t in trials]
    assert "Trial" in out
    assert "trials done" in out
    assert "The running trials are being finished" in err
    assert "lightexp: Interrupted. This continues it: lightexp search" in err
    assert "Traceback" not in err


def test_ctrl_c_does_not_use_the_test_split(story: dict) -> None:
    _, out, err, trials = story["interrupted"]
    assert "The front is being tested" not in err
    [hint] = [line for line in err.splitlines() if "The front is not tested yet. This tests it now: " in line]
    assert hint.startswith("lightexp: ") and hint.endswith(" search.test=now")
    assert story["untested"] == []
    assert not any("accuracy/test" in run.data.metrics for run in story["shown"][1])
    best = min((t for t in trials if t.values), key=lambda t: t.values)
    assert f"{best.values[0]:.6g}"[:5] in out  # the front as validation has it is shown


def test_front_of_an_unfinished_study_is_tested_when_asked(story: dict) -> None:
    finished, (trials, front, runs) = story["now"], story["tested_now"]
    assert finished.returncode == 0, finished.stderr
    assert [(t.number, t.state) for t in trials] == [(t.number, t.state) for t in story["interrupted"][3]]
    assert front["front"]
    assert all("accuracy/test" in point["metrics"] for point in front["front"])
    assert runs[0].info.status == "KILLED"  # the study has not ended
    assert sum("accuracy/test" in run.data.metrics for run in runs) == len(front["front"])


def test_study_without_trials_has_no_front_to_test(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    finished = study.run("search.test=now")
    assert finished.returncode == 2
    assert "search.test=now tests the front of a study, but 'tried' has no trials yet. Leave it out" in finished.stderr
    assert not (study.outputs / "searches").exists()


def test_same_command_continues_without_loss_or_repetition(story: dict) -> None:
    assert story["end"].returncode == 0, story["end"].stderr
    trials = story["trials"]
    assert [t.number for t in trials] == list(range(len(story["interrupted"][3]) + 2))
    states = [COMPLETE if t.params[MODE] == "fine" else FAIL for t in trials]
    assert [t.state for t in trials] == states
    proposed = {t.number: t.params for t in story["killed"] if t.params}
    assert {number: trials[number].params for number in proposed} == proposed
    levels = [(t.params[LEVEL], t.params[MODE]) for t in trials]
    assert len(set(levels)) == len(levels)  # no sampler has proposed the same again


def test_finished_study_is_shown_and_not_continued(story: dict) -> None:
    assert story["again"].returncode == 0
    states = [t.state for t in story["trials"]]
    counts = f"{states.count(COMPLETE)} trials done, {states.count(FAIL)} failed"
    assert counts in story["again"].stdout
    assert [(t.number, t.datetime_complete) for t in story["after"]] == [
        (t.number, t.datetime_complete) for t in story["trials"]
    ]


def test_mlflow_has_a_closed_child_run_for_each_trial(story: dict) -> None:
    killed, interrupted, ended, again = story["shown"]
    assert [runs[0].info.status for runs in (killed, interrupted, ended, again)] == [
        "KILLED",
        "KILLED",
        *["FINISHED"] * 2,
    ]
    study, *children = ended
    assert [child.data.tags["lightexp.trial"] for child in children] == [str(n) for n in range(len(story["trials"]))]
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {study.info.run_id}
    for child, trial in zip(children, story["trials"], strict=True):
        assert child.info.status == ("FINISHED" if trial.state is COMPLETE else "FAILED")
        assert child.data.params == {name: str(value) for name, value in trial.params.items()}
        if trial.state is COMPLETE:
            assert [child.data.metrics[n] for n in ("faulty/error", "size/file_bytes")] == trial.values
            assert child.data.metrics["feasible"] == 1.0
        else:
            assert "it broke" in child.data.tags["lightexp.reason"]
    tested = [c.data.tags["lightexp.trial"] for c in children if "accuracy/test" in c.data.metrics]
    assert tested == [c.data.tags["lightexp.trial"] for c in children if c.data.tags["lightexp.front"] == "true"]
    assert sorted(map(int, tested)) == sorted(point["trial"] for point in story["study"].read_front()["front"])
    assert study.data.metrics["trials/done"] == len([t for t in story["trials"] if t.state is COMPLETE])
    assert study.data.params[f"space/{LEVEL}"] == "0.1 to 1"


def test_showing_a_study_again_changes_nothing_in_mlflow(story: dict) -> None:
    def summarize(runs: list) -> list:
        return [(r.info.run_id, r.info.status, r.info.end_time, r.data.metrics, r.data.params) for r in runs[1:]]

    assert summarize(story["shown"][3]) == summarize(story["shown"][2])
    assert story["shown"][3][0].data.metrics == story["shown"][2][0].data.metrics


def test_full_disk_fails_no_trial(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    overrides = [f"{LEVEL}=choice(0.5,1)", "search.trials=2", "search.corners=[]", "search.sampler=grid"]
    with mount_small_disk(study.outputs) as disk:
        filler = fill_disk(disk, spare_pages=16)
        stopped = study.run(*overrides, "search.workers=2")
        trials = study.list_trials()
        filler.unlink()
        finished = study.run(*overrides)
        assert [t.state for t in study.list_trials()] == [COMPLETE] * 2
        assert finished.returncode == 0, finished.stderr
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1].startswith("lightexp: The disk that holds ")
    assert "Traceback" not in stopped.stderr and "traceback" not in stopped.stderr
    assert FAIL not in [t.state for t in trials]


def test_ctrl_c_twice_requeues_running_trials(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    overrides = ["search.trials=1", "search.corners=[]"]
    process = study.start(f"{SECONDS}=60", *overrides)
    workers = wait_until(lambda: [t for t in study.list_trials() if t.params] and find_workers(process.pid), process)
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: "being finished" in process.stderr.readline(), process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not is_alive(workers[0])
    assert [t.state for t in study.list_trials()] == [TrialState.WAITING]
