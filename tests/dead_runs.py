"""Runs as processes leave them that were killed."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.record import Record


def write_dead_run(runs: Path, name: str, **changes: object) -> Path:
    """Write a run as a killed process leaves it: with a record, and a lock that no process holds."""
    folder = runs / name
    folder.mkdir(parents=True)
    values: dict[str, object] = {"config": {}, "varied": [], "environment": {}, "started": 1.0, **changes}
    Record(id=name, name=name, command="lightexp run", **values).write(folder)  # type: ignore[arg-type]
    (runs / ".live").mkdir(exist_ok=True)
    (runs / ".live" / f"{name}.lock").touch()
    return folder
