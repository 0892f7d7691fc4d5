"""What is printed: no control character of others, and a quiet end when nobody reads it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightexp.cli import ablation_view
from lightexp.cli.main import main
from lightexp.cli.printing import BROKEN_PIPE, make_console, print_error, print_line, report_progress
from lightexp.core.errors import BadInput, LightexpError
from lightexp.core.exceptions import summarize_exception
from lightexp.core.metrics import Metric
from lightexp.core.record import Record, StageRecord
from lightexp.report import csv_files, documents, html, latex
from lightexp.report.runs import name_rows
from lightexp.report.summary import build_summary
from lightexp.report.table_spec import PublishedRow, TableSpec
from tests.synthetic import synthesize_record

HOSTILE = "=1+1\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\r\x7f"
CONTROLS = {chr(n) for n in (*range(32), *range(127, 160), 0x202E)} - {"\n"}


def test_report_of_hostile_names_has_no_control(capsys: pytest.CaptureFixture[str]) -> None:
    records = [synthesize_record(HOSTILE + str(row), seed, sparsity=0.6, number=row) for row, seed in ((1, 0), (2, 0))]
    records[1].config["model"][HOSTILE] = HOSTILE
    published = PublishedRow(HOSTILE, HOSTILE, {"accuracy/test": 0.98})
    spec = TableSpec(HOSTILE, claim=HOSTILE, reference=HOSTILE, cost=HOSTILE, external=(published,))
    report = build_summary(name_rows(records), spec, {HOSTILE + "x": HOSTILE})
    ablation_view.print_report(report)
    texts = [capsys.readouterr().out, documents.render_markdown_document(report), html.render_page(report, {})]
    texts += [
        latex.render_latex_document(report).replace(r"\allowbreak{}", ""),
        csv_files.render_statistics_csv(report),
    ]
    texts += [csv_files.render_runs_csv(report.runs)]
    for text in texts:
        assert "1+1" in text
        assert not CONTROLS & set(text)
    for table in texts[-2:]:
        assert "'=1+1" in table and ",=" not in table and "\n=" not in table


def test_record_of_hostile_names_has_no_control() -> None:
    stage = StageRecord(HOSTILE, "k", False, 1.0, [Metric("size/file_bytes", 1)])
    record = Record("a", HOSTILE, "c", {}, [], {}, 0.0, reason=HOSTILE, stages=[stage], waived={HOSTILE: HOSTILE})
    assert not CONTROLS & {*record.table(), *record._repr_html_()}


def test_errors_are_one_line_without_control(capfd: pytest.CaptureFixture[str]) -> None:
    print_error(f"cannot read\n{HOSTILE}")
    print_line(HOSTILE)
    print_error("lightexp: there is no run.")
    print_error("lightexp store: which?")
    out, err = capfd.readouterr()
    assert out == "=1+1]0;title[2J31mb\n"
    assert err.splitlines() == [
        "lightexp: cannot read =1+1]0;title[2J31mb",
        "lightexp: there is no run.",
        "lightexp store: which?",
    ]
    assert str(BadInput(f"a {HOSTILE} b")) == "a =1+1]0;title[2J31mb b"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("x is broken: ", "x is broken"),
        ("x is broken: . Save it.", "x is broken. Save it."),
        ("a: b", "a: b"),
        ("x is broken (). Save it.", "x is broken. Save it."),
    ],
)
def test_error_with_empty_reason_has_no_colon(message: str, line: str) -> None:
    assert str(LightexpError(message)) == line


@pytest.mark.parametrize(
    ("text", "start"), [("", "ValueError ("), ("a:", "ValueError: a ("), ("a:\nb:", "ValueError: b (")]
)
def test_summarize_exception_has_no_dangling_colon(text: str, start: str, tmp_path: Path) -> None:
    assert str(summarize_exception(ValueError(text), file=tmp_path / "traceback.txt")).startswith(start)


def test_endless_value_is_cut_out_of_a_message() -> None:
    line = str(BadInput(f"x is wrong. Received: {'long ' * 20_000}. Set x=1."))
    assert line.startswith("x is wrong. Received: long") and line.endswith(" long . Set x=1.") and len(line) < 2_010


def test_broken_pipe_ends_a_command_quietly(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    for arguments in (["--help"], ["run", "--cfg", "job"], ["run", "--plan", "tracking=none"]):
        command = [sys.executable, "-m", "lightexp.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (BROKEN_PIPE, ""), arguments
    os.close(write_end)


def test_closed_streams_do_not_matter(tmp_path: Path) -> None:
    for closed in ("2>&-", "0<&- 1>&- 2>&-"):
        script = f'"{sys.executable}" -m lightexp.cli run --plan tracking=none {closed}'
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, ""), closed
        assert ("Nothing was run" in done.stdout) == (closed == "2>&-")


def test_console_on_other_streams_goes_quiet() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = make_console(Closed())
    console.print("progress")
    assert console.quiet
    print_line("progress", Closed())


def test_main_refuses_unknown_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["runn\x1b[2J"]) == 2
    assert capfd.readouterr().err.startswith("lightexp: 'runn[2J' is not a command")


@pytest.mark.parametrize(("variables", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_console_obeys_no_color(variables: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    leader, follower = os.openpty()
    with os.fdopen(follower, "w") as terminal:
        make_console(terminal).print("[green]ok[/green]")
        assert (b"\x1b[32m" in os.read(leader, 100)) is is_coloured
    os.close(leader)
    file = io.StringIO()
    make_console(file).print("[bold green]ok[/bold green]")
    assert file.getvalue() == "ok\n"


def test_progress_is_reported_every_two_seconds(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    count = report_progress("entries checked")
    for now[0] in (0.5, 1.9, 2.1, 3.0, 4.2):
        count()
    assert capfd.readouterr().err.splitlines() == ["3 entries checked ...", "5 entries checked ..."]
