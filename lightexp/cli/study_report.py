"""A study's folder as a report shows it: trials by their number, its objectives, and its own figures."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightexp.core.errors import BadInput
from lightexp.core.records import FRONT_FILE, list_run_folders
from lightexp.core.regular_files import read_text

if TYPE_CHECKING:
    from lightexp.core.record import Record

_FRONT, _TRIALS = "front", "trials"
_FIGURES = {
    "study_front": "front.svg",
    "hypervolume": "hypervolume.svg",
    "importance": "importance.svg",
    "slices": "slices.svg",
    "parallel": "parallel.svg",
}
"""Figures that the study has drawn, by their names in the report."""


@dataclass(frozen=True)
class StudyFolder:
    """What a study has left in its folder.

    Attributes:
        folder: The folder.
        history: Hypervolume after each trial.
        objectives: Names of its objectives.
        constraints: Its constraints as they were written.
        figures: SVGs that it has drawn.
    """

    folder: Path
    history: tuple[float, ...] = ()
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    figures: Mapping[str, bytes] = field(default_factory=dict)

    def iterate_trials(self, problems: list[str], infeasible: set[str]) -> Iterator[Record]:
        """Yield the records of the tested front, or else of all trials; the row of each is its trial's number.

        Args:
            problems: Receives a line for each record that cannot be used.
            infeasible: Receives the rows that break a constraint.
        """
        from lightexp.report.runs import iterate_records

        name = _FRONT if (self.folder / _FRONT).is_dir() else _TRIALS
        for folder in list_run_folders(self.folder / name) if os.path.isdir(self.folder / name) else ():
            number = re.search(r"\d+$", folder.name)
            for record in iterate_records([folder], problems):
                title = f"trial {int(number[0])}" if number else folder.name
                if not self._is_feasible(record):
                    infeasible.add(title)
                record.tags = {**record.tags, "row": title}
                yield record

    def _is_feasible(self, record: Record) -> bool:
        """Return whether a trial satisfies every constraint; one on a metric that it lacks is not satisfied."""
        from lightexp.search.goals import parse_constraints

        control = next((stage.values for stage in record.stages if stage.name == record.control), {})
        try:
            constraints = parse_constraints(list(self.constraints), record.metrics)
        except BadInput:
            return False
        return all(constraint.compute_violation(record.metrics, control) <= 0 for constraint in constraints)


def find_study(sources: Sequence[str]) -> StudyFolder | None:
    """Return the study whose folder is the only source; None if it is none."""
    folder = Path(sources[0]) if len(sources) == 1 else None
    # Where the workers were on other hosts, only the front is here; `os.path` also answers without permission.
    if folder is None or not (os.path.isdir(folder / _TRIALS) or os.path.isfile(folder / FRONT_FILE)):
        return None
    data = _read_data(folder)
    history = tuple(_select(data, "hypervolume", (int, float)))
    return StudyFolder(
        folder,
        history=history if all(map(math.isfinite, history)) else (),
        objectives=tuple(_select(data, "objectives", (str,))),
        constraints=tuple(_select(data, "constraints", (str,))),
        figures={name: svg for name, file in _FIGURES.items() if (svg := _read_figure(folder / file))},
    )


def _read_figure(path: Path) -> bytes:
    """Return an SVG; nothing where it is missing or no text."""
    try:
        return read_text(path).encode()
    except (OSError, ValueError):
        return b""


def _read_data(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(folder / FRONT_FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _select(data: Mapping[str, Any], name: str, types: tuple[type, ...]) -> list[Any]:
    """Return a list of the data, or an empty one if it holds anything else than these types."""
    values = data.get(name)
    is_valid = isinstance(values, list) and all(isinstance(v, types) and not isinstance(v, bool) for v in values)
    return values if is_valid and isinstance(values, list) else []
