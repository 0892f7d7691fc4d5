"""Plots of a report: which are drawn, reproducible bytes, and axes."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightexp.report import plots, stage_plots
from lightexp.report.data import Report
from lightexp.report.plot_style import REPORT_STYLE, use_style
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec
from tests.synthetic import synthesize_record


def test_draw_plots_gives_the_same_bytes_every_time(report: Report) -> None:
    first, second = plots.draw_plots(report), plots.draw_plots(report)
    assert first == second
    assert set(first) == {"front", "ratio", "waterfall", "curves"}
    for plot in first.values():
        assert set(plot.files) == {".svg", ".pdf", "_column.pdf"}
        assert b"<svg" in plot.files[".svg"]
        assert b"<script" not in plot.files[".svg"]
        for name, width in ((".pdf", 6.75), ("_column.pdf", 3.3)):
            box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+)", plot.files[name])
            assert box is not None
            assert float(box[1]) == pytest.approx(72 * width, abs=0.1)


def test_plots_have_text_of_eight_points_inside_the_figure(report: Report) -> None:
    with use_style(REPORT_STYLE):
        for draw in (plots.draw_front, plots.draw_ratio, stage_plots.draw_waterfall, stage_plots.draw_curves):
            for size in (plots.PAGE_SIZE, plots.COLUMN_SIZE):
                figure = Figure(figsize=size, layout="constrained")
                assert draw(report, figure) is not None
                figure.draw_without_rendering()
                texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
                assert len(texts) > 8
                assert {text.get_fontsize() for text in texts} <= {7, 8}
                assert {text.get_fontsize() for axes in figure.axes for text in axes.get_xticklabels()} == {8}
                labels = [axes.yaxis.label for axes in figure.axes] + [axes.xaxis.label for axes in figure.axes]
                for label in labels:
                    if text := label.get_text():
                        box = label.get_window_extent()
                        assert box.y0 >= 0, text
                        assert box.y1 <= figure.bbox.y1, text
                        assert box.x1 <= figure.bbox.x1, text


def test_draw_curves_leaves_gaps_without_values(spec: TableSpec) -> None:
    records = [synthesize_record(row, sparsity=sparsity) for row, sparsity in (("a", 0.5), ("b", 0.8))]
    for record in records:
        train, prune = (stage.facts for stage in record.stages[:2])
        train["history"] = {"loss": [1.0, None, 0.25], "val_accuracy": [0.5, None, 0.75]}
        prune["history"] = {"loss": [0.5, 0.125]}  # without the validation metric
        record.stages[2].facts["history"] = {"loss": [0.5], "val_accuracy": [0.8]}
    figure = Figure(figsize=plots.PAGE_SIZE)
    report = build_summary(name_rows(records), replace(spec, control=""))
    assert stage_plots.draw_curves(report, figure) == "Rows with the same training are one line."
    drawn = [str([line.get_ydata().tolist() for line in axes.lines]) for axes in figure.axes]
    assert drawn == ["[[0.5, nan, 0.75, nan, nan, 0.8]]", "[[1.0, nan, 0.25, 0.5, 0.125, 0.5]]"]
    assert figure.axes[1].get_yscale() == "log"


def test_plots_say_what_they_leave_out(report: Report) -> None:
    front = plots.draw_front(report, Figure(figsize=plots.PAGE_SIZE))
    assert front == "Not shown, no size/file_bytes or accuracy/test: Published & done."
    waterfall = stage_plots.draw_waterfall(report, Figure(figsize=plots.COLUMN_SIZE))
    assert waterfall is not None
    assert waterfall.startswith("Of the rows with most stages, 1 fit; not shown: both, harder")


def test_draw_ratio_counts_times_smaller(report: Report) -> None:
    figure = Figure()
    assert plots.draw_ratio(report, figure) is not None
    low, high = figure.axes[0].get_xlim()
    assert 0.5 < low < 1 < 4 < high < 10  # times smaller, not bytes
    assert figure.axes[0].get_xlabel() == "Ratio: times smaller (log scale)"


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
