"""The runs of an ablation, found by what they were: from records alone, without data or TensorFlow."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from lightexp.ablation.runs import compose_with_seed
from lightexp.ablation.spec import AblationSpec
from lightexp.core.record import Record
from lightexp.report import review
from lightexp.report.data import Report
from lightexp.report.runs import Run, RunReader, identify_settings, iterate_records
from lightexp.report.summary import build_summary


def report_results(study: AblationSpec, outputs: Path, overrides: list[str], complaints: list[str]) -> Report:
    """Summarises the runs of an ablation.

    A record counts for a row and seed if it bears their tags and its settings are the row's as the file has it now; of
    several the latest does.

    Args:
        study: The ablation.
        outputs: The folder of all outputs.
        overrides: Of the command line.
        complaints: Gets a line for each record of this ablation that cannot be used.

    Raises:
        BadInput: If nothing has run, or what has run cannot stand in one table.
    """
    rows = {row.name: row for row in study.rows}
    configs = {(row.name, seed): compose_with_seed(row, seed).plain for row in study.rows for seed in study.seeds}
    plugins = {place: config["plugins"] for place, config in configs.items()}
    wanted = {place: identify_settings(config, plugins[place]) for place, config in configs.items()}

    def ours(record: Record) -> bool:
        place = record.tags.get("row", ""), record.config.get("seed", -1)
        return record.tags.get("ablation") == study.name and place in wanted

    reader, found = RunReader(), dict[tuple[str, int], Run]()
    tested: dict[str, set[str]] = {}
    unfinished: list[str] = []
    for record in iterate_records([outputs] if outputs.is_dir() else [], unfinished, ours):
        place = record.tags["row"], record.config["seed"]
        now = identify_settings(record.config, plugins[place])
        if "accuracy/test" in record.metrics:
            tested.setdefault(place[0], set()).add(repr(now))
        if now == wanted[place]:
            found[place] = reader.run(record, place[0])
    complaints += unfinished
    if not found:
        return build_summary([], study.show)
    runs = [found[place] for place in wanted if place in found]
    review.check_comparable(runs, study.name)
    runs, show, said = review.without_foreign_latency(runs, study.show)
    refused = {name: row.refused for name, row in rows.items() if row.refused}
    made = build_summary(runs, replace(show, title=study.name), refused, order=list(rows))
    for name in rows:
        if name not in refused and not any(run.row == name for run in runs):
            said.append(f"'{name}' has no finished run")
    for name, kinds in tested.items():
        if len(kinds) > 1:
            said.append(f"'{name}' was tested with {len(kinds)} different settings: they may have been chosen on test")
    commands = [shlex.join(["lightexp", command, str(study.path), *overrides]) for command in ("ablate", "report")]
    return replace(made, questions=(*said, *review.list_questions(made)), commands=tuple(commands))
