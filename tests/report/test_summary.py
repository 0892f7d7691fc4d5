"""Rows, their statistics, the linter's words and the tables, from records alone."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from lightexp.core.columns import COLUMNS
from lightexp.core.errors import BadInput
from lightexp.core.hypervolume import compute_tradeoff_hypervolume
from lightexp.report import review, tables
from lightexp.report.runs import Run, iterate_records, name_rows
from lightexp.report.statistics import adjust_holm
from lightexp.report.summary import Cell, Report, build_summary
from lightexp.report.table_spec import PublishedRow, TableSpec
from tests.synthetic import record, records, write
from tests.system_packages import require_program

SHOW = TableSpec("a_table", claim="Both are smaller.", control="control")


def runs(seeds: int = 5) -> list[Run]:
    return name_rows(records(seeds))


def line(report: Report, name: str):
    return next(one for one in report.rows if one.name == name)


def linted(found: Report) -> str:
    return "\n".join(review.list_questions(found))


def test_a_row_has_means_and_differences_paired_by_seed() -> None:
    found = build_summary(runs(), SHOW)
    both, control = line(found, "both"), line(found, "control")
    a = [r.metrics["accuracy/test"] for r in runs() if r.row == "both"]
    b = [r.metrics["accuracy/test"] for r in runs() if r.row == "control"]
    cell = both.metrics["accuracy/test"]
    assert cell.summary is not None
    assert cell.difference is not None
    assert cell.summary.mean == pytest.approx(sum(a) / 5)
    assert cell.difference.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    rows = [one for one in found.rows if one.kind == "row"]
    p = [one.metrics["accuracy/test"].difference.p for one in rows]
    assert len(p) == 4
    assert cell.difference.adjusted == adjust_holm(p)[2]
    assert control.metrics["accuracy/test"].difference is None
    assert control.kind == "control"
    assert found.rows[0] is control
    size = both.metrics["size/file_bytes"]
    assert size.difference is not None
    assert size.difference.p is None  # every seed's file is as large
    assert (size.difference.low, size.difference.high) == (size.difference.mean,) * 2
    assert both.seeds == (0, 1, 2, 3, 4)


def test_best_and_second_are_marked_by_direction() -> None:
    found = build_summary(runs(), SHOW)
    places = {one.name: one.metrics["size/file_bytes"].rank for one in found.rows}
    assert places == {"control": 0, "prune": 0, "quantize": 0, "both": 2, "both, harder": 1}
    most = {one.name: one.metrics["compute/macs"].rank for one in found.rows}
    assert set(most.values()) == {0}  # all have as many
    two = build_summary([r for r in runs() if r.row in ("control", "both")], SHOW)
    assert [one.metrics["size/file_bytes"].rank for one in two.rows] == [0, 1]  # the worst of two is no second
    assert line(found, "control").metrics["accuracy/test"].place == 1
    sparsity = [one.metrics["model/sparsity"] for one in found.rows]
    assert all((cell.rank, cell.mark) == (0, "") for cell in sparsity)  # neither way is better


def test_margins_mark_what_is_no_worse() -> None:
    found = build_summary(runs(), replace(SHOW, margin=1.5))
    assert line(found, "both").metrics["accuracy/test"].mark == "†"
    assert line(found, "both, harder").metrics["accuracy/test"].mark == ""
    assert "*" in line(found, "both").metrics["latency/p50_us"].mark


def test_the_front_and_its_hypervolume_are_taken_seed_by_seed() -> None:
    found = build_summary(runs(), SHOW)
    volumes = []
    for seed in range(5):
        of = [r for r in runs() if r.seed == seed]
        sizes, errors = [r.metrics["size/file_bytes"] for r in of], [1 - r.metrics["accuracy/test"] for r in of]
        volumes.append(compute_tradeoff_hypervolume(sizes, errors, 112_960, 10))
    assert found.hypervolume is not None
    low, high = stats.t.interval(0.95, 4, loc=sum(volumes) / 5, scale=stats.sem(volumes))
    assert found.hypervolume == (pytest.approx(sum(volumes) / 5), pytest.approx(low), pytest.approx(high))
    assert line(found, "both, harder").front == 1.0  # the smallest always is
    assert line(found, "prune").front < 1.0


def test_runs_without_a_control_row_are_compared_with_their_own() -> None:
    found = build_summary([r for r in runs() if r.row != "control"], TableSpec("x"))
    assert found.rows[0].name == "control (of the runs)"
    assert found.rows[0].metrics["size/file_bytes"].summary.mean == 112_960
    a = [r.metrics["accuracy/test"] for r in runs() if r.row == "both"]
    b = [r.control["accuracy/test"] for r in runs() if r.row == "both"]
    assert line(found, "both").metrics["accuracy/test"].difference.p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_settings_make_rows_and_the_later_run_counts() -> None:
    made = [record("x", 0), record("x", 0, sparsity=0.5, number=1), record("x", 0, lost=0.1, number=2)]
    found = name_rows(made)
    assert {(r.row, r.id[-1]) for r in found} == {("x", "2"), ("x (2)", "1")}
    found = name_rows([record(tags={}), record(tags={}, varied=[], seed=1)])
    assert [r.row for r in found] == ["pipeline=prune_quantize"] * 2


def test_what_is_not_sound_is_said_and_the_rest_goes_on(tmp_path) -> None:
    write(tmp_path, records(2))
    folders = sorted((tmp_path / "runs").iterdir())
    (folders[0] / "record.json").write_text('{"format": 1, "id"')
    values = json.loads((folders[1] / "record.json").read_text())
    (folders[1] / "record.json").write_text(json.dumps({**values, "format": 99}))
    (folders[2] / "record.json").write_text(json.dumps({**values, "status": "failed", "reason": "NaN"}))
    (folders[3] / "record.json").write_text(json.dumps({**values, "stages": []}))
    complaints: list[str] = []
    assert len(list(iterate_records([tmp_path, tmp_path / "runs"], complaints))) == 6
    assert len(complaints) == 4
    assert "is not a record" in complaints[0]
    assert "is of format 99" in complaints[1]
    assert "is left out, it is failed: NaN" in complaints[2]
    assert "nothing was measured" in complaints[3]
    with pytest.raises(BadInput, match="is not a folder"):
        list(iterate_records([tmp_path / "nowhere"], complaints))
    with pytest.raises(BadInput, match="there is no finished run to report"):
        build_summary([], SHOW)


def test_a_column_that_was_never_measured_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no run has measured 'accuracy/tset': did you mean 'accuracy/test'\?"):
        build_summary(runs(), replace(SHOW, columns=(replace(COLUMNS[0], name="accuracy/tset"),)))


def test_different_data_and_evaluators_are_not_compared() -> None:
    other = record("b", dataset={"name": "mnist", "splits": {"test": {"n": 1, "digest": "z"}}})
    with pytest.raises(
        BadInput, match=r"saw different data \(5 runs of digits and 1 runs of mnist\).*Choose only=digits"
    ):
        review.check_comparable([*name_rows(list(records(1))), *name_rows([other])], "x")
    made = record("b")
    made.stages[-1].metrics[1] = replace(made.stages[-1].metrics[1], version=2)
    with pytest.raises(BadInput, match=r"accuracy/test was measured by different evaluators, version 1 \(5 runs\) and"):
        review.check_comparable([*name_rows(list(records(1))), *name_rows([made])], "x")
    review.check_comparable(runs(), "x")


def test_latency_of_several_hosts_is_left_out() -> None:
    there = name_rows([record("b", environment={"host": "here", "timed_on": "there"})])
    fewer, show, words = review.without_foreign_latency([*runs(1), *there], replace(SHOW, columns=COLUMNS))
    assert "several hosts (here, there)" in words[0]
    assert not any(name.startswith("latency/") for run in fewer for name in [*run.metrics, *run.control])
    assert not any(column.name.startswith("latency/") for column in show.columns)
    assert review.without_foreign_latency(runs(1), SHOW)[2] == []


def test_the_linter_asks_what_a_reviewer_would() -> None:
    found = linted(build_summary(runs(2), SHOW))
    assert "fewer than 3 seeds" in found
    assert "fewer than 5 operating points: 4 different" in found
    assert "no row has that budget without compression" in found
    assert "MACs" not in found
    size_only = tuple(column for column in COLUMNS if column.name in ("accuracy/test", "size/file_bytes"))
    assert "sizes are shown without MACs" in linted(build_summary(runs(), replace(SHOW, columns=size_only)))
    assert "seeds" not in linted(build_summary(runs(5), SHOW))
    plain = {
        "as_prune": {"_target_": "lightexp.stages.train.Train"},
        "train": {"_target_": "lightexp.stages.train.Train"},
    }
    budget = record("budget", stages=("train", "prune"))
    budget.config["pipeline"]["stages"] = plain
    assert "equal_budget" not in linted(build_summary([*runs(5), *name_rows([budget])], SHOW))
    assert "'budget' has no run with seed 1, 2, 3, 4" in linted(build_summary([*runs(5), *name_rows([budget])], SHOW))
    became = ("prune: 0.2, was 0.8", "prune: kept", "prune: kept; again: 0.3, was 0.8")
    broken = [record("w", seed, waived={"sparsity": words}) for seed, words in enumerate(became)]
    for one in broken:
        one.config["pipeline"]["waive"] = ["sparsity"]
    words = linted(build_summary(name_rows([*records(3), *broken]), SHOW))
    assert (
        "'w' was allowed to break an invariant: waived sparsity, broken with 2 of 3 seeds (prune: 0.2, was 0.8)"
        in words
    )
    study = record("s")
    study.config["search"] = {"objectives": ["accuracy/test", "size/file_bytes"]}
    assert "a choice was made on test" in linted(build_summary(name_rows([study]), TableSpec("x")))


NASTY = '50% & $x_1$ </script> {a|b} ~^#\\ "q" <b> µ Ж'


@pytest.fixture(scope="module")
def report() -> Report:
    made = [*records(5), *(record(NASTY, seed, sparsity=0.6, number=100 + seed) for seed in range(3))]
    external = PublishedRow("Published & done", "Doe et al. 2020, table_2", {"accuracy/test": 0.98, "size/ratio": 40})
    show = replace(SHOW, claim=f"Claim {NASTY}", external=(external,))
    found = build_summary(name_rows(made), show, {"order a>b": "'b' cannot follow 'a'"})
    return replace(found, questions=tuple(review.list_questions(found)), commands=("lightexp ablate x.yaml",))


def test_markdown(report) -> None:
    words = tables.render_markdown(report)
    rows = [one for one in words.splitlines() if one.startswith("| ")]
    assert len(rows) == 2 + len(report.rows)
    for row in rows:
        assert row.replace("\\|", "").count("|") == len(report.spec.columns) + 3
    assert "**3.9x" not in words
    assert rows[2].startswith("| control |")  # which needs no telling
    assert "0.0% ± 0.0" not in words
    assert rows[-2].startswith("| order a\\>b | refused |  |")
    assert "- order a\\>b (refused): 'b' cannot follow 'a'" in words
    assert "Published & done (published)" in words
    assert "\\<b\\>" in words
    assert "lightexp ablate x.yaml" in words


def test_latex_compiles(report, tmp_path) -> None:
    require_program("pdflatex")
    table = tables.render_latex(report)
    assert table.isascii()
    assert "\\textbf{" in table
    assert "\\underline{" in table
    assert "$^{***}$" in table
    assert table.splitlines()[9].startswith("control &")
    assert table.splitlines()[9].endswith(r"& -- \\")
    assert "& $-$" in table
    text = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + table + "\\end{document}\n"
    (tmp_path / "x.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "x.pdf").stat().st_size > 1_000


def test_csv(report) -> None:
    read: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(tables.render_csv(report))))
    both = next(one for one in read if (one["row"], one["measurement"]) == ("both", "accuracy/test"))
    cell: Cell = line(report, "both").metrics["accuracy/test"]
    assert (int(both["n"]), float(both["mean"])) == (cell.summary.n, cell.summary.mean)
    assert float(both["p_holm"]) == cell.difference.adjusted
    runs_read = list(csv.DictReader(io.StringIO(tables.render_runs_csv(report.runs))))
    assert len(runs_read) == len(report.runs)
    assert {one["pipeline.stages.prune.sparsity"] for one in runs_read} == {"", "0.8", "0.6", "0.95"}
    assert NASTY in {one["row"] for one in runs_read}
