"""Report of an ablation, from the records of its runs alone: no data set and no TensorFlow is loaded."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lightexp.ablation.runs import compose_with_seed
from lightexp.ablation.spec import AblationSpec
from lightexp.core.primary_metric import read_primary
from lightexp.core.record import Record
from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.runs import Run, RunReader, identify_settings, iterate_records
from lightexp.report.summary import build_summary


def report_results(spec: AblationSpec, outputs: Path, overrides: list[str], problems: list[str]) -> Report:
    """Summarize the runs of an ablation.

    A record counts for a row and seed if it has their tags and its settings are those that the file gives the row now;
    the latest of several counts.

    Args:
        spec: The ablation.
        outputs: The folder of all outputs.
        overrides: Overrides of the command line.
        problems: Receives a line for each record of this ablation that cannot be used.

    Raises:
        BadInput: If nothing has run, or the runs cannot be compared in one table.
    """
    runs, tested = _find_runs(spec, outputs, problems)
    if not runs:
        return build_summary([], spec.show)
    review.check_comparable(runs, spec.name)
    runs, show, questions = review.drop_incomparable_latency(runs, spec.show)
    refused = {row.name: row.refused for row in spec.rows if row.refused}
    names = [row.name for row in spec.rows]
    report = build_summary(runs, replace(show, title=spec.name), refused, order=names)
    finished = {run.row for run in runs}
    questions += [f"'{name}' has no finished run" for name in names if name not in refused and name not in finished]
    for name, settings in tested.items():
        if len(settings) > 1:
            questions.append(
                f"'{name}' was tested with {len(settings)} different settings: they may have been chosen on test"
            )
    commands = [shlex.join(["lightexp", command, str(spec.path), *overrides]) for command in ("ablate", "report")]
    return replace(report, questions=(*questions, *review.list_questions(report)), commands=tuple(commands))


def _find_runs(spec: AblationSpec, outputs: Path, problems: list[str]) -> tuple[list[Run], Mapping[str, set[str]]]:
    """Return the runs that count, in the order of rows and seeds, and by row the settings that were ever tested."""
    composed = {(row.name, seed): compose_with_seed(row, seed) for row in spec.rows for seed in spec.seeds}
    plugins = {key: settings.plain["plugins"] for key, settings in composed.items()}
    expected = {key: identify_settings(settings.written, plugins[key]) for key, settings in composed.items()}

    def is_of_ablation(record: Record) -> bool:
        row_and_seed = record.tags.get("row", ""), record.config.get("seed", -1)
        return record.tags.get("ablation") == spec.name and row_and_seed in expected

    reader = RunReader()
    runs: dict[tuple[str, int], Run] = {}
    tested: dict[str, set[str]] = {}
    for record in iterate_records([outputs] if outputs.is_dir() else [], problems, is_of_ablation):
        row_and_seed = record.tags["row"], record.config["seed"]
        settings = identify_settings(record.config, plugins[row_and_seed])
        if f"{read_primary(record.dataset).name}/test" in record.metrics:
            tested.setdefault(record.tags["row"], set()).add(repr(settings))
        if settings == expected[row_and_seed]:
            runs[row_and_seed] = reader.run(record, record.tags["row"])
    return [runs[key] for key in expected if key in runs], tested
