"""`lightexp search` as a user types it, from the plan to a front that `lightexp run` makes again."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightexp.core.record import read_record
from tests.search.studies import COMMAND, LEVEL, Studies

WORDS = ["search.trials=5", "search.workers=2", "search.constraints=['faulty/level <= 0.9', 'accuracy/val >= control']"]


@dataclass
class Story:
    """A study that was planned, run and planned again."""

    study: Studies
    before: subprocess.CompletedProcess[str]
    done: subprocess.CompletedProcess[str]
    after: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    study = Studies(tmp_path_factory.mktemp("command"))
    before = study.run(*WORDS, "--plan")
    assert not (study.outputs / "searches").exists()
    return Story(study, before, study.run(*WORDS), study.run("--plan", *WORDS))


def test_the_plan_tells_space_corners_and_store_and_runs_nothing(story: Story) -> None:
    assert (story.before.returncode, story.after.returncode) == (0, 0), story.before.stderr
    assert re.search(rf"{re.escape(LEVEL)} +0.1 to 1", story.before.stdout)
    assert re.search(r"recipe +faulty +0 of 2", story.before.stdout)
    assert re.search(r"recipe +faulty +2 of 2", story.after.stdout)
    assert "Goals: min faulty/error; min size/file_bytes; faulty/level <= 0.9" in story.before.stdout
    assert "5 trials on 2 workers of 1 threads; the study has 0 trials." in story.before.stdout
    assert "the study has 5 trials." in story.after.stdout


def test_the_front_is_tested_once_and_trials_never(story: Story) -> None:
    assert story.done.returncode == 0, story.done.stderr
    searches = story.study.outputs / "searches" / "tried"
    for folder in (searches / "trials").iterdir():
        figures = read_record(folder).metrics
        assert not [name for name in figures if name.endswith("/test")]
        assert "size/file_bytes" in figures and "size/gzip_bytes" not in figures  # nobody asks for it in this study
    front = story.study.front()["front"]
    assert [point["trial"] for point in front] == sorted(
        (t.number for t in story.study.trials() if t.params[LEVEL] <= 0.9),
        key=lambda number: -story.study.trials()[number].params[LEVEL],
    )
    assert all({"accuracy/test", "size/gzip_bytes"} <= set(point["figures"]) for point in front)
    table = (searches / "front.md").read_text().splitlines()
    assert table[0].startswith("| Trial | faulty/error | File bytes | Accuracy val | Accuracy test |")
    assert len(table) == 2 + len(front)
    assert (searches / "front.svg").read_text().startswith("<?xml")


def test_the_front_is_shown_with_what_to_type_next(story: Story) -> None:
    assert "5 trials done, 0 failed, 1 beyond a constraint; hypervolume" in story.done.stdout
    assert story.study.front()["front"][0]["command"] in story.done.stdout


def test_a_points_config_makes_the_same_bytes_again(story: Story) -> None:
    point = story.study.front()["front"][0]
    made = story.study.outputs / "searches" / "tried" / "front" / f"trial_{point['trial']:04d}" / "model.tflite"
    elsewhere = story.study.folder / "elsewhere"
    words = [str(COMMAND), *shlex.split(point["command"])[1:], f"paths.outputs={elsewhere}"]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=story.study.folder, env=story.study.environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    (again,) = elsewhere.glob("runs/*/model.tflite")
    assert again.read_bytes() == made.read_bytes()
    assert read_record(again.parent).metrics["accuracy/test"] == point["figures"]["accuracy/test"]
    assert "--config-name=" in read_record(again.parent).command
    assert OmegaConf.load(Path(point["config"])).runtime.threads == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([f"{LEVEL}=interval(0.9,0.5)"], f"search.space: {LEVEL}=interval(0.9,0.5) is empty or reversed."),
        (["search.sampler=grid"], "search.sampler=grid needs choices or steps."),
        (["--plam"], "--plam is not a flag of lightexp search: did you mean '--plan'?"),
        (
            ["search.storage=postgresql://127.0.0.1:1/studies"],
            "search.storage: postgresql://127.0.0.1:1/studies",
        ),
        (["seed=1"], "search.study: 'tried' was made with seed=0. Received: 1."),
    ],
)
def test_bad_input_is_one_line_and_2(story: Story, words: list[str], expected: str) -> None:
    done = story.study.run(*WORDS, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"lightexp: {expected}")
    assert done.stderr.count("\n") == 1


def test_help_names_presets_and_settings() -> None:
    done = subprocess.run([str(COMMAND), "search", "--help"], capture_output=True, text=True, check=True)
    for word in ("prune_quantize", "interval(", "max_failures: 10", "--plan", "control - 0.01"):
        assert word in done.stdout
