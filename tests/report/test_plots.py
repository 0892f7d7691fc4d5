"""Plots of a report: which are drawn, reproducible bytes, and axes."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.figure import Figure

from lightexp.report import plots
from lightexp.report.data import Report
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.synthetic import synthesize_record


def test_draw_plots_gives_the_same_bytes_every_time(report: Report) -> None:
    first, second = plots.draw_plots(report), plots.draw_plots(report)
    assert first == second
    assert set(first) == {"front", "ratio", "waterfall", "curves"}
    for formats in first.values():
        assert formats["pdf"].startswith(b"%PDF")
        assert b"<svg" in formats["svg"]
        assert b"<script" not in formats["svg"]


def test_draw_ratio_counts_times_smaller(report: Report) -> None:
    figure = Figure()
    assert plots.draw_ratio(report, figure)
    low, high = figure.axes[0].get_xlim()
    assert 0.5 < low < 1 < 4 < high < 10  # times smaller, not bytes
    assert figure.axes[0].get_xlabel() == "Ratio: times smaller than the control (log scale)"


def test_draw_plots_follows_the_requested_names(report: Report) -> None:
    spec = replace(report.spec, figures=("hypervolume", "front", "layers"))
    requested = replace(report, spec=spec, history=(0.1, 0.2, 0.4))
    assert list(plots.draw_plots(requested)) == ["hypervolume", "front"]  # no layers were counted


def test_draw_plots_of_layers_and_sensitivity() -> None:
    pruned = synthesize_record("p")
    pruned.stages[1].facts |= {"sizes": {"conv": 100, "dense": 900}, "zeros": {"conv": 50, "dense": 810}}
    conv = {"names": ["conv"], "weights": 100, "levels": {"sparsity": {"0.5": 0.9, "0.9": 0.5}, "bits": {"8": 0.9}}}
    layers = {"conv": conv, "depthwise": {"names": ["depthwise"], "weights": 9, "levels": {"bits": {"8": 0.9}}}}
    pruned.stages[2].facts |= {"sensitivity": {"accuracy": 0.9, "chance": 0.1, "examples": 10, "layers": layers}}
    assert {"layers", "sensitivity"} <= set(plots.draw_plots(build_summary(name_rows([pruned]), TableSpec("x"))))
