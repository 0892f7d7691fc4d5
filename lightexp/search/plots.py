"""A study's figures: its front, its hypervolume, its parameters' importance. The same trials give the same bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from lightexp.report.tradeoff import PLOT_STYLE
from lightexp.search.goals import SearchObjective
from lightexp.search.study_status import StudyStatus

_FRONT, _TRIAL, _INFEASIBLE = "#D55E00", "#0072B2", "#bbbbbb"


def draw_front(objectives: tuple[SearchObjective, ...], now: StudyStatus, path: Path, title: str) -> None:
    """Draws the first objective over the second (of one alone, over the trials): every trial, and the front."""
    with _axes(path, title) as axes:
        several = len(objectives) > 1

        def dots(trials: Sequence[FrozenTrial], label: str, **look: Any) -> None:
            if trials:
                x = [t.values[1] if several else t.number for t in trials]
                axes.plot(x, [t.values[0] for t in trials], label=label, markersize=6, **look)

        line = sorted(now.front, key=lambda t: t.values[-1])
        dots(
            [t for t in now.done if t not in now.feasible],
            "infeasible",
            color=_INFEASIBLE,
            marker="x",
            linestyle="none",
        )
        dots([t for t in now.feasible if t not in now.front], "trial", color=_TRIAL, marker="o", linestyle="none")
        dots(line, "front", color=_FRONT, marker="D", linewidth=0.8)
        axes.set_xlabel(objectives[1].name if several else "trial")
        axes.set_ylabel(objectives[0].name)
        if several and now.done and all(t.values[1] > 0 for t in now.done):
            axes.set_xscale("log", base=2)
        if now.done:
            axes.legend(frameon=False)


def draw_history(now: StudyStatus, path: Path) -> None:
    """Draws the hypervolume after each trial that was done."""
    with _axes(path, "hypervolume") as axes:
        axes.step(range(1, len(now.history) + 1), now.history, where="post", color=_TRIAL)
        axes.set_xlabel("trials done")


def draw_importance(weights: Mapping[str, Mapping[str, float]], path: Path, title: str) -> None:
    """Draws each parameter's importance for each objective."""
    with _axes(path, title) as axes:
        names = sorted({name for each in weights.values() for name in each})
        for n, (objective, each) in enumerate(weights.items()):
            places = [place + n / (len(weights) + 1) for place in range(len(names))]
            axes.barh(places, [each.get(name, 0.0) for name in names], 1 / (len(weights) + 1), label=objective)
        axes.set_yticks(range(len(names)), [name.removeprefix("pipeline.stages.") for name in names])
        if weights:
            axes.legend(frameon=False)


@contextmanager
def _axes(path: Path, title: str) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(PLOT_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph that this machine's font lacks is the viewer's to find
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        axes.grid(color="#dddddd", linewidth=0.6)
        yield axes
        figure.savefig(path, format="svg", metadata={"Date": None})
