"""Report of an ablation, from the records of its runs alone: no data set and no TensorFlow is loaded."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightexp.ablation.runs import compose_with_seed, make_tags
from lightexp.ablation.spec import AblationSpec
from lightexp.core.json_text import encode_json
from lightexp.core.primary_metric import read_primary
from lightexp.core.record import Record
from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.runs import Run, RunReader, identify_settings, iterate_records, make_no_runs_error
from lightexp.report.summary import build_summary


def report_results(spec: AblationSpec, outputs: Path, overrides: list[str], problems: list[str]) -> Report:
    """Summarize the runs of an ablation.

    A record counts for a row and seed if its settings are those that the file gives the row now, and it is of this
    ablation, whatever its row was called, or of another one with the same measurements, such as a copy of the file. The
    latest of several counts.

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
        raise make_no_runs_error(spec.name, problems)
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
    matcher = _RecordMatcher(spec)
    reader = RunReader()
    runs: dict[tuple[str, int], Run] = {}
    sources: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for record in iterate_records([outputs] if outputs.is_dir() else [], problems, matcher.is_wanted):
        if row := matcher.find_row(record):
            runs[row, record.config["seed"]] = reader.run(record, row)
            sources[row].add((record.tags["ablation"], record.tags.get("row", "")))
    for own in spec.rows:
        sources[own.name].add((spec.name, own.name))
    tested = {row: set().union(*(matcher.tested[tags] for tags in pairs)) for row, pairs in sources.items()}
    return [runs[key] for row in spec.rows for seed in spec.seeds if (key := (row.name, seed)) in runs], tested


class _RecordMatcher:
    """Finds the row of an ablation that a record is of, by its settings.

    Attributes:
        tested: Settings with which records were measured on the test split, by the tags `ablation` and `row`.
    """

    def __init__(self, spec: AblationSpec) -> None:
        self._name = spec.name
        composed = {(row.name, seed): compose_with_seed(row, seed) for row in spec.rows for seed in spec.seeds}
        self._plugins = sorted({plugin for settings in composed.values() for plugin in settings.plain["plugins"]})
        self._rows = {(seed, self._identify(s.written)): row for (row, seed), s in composed.items()}
        self._own = set(composed)
        self._measured = {row: make_tags("", row, settings)["measured"] for (row, _), settings in composed.items()}
        self._identities: dict[str, str] = {}
        self.tested: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def is_wanted(self, record: Record) -> bool:
        """Return whether a record is of a row, or was one of this ablation when it had other settings."""
        tags, seed = record.tags, record.config.get("seed", -1)
        if "ablation" not in tags or seed not in {seed for _, seed in self._own}:
            return False
        self._identities[record.id] = self._identify(record.config)
        if record.status == "done" and f"{read_primary(record.dataset).name}/test" in record.metrics:
            self.tested[tags["ablation"], tags.get("row", "")].add(self._identities[record.id])
        if tags["ablation"] == self._name and (tags.get("row", ""), seed) in self._own:
            return True
        row = self.find_row(record)
        return row is not None and (tags["ablation"] == self._name or tags.get("measured") == self._measured[row])

    def find_row(self, record: Record) -> str | None:
        """Return the row whose settings a record has; None where no row has them."""
        return self._rows.get((record.config["seed"], self._identities[record.id]))

    def _identify(self, config: Mapping[str, Any]) -> str:
        return encode_json(identify_settings(config, self._plugins), sort_keys=True)
