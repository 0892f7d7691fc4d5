"""What goes wrong in a study: real processes that raise, hang, die and are killed, and what becomes of their trials."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from tests.search.studies import LEVEL, MODE, SECONDS, Studies, alive, children, until

RUNNING, COMPLETE, FAIL = TrialState.RUNNING, TrialState.COMPLETE, TrialState.FAIL


def test_a_trial_that_goes_wrong_has_failed_for_a_reason_and_the_study_goes_on(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    modes = f"{MODE}=choice(raise,memory,void,hang,die,fine)"
    limits = ["search.trials=6", "search.trial_timeout=4", "search.corners=[]", "search.sampler=grid"]
    done = study.run(modes, f"{LEVEL}=choice(0.5)", "search.workers=2", *limits)
    assert done.returncode == 0, done.stderr
    reasons = {t.params[MODE]: t.user_attrs["outcome"]["reason"] for t in study.trials()}
    assert reasons.pop("fine") is None
    assert "faulty.py, line 37: ValueError: it broke" in reasons.pop("raise")
    assert "MemoryError: Unable to allocate" in reasons.pop("memory")
    assert reasons == {
        "void": "faulty/error is nan.",
        "hang": "it overran its time limit of 4 s",
        "die": "its process died 3 times (out of memory?)",
    }
    assert [t.state for t in study.trials()].count(FAIL) == 5
    assert "it broke" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_killed_workers_trial_is_taken_up_again(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    process = study.start(f"{SECONDS}=1.5", "search.trials=3", "search.corners=[]")
    worker = until(lambda: [t for t in study.trials() if t.params] and children(process.pid), process)[0]
    os.kill(worker, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    trials = study.trials()
    assert [t.state for t in trials] == [COMPLETE] * 3, out + err
    assert [t.user_attrs.get("starts") for t in trials] == [2, None, None]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A study whose parent is killed, that is gone on with, interrupted, gone on with to its end, and looked at."""
    study = Studies(tmp_path_factory.mktemp("story"), tracking="mlflow")
    words = [f"{SECONDS}=1", "search.workers=2", f"{MODE}=choice(fine,raise)", "search.max_failures=99"]
    study.mlflow()  # imports it
    seen: dict[str, object] = {}
    process = study.start(*words, "search.trials=99")  # more than end before MLflow is there, on a busy machine
    workers = until(lambda: len(study.mlflow()) > 1 and children(process.pid), process)
    process.kill()
    process.communicate(timeout=120)
    end = time.monotonic() + 20  # one that was still starting finds out when it has
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    seen["alive"] = [alive(pid) for pid in workers]
    while study.mlflow()[0].info.status == "RUNNING" and time.monotonic() < end:
        time.sleep(0.2)
    seen["shown"] = [study.mlflow()]
    seen["killed"] = study.trials()
    process = study.start(*words, "search.trials=99")
    until(lambda: len(study.trials()) > len(seen["killed"]) and study.trials()[-1].params, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    seen["interrupted"] = (process.returncode, out, err, study.trials())
    seen["shown"].append(study.mlflow())
    seen["untested"] = list((study.outputs / "searches" / "tried").glob("front*"))
    seen["now"] = study.run(*words, "search.trials=99", "search.test=now")
    seen["tested_now"] = (study.trials(), study.front(), study.mlflow())
    words.append(f"search.trials={len(study.trials()) + 2}")
    seen["end"] = study.run(*words)
    seen["shown"].append(study.mlflow())
    seen["trials"] = study.trials()
    seen["again"] = study.run(*words)
    seen["after"] = study.trials()
    seen["shown"].append(study.mlflow())
    seen["study"] = study
    return seen


def test_the_workers_of_a_killed_command_die_with_it(story: dict) -> None:
    assert story["alive"] == [False, False]
    assert RUNNING in [t.state for t in story["killed"]]


def test_ctrl_c_finishes_what_is_running_and_reports_what_there_is(story: dict) -> None:
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
    done, (trials, front, runs) = story["now"], story["tested_now"]
    assert done.returncode == 0, done.stderr
    assert [(t.number, t.state) for t in trials] == [(t.number, t.state) for t in story["interrupted"][3]]
    assert front["front"]
    assert all("accuracy/test" in point["figures"] for point in front["front"])
    assert runs[0].info.status == "KILLED"  # the study has not ended
    assert sum("accuracy/test" in run.data.metrics for run in runs) == len(front["front"])


def test_study_without_trials_has_no_front_to_test(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    done = study.run("search.test=now")
    assert done.returncode == 2
    assert "search.test=now tests the front of a study, but 'tried' has no trials yet. Leave it out" in done.stderr
    assert not (study.outputs / "searches").exists()


def test_the_same_command_goes_on_to_the_end_and_nothing_is_lost_or_counted_twice(story: dict) -> None:
    assert story["end"].returncode == 0, story["end"].stderr
    trials = story["trials"]
    assert [t.number for t in trials] == list(range(len(story["interrupted"][3]) + 2))
    states = [COMPLETE if t.params[MODE] == "fine" else FAIL for t in trials]
    assert [t.state for t in trials] == states
    proposed = {t.number: t.params for t in story["killed"] if t.params}
    assert {number: trials[number].params for number in proposed} == proposed
    levels = [(t.params[LEVEL], t.params[MODE]) for t in trials]
    assert len(set(levels)) == len(levels)  # no seed proposed the same again


def test_a_finished_study_is_shown_and_nothing_is_run(story: dict) -> None:
    assert story["again"].returncode == 0
    states = [t.state for t in story["trials"]]
    words = f"{states.count(COMPLETE)} trials done, {states.count(FAIL)} failed"
    assert words in story["again"].stdout
    assert [(t.number, t.datetime_complete) for t in story["after"]] == [
        (t.number, t.datetime_complete) for t in story["trials"]
    ]


def test_mlflow_has_one_run_with_a_child_for_each_trial_and_none_left_open(story: dict) -> None:
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
    assert sorted(map(int, tested)) == sorted(point["trial"] for point in story["study"].front()["front"])
    assert study.data.metrics["trials/done"] == len([t for t in story["trials"] if t.state is COMPLETE])
    assert study.data.params[f"space/{LEVEL}"] == "0.1 to 1"


def test_looking_again_changes_nothing_in_mlflow(story: dict) -> None:
    def seen(runs: list) -> list:
        return [(r.info.run_id, r.info.status, r.info.end_time, r.data.metrics, r.data.params) for r in runs[1:]]

    assert seen(story["shown"][3]) == seen(story["shown"][2])
    assert story["shown"][3][0].data.metrics == story["shown"][2][0].data.metrics


def test_ctrl_c_twice_drops_what_is_running_for_the_next_start(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    words = ["search.trials=1", "search.corners=[]"]
    process = study.start(f"{SECONDS}=60", *words)
    workers = until(lambda: [t for t in study.trials() if t.params] and children(process.pid), process)
    os.killpg(process.pid, signal.SIGINT)
    until(lambda: "being finished" in process.stderr.readline(), process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not alive(workers[0])
    assert [t.state for t in study.trials()] == [TrialState.WAITING]
