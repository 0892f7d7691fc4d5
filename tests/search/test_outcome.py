"""Stored outcomes of trials, those of earlier versions included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest

from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import (
    OUTCOME,
    TrialOutcome,
    is_feasible,
    place_on_axes,
    read_outcome,
    read_stopped_epoch,
    upgrade_outcome,
)
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status
from lightexp.stages.quantize import Quantize
from tests.search.studies import PLUGIN, write_arrays

JOURNAL = Path(__file__).parent / "data" / "format_1_journal.log"
"""Four trials that lightexp stored when outcomes named their metrics `figures`."""
QUANTIZE = "pipeline.stages.quantize"


def open_old_study(make_spec: Callable[..., StudySpec], folder: Path, *more: str) -> SearchStudy:
    """Open the study of the committed journal with the command that it was made by."""
    place = [f"dataset.path={write_arrays(folder)}", f"model.path={PLUGIN / 'tiny.tflite'}", "search.study=old"]
    pipeline = ["pipeline=quantize", "~pipeline.stages.train", "pipeline.order=[quantize]", "runtime.threads=1"]
    ranges = [f"{QUANTIZE}.scheme=choice(dynamic,int8)", f"{QUANTIZE}.bits=choice(4,8)"]
    spec = make_spec("search=_settings", "model=from_file", "dataset=arrays", *pipeline, *place, *ranges, *more)
    spec.check()
    _, data = Runner(SilentReporter()).plan(spec.settings)
    space = spec.make_space({})
    spec.folder.mkdir(parents=True, exist_ok=True)
    version = f'{QUANTIZE}.version":"{{}}"'
    journal = JOURNAL.read_text().replace(version.format(2), version.format(Quantize.version))  # its files have changed
    (spec.folder / "journal.log").write_text(journal)
    return SearchStudy(spec, space, spec.folder, print, spec.compute_identity(space, data.key))


def test_study_stored_before_format_2_is_continued(make_spec: Callable[..., StudySpec], tmp_path: Path) -> None:
    study = open_old_study(make_spec, tmp_path, "search.trials=5")
    assert "figures" in study.trials[0].user_attrs[OUTCOME]
    assert [read_outcome(trial).metrics["size/file_bytes"] for trial in study.trials] == [7952, 8544, 6368, 5072]
    status = compute_status(study.trials, study.spec.objectives)
    assert [trial.number for trial in status.front] == [3]
    assert status.history == pytest.approx([0.0807932, 0.0807932, 0.1008539, 0.1213376], abs=1e-3)
    assert study.config_of(study.trials[1]).pipeline.stages.quantize.scheme == "int8"
    proposal = study.ask()
    assert proposal is not None
    assert proposal.trial.number == 4


def test_upgrade_outcome_leaves_present_names() -> None:
    present = asdict(TrialOutcome({"accuracy/val": 0.5}, {"accuracy/val": 0.9}, "why", ["a=1"], "desk", "f", 3, 4))
    assert upgrade_outcome(present) == present
    former = {"figures" if name == "metrics" else name: value for name, value in present.items()}
    assert TrialOutcome(**upgrade_outcome(former)) == TrialOutcome(**present)


@pytest.mark.parametrize(("violation", "expected"), [(-0.5, True), (0.0, True), (0.1, False)])
def test_is_feasible_accepts_a_bound_that_is_met(violation: float, expected: bool) -> None:
    trial = optuna.trial.create_trial(value=1.0, constraints={"a": -1.0, "b": violation})
    assert is_feasible(trial) is expected


def test_place_on_axes_compares_with_the_plain_control() -> None:
    outcome = asdict(TrialOutcome(control={"size/file_bytes": 400.0}, classes=4, stopped=7))
    trial = optuna.trial.create_trial(values=[0.75, 100.0], user_attrs={OUTCOME: outcome})
    objectives = [SearchObjective("accuracy/val", "max"), SearchObjective("size/gzip_bytes", "min")]
    assert place_on_axes([trial], objectives) == {trial.number: ([0.25, -2.0], [0.75, 0.0])}
    assert read_stopped_epoch(trial) == 7


def test_place_on_axes_without_control_takes_the_worst() -> None:
    outcome = asdict(TrialOutcome(classes=4))
    trials = [optuna.trial.create_trial(values=[0.75, us], user_attrs={OUTCOME: outcome}) for us in (8.0, 2.0, 4.0)]
    for number, trial in enumerate(trials):
        trial.number = number
    objectives = [SearchObjective("accuracy/val", "max"), SearchObjective("npu/u55/us", "min")]
    assert [place_on_axes(trials, objectives)[number] for number in range(3)] == [
        ([0.25, 0.0], [0.75, 0.0]),
        ([0.25, -2.0], [0.75, 0.0]),
        ([0.25, -1.0], [0.75, 0.0]),
    ]
    assert place_on_axes([], objectives) == {}
