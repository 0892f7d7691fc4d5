"""What the terminal shows of a study: live, trial by trial, and at its end."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.cli.printing import make_console
from lightexp.cli.study_view import StudyView, build_live_view
from lightexp.search.export_front import list_front_points
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import compute_status
from tests.search.trials import OBJECTIVES, make_status, make_trials

SIZE, ACCURACY = "size/file_bytes <= 500", "accuracy/val >= control - 0.1"
POINTS = [(0.9, 800.0), (0.85, 400.0), (0.5, 300.0)]


@pytest.fixture
def make_constrained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., StudySpec]]:
    """Make specifications of studies with these constraints."""
    outputs = tmp_path_factory.mktemp("outputs")
    fixed = [f"paths.outputs={outputs}", "tracking=none", "search.study=tried"]
    fixed += ["search.objectives=[accuracy/val,size/file_bytes]"]
    yield lambda *texts: StudySpec([*fixed, f"search.constraints={list(texts)}"], [])
    GlobalHydra.instance().clear()


def test_live_view_shows_constraints_and_short_settings(make_constrained: Callable[..., StudySpec]) -> None:
    stream = io.StringIO()
    status = make_status(POINTS, [SIZE, ACCURACY])
    make_console(stream, 120).print(build_live_view(make_constrained(SIZE, ACCURACY), status, ["qat 3/10"], 62, 200))
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines[0].startswith("3 done, 0 failed, 0 running hypervolume ")
    assert f"{SIZE}: 1 of 3 beyond, by 300 or more" in lines
    assert f"{ACCURACY}: 1 of 3 beyond, by 30.00% or more" in lines
    assert "Front Accuracy val File bytes Settings" in lines
    assert "1 85.00% 400 prune.sparsity=0.3667 quantize.scheme=dynamic" in lines
    assert lines[-1] == "worker 0: qat 3/10"


def test_trial_line_names_the_constraint_that_stops_it(
    make_constrained: Callable[..., StudySpec], capfd: pytest.CaptureFixture[str]
) -> None:
    trials = make_trials(POINTS, [SIZE])
    with StudyView(make_constrained(SIZE)) as view:
        view.show_status(compute_status([], OBJECTIVES), [], 0, None)
        view.show_status(compute_status(trials, OBJECTIVES), [], 0, None)
    first, second, _ = capfd.readouterr().err.splitlines()
    assert first.startswith(f"trial 0  Accuracy val 90.00%  File bytes 800 beyond {SIZE}  prune.sparsity=0.1 ")
    assert second.startswith("trial 1  Accuracy val 85.00%  File bytes 400 front  prune.sparsity=0.3667 ")


def test_what_all_workers_report_is_shown_once(
    make_constrained: Callable[..., StudySpec], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with StudyView(make_constrained(SIZE)) as view:
        for now, text in ((0, "gone"), (1, "gone"), (6, "back"), (7, "back"), (20, "gone")):  # noqa: B007
            view.message(text)
    assert capfd.readouterr().err.split() == ["gone", "back", "gone"]


def test_study_without_a_feasible_trial_says_what_to_relax(
    make_constrained: Callable[..., StudySpec], capfd: pytest.CaptureFixture[str]
) -> None:
    constraint = "size/file_bytes <= 100"
    status = make_status(POINTS, [constraint])
    with StudyView(make_constrained(constraint)) as view:
        pass
    view.show_front(status, list_front_points(status), {}, ["lightexp", "search", "search.study=tried"])
    shown = capfd.readouterr().out
    assert "No trial satisfies every constraint" in shown
    assert "Nearest trial 2: " in shown
    assert f"Relax   {constraint}  to  size/file_bytes <= 300\n" in shown
    assert "3 trials done, 0 failed; 3 beyond size/file_bytes <= 100; hypervolume 0.0000\n" in shown
