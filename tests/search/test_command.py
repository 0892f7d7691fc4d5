"""`lightexp search` as a user types it, from the plan to a front whose points `lightexp run` repeats."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightexp.core.record import read_record
from tests.command_server import run_command
from tests.dead_runs import write_dead_run
from tests.run_records import load_records
from tests.search.studies import COMMAND, LEVEL, PATIENCE_S, PLUGIN, Studies, write_arrays

OVERRIDES = [
    "search.trials=5",
    "search.workers=2",
    "search.constraints=['faulty/level <= 0.9', 'accuracy/val >= control']",
]


@dataclass
class Session:
    """A study that was planned, run and planned again."""

    study: Studies
    plan_before: subprocess.CompletedProcess[str]
    search: subprocess.CompletedProcess[str]
    plan_after: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, copy_database: Callable[[Path], None]) -> Session:
    study = Studies(tmp_path_factory.mktemp("command"), tracking="mlflow")
    study.overrides.append(f"store.remote=file://{study.folder / 'remote'}")
    copy_database(study.outputs)
    write_dead_run(study.outputs / "runs", "dead")
    plan_before = study.run(*OVERRIDES, "--plan")
    assert not (study.outputs / "searches").exists()
    return Session(study, plan_before, study.run(*OVERRIDES), study.run("--plan", *OVERRIDES))


def test_plan_shows_space_seed_trials_and_store(session: Session) -> None:
    before, after = session.plan_before, session.plan_after
    assert (before.returncode, after.returncode) == (0, 0), before.stderr
    assert re.search(rf"{re.escape(LEVEL)} +0.1 to 1", before.stdout)
    assert re.search(r"recipe +faulty +0 of 2", before.stdout)
    assert re.search(r"recipe +faulty +2 of 2", after.stdout)
    assert "Goals: min faulty/error; min size/file_bytes; faulty/level <= 0.9" in before.stdout
    assert "5 trials on 2 workers of 1 thread; the study has 0 trials." in before.stdout
    assert "the study has 5 trials." in after.stdout


def test_search_closes_dead_runs(session: Session) -> None:
    assert read_record(session.study.outputs / "runs" / "dead").status == "killed"


def test_front_is_tested_once_and_trials_never(session: Session) -> None:
    assert session.search.returncode == 0, session.search.stderr
    folder = session.study.outputs / "searches" / "tried"
    for trial_folder in (folder / "trials").iterdir():
        metrics = read_record(trial_folder).metrics
        assert not [name for name in metrics if name.endswith("/test")]
        assert "size/file_bytes" in metrics
        assert "size/gzip_bytes" not in metrics  # no goal of this study needs it
    front = session.study.read_front()["front"]
    trials = session.study.list_trials()
    feasible = [trial for trial in trials if trial.params[LEVEL] <= 0.9]
    assert [point["trial"] for point in front] == [
        trial.number for trial in sorted(feasible, key=lambda trial: -trial.params[LEVEL])
    ]
    assert all({"accuracy/test", "size/gzip_bytes"} <= set(point["metrics"]) for point in front)
    table = (folder / "front.md").read_text().splitlines()
    assert table[0].startswith("| Trial | faulty/error | File bytes | Accuracy val | Accuracy test |")
    assert len([line for line in table if line.startswith("|")]) == 2 + len(front)
    assert "the file after 'faulty' is no better than" in table[-1]
    assert (folder / "front.svg").read_text().startswith("<?xml")


def test_front_is_shown_with_the_command_that_repeats_it(session: Session) -> None:
    assert (
        "5 trials done, 0 failed, 4 no better than guessing; 1 beyond faulty/level <= 0.9; hypervolume"
        in session.search.stdout
    )
    data = session.study.read_front()
    assert f"{data['front'][0]['command']}   # best" in session.search.stdout
    assert data["front"][0]["picks"][0] == "best"
    assert data["infeasible"] == {"faulty/level <= 0.9": 1}
    for name in ("front", "hypervolume", "importance", "slices", "parallel"):
        assert "mathdefault" not in (session.study.outputs / "searches" / "tried" / f"{name}.svg").read_text()


def test_pick_prints_the_command_of_one_trial(session: Session) -> None:
    front = session.study.read_front()["front"]
    smallest = next(point for point in front if "smallest" in point["picks"])
    before = Path(smallest["config"]).read_text()
    pick = session.study.run(*OVERRIDES, "--pick", "smallest")
    assert (pick.returncode, pick.stdout) == (0, f"{smallest['command']}\n"), pick.stderr
    assert f"trial {smallest['trial']}: " in pick.stderr
    assert Path(smallest["config"]).read_text() == before


def test_pick_takes_the_settings_from_the_study(session: Session) -> None:
    smallest = next(point for point in session.study.read_front()["front"] if "smallest" in point["picks"])

    def pick(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = ["search", "--pick", "smallest", "search.study=tried", *overrides]
        return run_command(command, session.study.folder, session.study.environment(), PATIENCE_S)

    picked, other = pick(), pick("seed=1")
    assert (picked.returncode, picked.stdout) == (0, f"{smallest['command']}\n"), picked.stderr
    assert (other.returncode, "was made with seed=0" in other.stderr) == (2, True), other.stderr


def test_config_of_a_point_repeats_the_same_bytes(session: Session) -> None:
    point = session.study.read_front()["front"][0]
    folder = session.study.outputs / "searches" / "tried" / "front" / f"trial_{point['trial']:04d}"
    outputs = session.study.folder / "repeated"
    arguments = [*shlex.split(point["command"])[1:], f"paths.outputs={outputs}"]
    run = run_command(arguments, session.study.folder, session.study.environment(), PATIENCE_S)
    assert run.returncode == 0, run.stderr
    (repeated,) = outputs.glob("runs/*/model.tflite")
    assert repeated.read_bytes() == (folder / "model.tflite").read_bytes()
    assert read_record(repeated.parent).metrics["accuracy/test"] == point["metrics"]["accuracy/test"]
    assert "--config-name=" in read_record(repeated.parent).command
    assert OmegaConf.load(Path(point["config"])).runtime.threads == 1


def test_a_host_without_outputs_runs_a_point(session: Session, tmp_path: Path) -> None:
    def call(*arguments: str) -> str:
        result = run_command(arguments, tmp_path, session.study.environment(), PATIENCE_S)
        assert (result.returncode, "missing in" in result.stderr) == (0, False), result.stderr
        return result.stdout

    remote = f"store.remote=file://{session.study.folder / 'remote'}"
    uri = f"sqlite:///{session.study.outputs / 'mlflow.db'}"
    call("report", f"tracking.uri={uri}", "tracking.experiment=lightexp", "out=r")
    rows = list(csv.DictReader((tmp_path / "r" / "runs.csv").read_text().splitlines()))
    front = session.study.read_front()["front"]
    assert [row["row"] for row in rows] == [f"tried, trial {number}" for number in sorted(p["trial"] for p in front)]
    lines = call("store", "pull", rows[0]["id"], remote).splitlines()
    (again,) = (line for line in lines if line.startswith("Again "))
    call(*shlex.split(again)[2:])
    (record,) = [record for record in load_records(tmp_path / "outputs")[0] if record.id != rows[0]["id"]]
    assert all(stage.from_store for stage in record.stages)
    files = [path.read_bytes() for path in tmp_path.glob("outputs/runs/*/model.tflite")]
    assert len(files) == 2 and files[0] == files[1]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([f"{LEVEL}=interval(0.9,0.5)"], f"search.space: {LEVEL}=interval(0.9,0.5) is empty or reversed."),
        (["search.sampler=grid"], "search.sampler=grid needs choices or steps."),
        (["--plam"], "--plam is not a flag of lightexp search: did you mean '--plan'?"),
        (
            ["search.storage=postgresql://127.0.0.1:1/studies"],
            "search.storage: postgresql://127.0.0.1:1/studies",
        ),
        (["--pick", "knees"], "--pick knees: write best, knee, smallest or the number of a trial that is done: "),
        (["--pick", "knee", "search.study=other"], "--pick knee takes a trial of a study, but 'other' has no trials"),
        (
            ["search.study=inf"],
            "search.study: Input should be a valid string. Received: inf. Text that reads as a number",
        ),
        (["--pick", "0", "seed=1"], "search.study: 'tried' was made with seed=0. This command's is 1. Repeat the"),
        (["seed=1"], "search.study: 'tried' was made with seed=0. This command's is 1."),
    ],
)
def test_bad_input_exits_2_with_one_line(session: Session, overrides: list[str], expected: str) -> None:
    search = session.study.run(*OVERRIDES, *overrides)
    assert (search.returncode, search.stdout) == (2, "")
    assert search.stderr.startswith(f"lightexp: {expected}")
    assert search.stderr.count("\n") == 1


def test_unusable_remote_store_is_bad_input(session: Session, tmp_path: Path) -> None:
    (tmp_path / "lightexp-store.json").write_text('{"format": 2}')
    result = session.study.run(*OVERRIDES, f"store.remote=file://{tmp_path}", "search.trials=6")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "is of format 2" in result.stderr
    (tmp_path / "lightexp-store.json").write_text("<html>")
    plan = session.study.run(*OVERRIDES, f"store.remote=file://{tmp_path}", "--plan")
    assert plan.returncode == 0
    assert "a proxy may have answered" in plan.stderr


def test_search_of_a_model_file_ends_in_a_front(tmp_path: Path) -> None:
    study = Studies(tmp_path)
    place = [f"model.path={PLUGIN / 'tiny.tflite'}", f"dataset.path={write_arrays(tmp_path)}", "runtime.threads=1"]
    study.overrides = ["search=mixed_precision", "model=from_file", "dataset=arrays", "tracking=none", *place]
    study.flags = []
    search = study.run("search.study=bits", "search.trials=4")
    assert search.returncode == 0, search.stderr
    assert study.read_front("bits")["front"]
    assert len(study.list_trials("bits")) == 4


def test_help_names_presets_and_settings() -> None:
    run = subprocess.run([str(COMMAND), "search", "--help"], capture_output=True, text=True, check=True)
    for text in ("prune_quantize", "interval(", "max_failures: 10", "--plan", "control - 0.01"):
        assert text in run.stdout
