"""Plots of a study: text as text, picks, bounds and the reference point."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.search import parameter_plots, plots
from lightexp.search.goals import SearchObjective, parse_constraints
from lightexp.search.study_status import compute_status
from tests.search.trials import CONTROL, OBJECTIVES, SCHEME, SPARSITY, make_status, make_trials

POINTS = [(0.90, 4_000.0), (0.89, 1_000.0), (0.60, 800.0), (0.55, 3_000.0), (0.95, 9_000.0)]
CONSTRAINT = "size/file_bytes <= 5000"
IMPORTANCE = {objective.name: {SPARSITY: 0.7, SCHEME: 0.3} for objective in OBJECTIVES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with every plot."""
    path = tmp_path_factory.mktemp("plots")
    status = make_status(POINTS, [CONSTRAINT])
    plots.draw_front(OBJECTIVES, parse_constraints([CONSTRAINT], CONTROL), status, path / "front.svg", "tried")
    plots.draw_history(OBJECTIVES, status, path / "hypervolume.svg")
    parameter_plots.draw_importance(IMPORTANCE, path / "importance.svg", "importance")
    parameter_plots.draw_slices(OBJECTIVES, status, IMPORTANCE, path / "slices.svg")
    parameter_plots.draw_parallel(OBJECTIVES, status, IMPORTANCE, path / "parallel.svg")
    return path


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("front", ["best", "knee", "smallest", "infeasible", "4 KiB", "size/file_bytes &lt;= 5000", "tried"]),
        ("hypervolume", ["reference point: Accuracy val 50.00% (guessing), File bytes 1,000 (control)"]),
        ("importance", ["prune.sparsity", "quantize.scheme", "accuracy/val", "importance (PED-ANOVA), 1 in sum"]),
        ("slices", ["prune.sparsity", "int8", "dynamic", "Accuracy val", "File bytes", "front"]),
        ("parallel", ["prune.sparsity", "int8", "dynamic", "8.79 KiB", "95.00%", "infeasible"]),
    ],
)
def test_plot_writes_its_texts_as_text(name: str, texts: list[str], folder: Path) -> None:
    svg = (folder / f"{name}.svg").read_text()
    assert "mathdefault" not in svg
    assert [text for text in texts if f">{text}<" not in svg] == []


def test_plots_of_a_study_without_trials_are_written(tmp_path: Path) -> None:
    status = make_status([])
    plots.draw_front(OBJECTIVES, (), status, tmp_path / "front.svg", "tried")
    plots.draw_history(OBJECTIVES, status, tmp_path / "hypervolume.svg")
    parameter_plots.draw_importance({}, tmp_path / "importance.svg", "importance")
    parameter_plots.draw_slices(OBJECTIVES, status, {}, tmp_path / "slices.svg")
    parameter_plots.draw_parallel(OBJECTIVES, status, {}, tmp_path / "parallel.svg")
    assert "needs ten complete trials" in (tmp_path / "importance.svg").read_text()
    assert len(list(tmp_path.glob("*.svg"))) == 5


def test_front_names_the_nearest_trial_if_none_is_feasible(tmp_path: Path) -> None:
    plots.draw_front(OBJECTIVES, (), make_status(POINTS, ["size/file_bytes <= 9"]), tmp_path / "front.svg", "tried")
    svg = (tmp_path / "front.svg").read_text()
    assert ">nearest<" in svg
    assert ">best<" not in svg


def test_front_of_one_and_of_three_objectives(tmp_path: Path) -> None:
    macs = SearchObjective("compute/macs", "min")
    for objectives in (OBJECTIVES[:1], (*OBJECTIVES, macs)):
        trials = make_trials(POINTS)
        for trial in trials:
            trial.values = [*trial.values, 7.0][: len(objectives)]
        path = tmp_path / f"{len(objectives)}.svg"
        plots.draw_front(objectives, (), compute_status(trials, objectives), path, "tried")
    assert ">trial<" in (tmp_path / "1.svg").read_text()
    assert ">tried (2 of 3 objectives)<" in (tmp_path / "3.svg").read_text()


def test_settings_that_some_trials_lack_leave_gaps(tmp_path: Path) -> None:
    trials = make_trials(POINTS)
    trials[0].params, trials[0].distributions = {}, {}  # a seed trial
    for path, draw in (("p.svg", parameter_plots.draw_parallel), ("s.svg", parameter_plots.draw_slices)):
        draw(OBJECTIVES, compute_status(trials, OBJECTIVES), IMPORTANCE, tmp_path / path)
        assert ">int8<" in (tmp_path / path).read_text()


def test_plots_of_a_long_study_draw_some_trials_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameter_plots, "MAX_DRAWN", 10)
    status = make_status([*POINTS, *[(0.5, 9_000.0 + n) for n in range(95)]])
    parameter_plots.draw_slices(OBJECTIVES, status, IMPORTANCE, tmp_path / "slices.svg")
    parameter_plots.draw_parallel(OBJECTIVES, status, IMPORTANCE, tmp_path / "parallel.svg")
    drawn = len(status.front) + 10
    for name in ("slices", "parallel"):
        assert f">{drawn} of 100 trials, the whole front among them<" in (tmp_path / f"{name}.svg").read_text()
