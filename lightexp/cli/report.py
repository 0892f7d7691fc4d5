"""`lightexp report`: tables, figures and a page from records."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.core.errors import BadInput, suggest_nearest

if TYPE_CHECKING:
    from lightexp.core.record import Record
    from lightexp.report.runs import Run
    from lightexp.report.summary import Report

HELP = """lightexp report WHAT [setting=value ...]
lightexp report --compare A B

Makes tables (Markdown, LaTeX, CSV), figures (SVG, PDF) and one HTML page from records alone.

  lightexp report experiments/01_article.yaml       an ablation: into results/01_article/ beside its file
  lightexp report outputs                           all runs of an outputs folder; or folders of single runs
  lightexp report outputs/searches/NAME             a study: its front
  lightexp report tracking.uri=URI tracking.experiment=NAME    an MLflow experiment, also another person's
  lightexp report --compare A B                     two of these beside each other, paired by row and seed

Of runs and experiments: only=TEXT keeps the runs whose name or overrides hold TEXT; out=FOLDER says where the report
goes (outputs/reports/NAME). An ablation takes the settings that `lightexp ablate` took.

Exit codes: 0 done, 2 bad input.
"""
FLAGS = ("--compare", "--help", "-h")
_OWN = ("only", "out", "tracking.uri", "tracking.experiment")
_STUDY = ("front", "trials")


def run(words: list[str], told: Collection[str] = ()) -> int:
    """Runs the command and returns its exit code.

    Args:
        words: The command line after `report`.
        told: Reasons of failed runs that the user has just been told, and is not told again.
    """
    if not words or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0 if words else BadInput.exit_code
    for flag in (word for word in words if word.startswith("-") and word not in FLAGS):
        raise BadInput(f"{flag} is not a flag of lightexp report: {suggest_nearest(flag, FLAGS)}")
    places = [word for word in words if not word.startswith("-") and ("=" not in word or Path(word).exists())]
    settings = [word for word in words if not word.startswith("-") and word not in places]
    complaints: list[str] = []
    if "--compare" in words:
        if len(places) != 2 or settings:
            raise BadInput(f"--compare takes two ablation files or folders. Received: {places + settings}.")
        return _compare(places, complaints)
    ablations = [place for place in places if place.endswith((".yaml", ".yml"))]
    if ablations and len(places) > 1:
        raise BadInput(f"a report is of one ablation, or of folders. Received: {places}.")
    if ablations:
        from lightexp.ablation import results
        from lightexp.ablation.spec import read_spec

        study = read_spec(Path(ablations[0]), settings)
        made = results.report_results(study, study.rows[0].settings.outputs, settings, complaints)
        folder = study.results
        ends = tuple(f": {reason}" for reason in told)
        complaints = [next((c.removesuffix(end) for end in ends if c.endswith(end)), c) for c in complaints]
    else:
        made, folder = _of_runs(places, _given(settings), complaints)
    _write(made, folder, complaints)
    return 0


def _given(settings: list[str]) -> dict[str, str]:
    given = {name: value for name, _, value in (word.partition("=") for word in settings)}
    for name in given:
        if name not in _OWN:
            raise BadInput(f"{name} is not a setting of a report of runs: {suggest_nearest(name, _OWN)}")
    return given


def _of_runs(places: list[str], given: dict[str, str], complaints: list[str]) -> tuple[Report, Path]:
    from lightexp.report import review
    from lightexp.report.runs import name_rows
    from lightexp.report.summary import build_summary
    from lightexp.report.table_spec import TableSpec

    title = given.get("tracking.experiment", "lightexp") if not places else Path(places[0]).resolve().name
    only = given.get("only", "")
    records = _records(places, given, complaints)
    runs = name_rows(one for one in records if only in f"{one.name} {' '.join(one.varied)} {one.tags.get('row', '')}")
    if not runs and only:
        raise BadInput(f"only={only}: no finished run has this in its name or overrides.")
    review.check_comparable(runs, title)
    fewer, show, said = review.without_foreign_latency(runs, TableSpec(title, claim=f"only={only}" if only else ""))
    made = build_summary(fewer, show)
    command = shlex.join(["lightexp", "report", *places, *(f"{k}={v}" for k, v in given.items())])
    history = _history(Path(places[0])) if len(places) == 1 else ()
    made = replace(made, words=(*said, *review.questions(made)), commands=(command,), history=history)
    return made, Path(given.get("out") or Path("outputs") / "reports" / (title or "runs"))


def _records(places: list[str], given: dict[str, str], complaints: list[str]) -> Iterator[Record]:
    from lightexp.report.runs import iterate_records

    if places and {"tracking.uri", "tracking.experiment"} & set(given):
        raise BadInput(f"a report is of folders or of an MLflow experiment. Received: {places} and {given}.")
    if places:
        return iterate_records([_inside(Path(place)) for place in places], complaints)
    from lightexp.tracking import fetch, stores

    uri = stores.resolve_uri(given.get("tracking.uri"), Path("outputs"))
    return fetch.download_records(uri, given.get("tracking.experiment", "lightexp"), complaints)


def _inside(place: Path) -> Path:
    """Of a study's folder, that of its front's points once they have been tested, else that of its trials."""
    return next((place / name for name in _STUDY if (place / "trials").is_dir() and (place / name).is_dir()), place)


def _history(place: Path) -> tuple[float, ...]:
    """A study's hypervolume after each trial."""
    try:
        return tuple(map(float, json.loads((place / "front.json").read_text())["hypervolume"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _runs(place: str, complaints: list[str]) -> list[Run]:
    from lightexp.report.runs import name_rows

    if not place.endswith((".yaml", ".yml")):
        return name_rows(_records([place], {}, complaints))
    from lightexp.ablation import results
    from lightexp.ablation.spec import read_spec

    study = read_spec(Path(place), [])
    return list(results.report_results(study, study.rows[0].settings.outputs, [], complaints).runs)


def _compare(places: list[str], complaints: list[str]) -> int:
    from lightexp.cli import ablation_view
    from lightexp.report import review
    from lightexp.report.compare import compare_runs

    first, second = (_runs(place, complaints) for place in places)
    if not first or not second:
        raise BadInput(f"--compare: {places[bool(first)]} has no finished run.")
    review.check_comparable([*first, *second], "--compare")
    settings, lines = compare_runs(first, second)
    ablation_view.beside(places, settings, lines)
    _complain(complaints)
    return 0


def _write(made: Report, folder: Path, complaints: list[str]) -> None:
    from lightexp.cli import ablation_view
    from lightexp.report.write import write_report

    try:
        written = write_report(made, folder)
    except OSError as error:
        raise BadInput(f"{folder} cannot be written: {error.strerror}. Set out=FOLDER.") from None
    ablation_view.report(made)
    _complain(complaints)
    print(f"Page    {written[0]}")
    print(f"Files   {folder}: {', '.join(sorted(path.name for path in written[1:]))}")


def _complain(complaints: list[str]) -> None:
    for words in complaints:
        print(f"lightexp: {words}", file=sys.stderr)
