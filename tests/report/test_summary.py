"""Rows of a report: means, paired differences, ranks, marks, fronts and controls."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from scipy import stats

from lightexp.core.columns import COLUMNS, ESTIMATE_NOTE, find_column
from lightexp.core.errors import BadInput
from lightexp.core.hypervolume import compute_tradeoff_hypervolume
from lightexp.report import plots
from lightexp.report.data import Report, ReportRow
from lightexp.report.documents import list_legend
from lightexp.report.plots import draw_front
from lightexp.report.runs import Run
from lightexp.report.statistics import adjust_holm
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import TableSpec


def find_row(report: Report, name: str) -> ReportRow:
    return next(row for row in report.rows if row.name == name)


def accuracies(runs: list[Run], row: str) -> list[float]:
    return [run.metrics["accuracy/test"] for run in runs if run.row == row]


def test_row_has_differences_paired_by_seed(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary(runs, spec)
    both = find_row(report, "both")
    statistics = both.metric("accuracy/test")
    values = accuracies(runs, "both")
    assert statistics.difference is not None
    assert statistics.mean == pytest.approx(sum(values) / 5)
    assert statistics.difference.p == pytest.approx(stats.ttest_rel(values, accuracies(runs, "control")).pvalue)
    differences = [row.metric("accuracy/test").difference for row in report.rows if row.kind == "row"]
    p = [difference.p for difference in differences if difference is not None and difference.p is not None]
    assert len(p) == 4
    assert statistics.difference.adjusted == adjust_holm(p)[2]
    assert both.seeds == (0, 1, 2, 3, 4)


def test_equal_differences_have_no_p_value(runs: list[Run], spec: TableSpec) -> None:
    size = find_row(build_summary(runs, spec), "both").metric("size/file_bytes").difference
    assert size is not None
    assert size.p is None  # the file has the same size for every seed
    assert (size.low, size.high) == (size.mean, size.mean)


def test_control_comes_first_and_has_no_difference(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary(runs, spec)
    control = find_row(report, "control")
    assert control.kind == "control"
    assert report.rows[0] is control
    assert control.metric("accuracy/test").difference is None


def test_rows_follow_the_given_order(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary(runs, spec, order=["both", "unknown", "control", "prune"])
    assert [row.name for row in report.rows] == ["control", "both", "prune", "quantize", "both, harder"]


def test_best_and_second_are_ranked_by_direction(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary(runs, spec)
    ranks = {row.name: row.metric("size/file_bytes").rank for row in report.rows}
    assert ranks == {"control": 0, "prune": 0, "quantize": 0, "both": 2, "both, harder": 1}
    assert {row.metric("compute/macs").rank for row in report.rows} == {0}  # all rows have the same
    assert find_row(report, "control").metric("accuracy/test").rank == 1
    sparsity = [row.metric("model/sparsity") for row in report.rows]
    assert all((statistics.rank, statistics.test_mark) == (0, "") for statistics in sparsity)  # neither way is better


def test_worst_of_two_rows_is_not_second(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary([run for run in runs if run.row in ("control", "both")], spec)
    assert [row.metric("size/file_bytes").rank for row in report.rows] == [0, 1]


def test_margin_marks_rows_that_are_no_worse(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary(runs, replace(spec, margin=1.5))
    assert find_row(report, "both").metric("accuracy/test").test_mark == "†"
    assert find_row(report, "both, harder").metric("accuracy/test").test_mark == ""
    assert "*" in find_row(report, "both").metric("latency/p50_us").test_mark


def test_front_and_hypervolume_are_computed_by_seed(runs: list[Run], spec: TableSpec) -> None:
    report = build_summary(runs, spec)
    volumes = []
    for seed in range(5):
        of_seed = [run for run in runs if run.seed == seed]
        sizes = [run.metrics["size/file_bytes"] for run in of_seed]
        errors = [1 - run.metrics["accuracy/test"] for run in of_seed]
        volumes.append(compute_tradeoff_hypervolume(sizes, errors, 112_960, 0.9))
    low, high = stats.t.interval(0.95, 4, loc=sum(volumes) / 5, scale=stats.sem(volumes))
    assert report.hypervolume is not None
    assert report.hypervolume == (pytest.approx(sum(volumes) / 5), pytest.approx(low), pytest.approx(high))
    assert find_row(report, "both, harder").front == 1.0  # the smallest file always is
    front = find_row(report, "prune").front
    assert front is not None
    assert front < 1.0


def test_runs_without_a_control_row_use_their_own(runs: list[Run]) -> None:
    report = build_summary([run for run in runs if run.row != "control"], TableSpec("x"))
    assert report.rows[0].name == "control (of the runs)"
    assert report.rows[0].metric("size/file_bytes").mean == 112_960
    own_controls = [run.control["accuracy/test"] for run in runs if run.row == "both"]
    difference = find_row(report, "both").metric("accuracy/test").difference
    assert difference is not None
    assert difference.p == pytest.approx(stats.ttest_rel(accuracies(runs, "both"), own_controls).pvalue)


def test_cycles_of_an_npu_may_be_the_size_axis(runs: list[Run], spec: TableSpec) -> None:
    cycles = "npu/u55/cycles"  # which float files, such as the control, do not have
    runs = [
        run
        if run.row == "control"
        else replace(run, metrics={**run.metrics, cycles: run.metrics["size/file_bytes"] * 2})
        for run in runs
    ]
    columns = tuple(map(find_column, ("accuracy/test", cycles, "size/file_bytes")))
    report = build_summary(runs, replace(spec, columns=columns))
    assert (report.size, report.heading(report.size)) == (cycles, "u55 cycles (est.)")
    assert list_legend(report)[-1] == ESTIMATE_NOTE
    assert find_row(report, "control").metric(cycles).mean is None
    assert find_row(report, "both").front is not None and report.hypervolume is None
    figure = Figure()
    assert draw_front(report, figure) is not None
    assert figure.axes[0].get_xlabel().startswith("u55 cycles (est.)")


def test_no_runs_are_refused(spec: TableSpec) -> None:
    with pytest.raises(BadInput, match="there is no finished run to report"):
        build_summary([], spec)


def test_column_that_was_never_measured_is_refused(runs: list[Run], spec: TableSpec) -> None:
    column = replace(COLUMNS[0], name="accuracy/tset")
    with pytest.raises(BadInput, match=r"no run has measured 'accuracy/tset': did you mean 'accuracy/test'\?"):
        build_summary(runs, replace(spec, columns=(column,)))


def test_infeasible_rows_are_on_no_front(runs: list[Run], spec: TableSpec) -> None:
    feasible = build_summary(runs, spec)
    report = build_summary(runs, replace(spec, infeasible=frozenset({"quantize", "both"})))
    assert [row.name for row in report.rows if row.kind == "infeasible"] == ["quantize", "both"]
    assert find_row(feasible, "quantize").front == 1.0
    assert find_row(report, "quantize").front is None
    assert find_row(report, "quantize").label == "quantize (infeasible)"
    assert report.hypervolume is not None
    assert feasible.hypervolume is not None
    assert report.hypervolume[0] < feasible.hypervolume[0]
    every = build_summary(runs, replace(spec, control=None, infeasible=frozenset(run.row for run in runs)))
    assert every.hypervolume is None
    assert plots.draw_front(report, Figure(figsize=plots.PAGE_SIZE, layout="constrained")) is not None
