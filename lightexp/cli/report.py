"""`lightexp report`: tables, plots and one HTML page from records alone."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightexp.cli.arguments import Arguments
from lightexp.cli.garbage_collection import pause_garbage_collection
from lightexp.cli.printing import print_error, print_line, report_progress
from lightexp.cli.study_report import StudyFolder, find_study
from lightexp.core.errors import BadInput, suggest_nearest
from lightexp.core.records import limit_complaints

if TYPE_CHECKING:
    from lightexp.core.record import Record
    from lightexp.report.data import Report
    from lightexp.report.runs import Run

_USAGE = """lightexp report WHAT [setting=value ...]
       lightexp report --compare A B"""
_HELP = """Make tables (Markdown, LaTeX, CSV), plots (SVG, PDF) and one HTML page from records alone.

  lightexp report experiments/01_article.yaml       an ablation: into results/01_article/ next to its file
  lightexp report outputs                           all runs of an outputs folder; or folders of single runs
  lightexp report outputs/searches/NAME             a study: its front
  lightexp report tracking.uri=URI tracking.experiment=NAME    an MLflow experiment, also another person's; a server
                                                    that takes over tracking.timeout_s=60 for an answer is given up
  lightexp report --compare A B                     two of these side by side, paired by row and seed

What is shown, of an ablation (instead of what its file says) or of runs; see `lightexp guide ablation`:
  'columns=[accuracy/test,size/file_bytes]'         columns of the tables; the metrics are the headings of runs.csv
  'labels={prune+qat: ours}' margin=0.5 stars=all 'figures=[front]'
  'latex={columns: 2, width: 3.3in, size: small}'   the page that table.tex is made for
  out=FOLDER                                        another folder (results/NAME or outputs/reports/NAME)

For runs and experiments, only=TEXT selects the runs whose name or overrides contain TEXT. An ablation takes the
settings that `lightexp ablate` took.

Exit codes: 0 done, 2 bad input."""
_SETTINGS = ("only", "out", "tracking.uri", "tracking.experiment", "tracking.timeout_s")
_OUT = "out="
_MANY_RECORDS = 10_000  # whose report takes several seconds to make


def make_parser() -> Arguments:
    """Make the parser of `lightexp report`."""
    parser = Arguments("report", usage=_USAGE, description=_HELP)
    parser.add_argument("--compare", action="store_true", help="compare two ablation files or folders")
    return parser


def run(argv: list[str], reported_failures: Collection[str] = ()) -> int:
    """Run `lightexp report` and return the exit code.

    Args:
        argv: The command line after `report`.
        reported_failures: Reasons of failed runs that the user has read already; they are not repeated.
    """
    parser = make_parser()
    options, arguments = parser.parse_known_args(argv)
    sources = [argument for argument in arguments if "=" not in argument or os.path.exists(argument)]
    settings = [argument for argument in arguments if argument not in sources]
    problems: list[str] = []
    if options.compare:
        if len(sources) != 2 or settings:
            raise BadInput(f"--compare takes two ablation files or folders. Received: {sources + settings}.")
        with pause_garbage_collection():
            _print_comparison(sources, problems)
        return 0
    if not arguments:
        parser.print_help()
        return BadInput.exit_code
    with pause_garbage_collection():
        _report(sources, settings, problems, reported_failures)
    return 0


def _report(sources: list[str], settings: list[str], problems: list[str], reported_failures: Collection[str]) -> None:
    """Write the report of an ablation or of runs, and show its table."""
    ablations = [source for source in sources if _is_ablation(source)]
    if ablations and len(sources) > 1:
        raise BadInput(f"a report covers one ablation, or folders of runs. Received: {sources}.")
    if ablations:
        report, folder = _report_ablation(Path(ablations[0]), settings, problems)
        problems = [_shorten(problem, reported_failures) for problem in problems]
    else:
        report, folder = _report_runs(sources, settings, problems)
    _write(report, folder, problems)


def _is_ablation(source: str) -> bool:
    return source.endswith((".yaml", ".yml"))


def _shorten(problem: str, reported_failures: Collection[str]) -> str:
    """Return the line without the reason at its end, where the user has read that already."""
    for reason in reported_failures:
        if problem.endswith(f": {reason}"):
            return problem.removesuffix(f": {reason}")
    return problem


def _parse_settings(settings: list[str]) -> dict[str, str]:
    from lightexp.report.table_spec import PRESENTATION_SETTINGS

    values = {name: value for name, _, value in (setting.partition("=") for setting in settings)}
    for name in values:
        if name not in _SETTINGS:
            known = (*_SETTINGS, *PRESENTATION_SETTINGS)
            raise BadInput(f"{name} is not a setting of a report of runs: {suggest_nearest(name, known)}")
    return values


def _report_ablation(path: Path, settings: list[str], problems: list[str]) -> tuple[Report, Path]:
    """Return the report of an ablation and its folder."""
    from lightexp.ablation import results
    from lightexp.ablation.spec import read_spec

    folders = [setting.removeprefix(_OUT) for setting in settings if setting.startswith(_OUT)]
    settings = [setting for setting in settings if not setting.startswith(_OUT)]
    spec = read_spec(path, settings)
    report = results.report_results(spec, spec.rows[0].settings.outputs, settings, problems)
    return report, Path(folders[-1]) if folders else spec.results


def _report_runs(sources: list[str], arguments: list[str], problems: list[str]) -> tuple[Report, Path]:
    """Return the report of folders or of an MLflow experiment, and its folder."""
    from lightexp.core.config import construct
    from lightexp.report import review
    from lightexp.report.runs import make_no_runs_error, name_rows
    from lightexp.report.summary import build_summary
    from lightexp.report.table_spec import Presentation, split_presentation

    shown, others = split_presentation(arguments)
    settings = _parse_settings(others)
    title = Path(os.path.realpath(sources[0])).name if sources else settings.get("tracking.experiment", "lightexp")
    only = settings.get("only", "")
    study, infeasible = find_study(sources), set[str]()
    records = _read_records(sources, settings, problems, study, infeasible)
    runs = name_rows(record for record in _count_records(records) if only in _join_searchable_text(record))
    if not runs and only:
        raise BadInput(f"only={only}: no finished run has this in its name or overrides.")
    if not runs:
        raise make_no_runs_error(title, problems)
    review.check_comparable(runs, title)
    spec = construct(Presentation, shown, "").fill_spec(title=title, claim=f"only={only}" if only else "")
    if study and not spec.columns:
        spec = replace(spec, first=study.objectives)
    spec = replace(spec, infeasible=frozenset(infeasible))
    runs, spec, remarks = review.drop_incomparable_latency(runs, spec)
    if unknown := next((name for name in spec.labels if name not in {run.row for run in runs}), None):
        raise BadInput(f"labels: no row is named '{unknown}': {suggest_nearest(unknown, {run.row for run in runs})}")
    report = build_summary(runs, spec)
    command = shlex.join(["lightexp", "report", *sources, *arguments])
    report = replace(
        report,
        questions=(*remarks, *review.list_questions(report)),
        commands=(command,),
    )
    if study:
        report = replace(report, history=study.history, figures=study.figures)
    return report, Path(settings.get("out") or Path("outputs") / "reports" / (title or "runs"))


def _count_records(records: Iterator[Record]) -> Iterator[Record]:
    """Yield the records, and say from time to time how many there were, where that takes longer than a few seconds."""
    count, count_record = 0, None
    for record in records:
        yield record
        count += 1
        count_record = count_record or report_progress("records read")  # it counts time from here: imports take some
        count_record()
    if count >= _MANY_RECORDS:
        print_line(f"making the report of {count:,} records", sys.stderr)


def _join_searchable_text(record: Record) -> str:
    return f"{record.name} {' '.join(record.varied)} {record.tags.get('row', '')}"


def _read_records(
    sources: list[str], settings: dict[str, str], problems: list[str], study: StudyFolder | None, infeasible: set[str]
) -> Iterator[Record]:
    """Return the records below folders or, without folders, of an MLflow experiment.

    Args:
        sources: Folders.
        settings: Settings that say which experiment.
        problems: Receives a line for each record that cannot be used.
        study: The study whose folder is the only source, if it is one.
        infeasible: Receives names of the study's rows that break a constraint, as they are read.
    """
    from lightexp.report.runs import iterate_records

    places: dict[str, Any] = {
        name.removeprefix("tracking."): text for name, text in settings.items() if name.startswith("tracking.")
    }
    if sources and places:
        raise BadInput(f"a report covers folders or an MLflow experiment. Received: {sources} and {settings}.")
    if sources:
        return study.iterate_trials(problems, infeasible) if study else iterate_records(sources, problems)
    from lightexp.core.config import construct
    from lightexp.tracking import fetch, stores
    from lightexp.tracking.mlflow import Mlflow

    with suppress(ValueError, KeyError):  # `construct` says what is wrong
        places["timeout_s"] = float(places["timeout_s"])
    place = construct(Mlflow, places, "tracking")
    return fetch.download_records(replace(place, uri=stores.resolve_uri(place.uri, Path("outputs"))), problems)


def _read_runs(source: str, problems: list[str]) -> list[Run]:
    """Return the runs of an ablation's file or below a folder."""
    from lightexp.report.runs import name_rows

    if _is_ablation(source):
        report, _ = _report_ablation(Path(source), [], problems)
        return list(report.runs)
    return name_rows(_read_records([source], {}, problems, find_study([source]), set()))


def _print_comparison(sources: list[str], problems: list[str]) -> None:
    from lightexp.cli import ablation_view
    from lightexp.report import review
    from lightexp.report.compare import compare_runs
    from lightexp.report.runs import make_no_runs_error
    from lightexp.report.table_spec import TableSpec

    runs = [_read_runs(source, problems) for source in sources]
    for source, source_runs in zip(sources, runs, strict=True):
        if not source_runs:
            raise make_no_runs_error(f"--compare: {source}", problems)
    both, count = [*runs[0], *runs[1]], len(runs[0])
    review.check_comparable(both, "--compare")
    both, _, remarks = review.drop_incomparable_latency(both, TableSpec("--compare"))
    ablation_view.print_comparison(compare_runs(both[:count], both[count:], (sources[0], sources[1])))
    _print_problems(problems)
    _print_problems(remarks)


def _write(report: Report, folder: Path, problems: list[str]) -> None:
    """Write the report's files, show its table, and say where the files are."""
    from lightexp.cli import ablation_view
    from lightexp.report.write import write_report

    try:
        page, *files = write_report(report, folder)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: {error.strerror}. Set out=FOLDER.") from None
    ablation_view.print_report(report)
    _print_problems(problems)
    print_line(f"Page    {page}")
    print_line(f"Files   {folder}: {', '.join(sorted(path.name for path in files))}")


def _print_problems(problems: list[str]) -> None:
    for line in limit_complaints(problems):
        print_error(line, sys.stderr)
