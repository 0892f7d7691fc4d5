"""`lightexp track`: what MLflow has not seen yet is uploaded."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightexp.cli.arguments import Arguments
from lightexp.core.config import build
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.record import Record
from lightexp.core.records import RUNS, load_records
from lightexp.core.store import explain_disk_errors
from lightexp.runner import run_lock
from lightexp.runner.compose import compose_settings
from lightexp.tracking.mirror import NoTracking, Tracking
from lightexp.tracking.mlflow import Mlflow, MlflowMirror

_HELP = """A run's record is whole whatever becomes of MLflow. Runs that MLflow has not seen (it could not be reached,
or they were made with tracking=none, or its store was deleted) are uploaded; what is there already stays as it is.

  lightexp track sync                                       each run to where its own config would have shown it,
                                                            one with tracking=none to outputs/mlflow.db
  lightexp track sync tracking.uri=http://HOST:PORT         all runs to this server
  lightexp track sync tracking.experiment=NAME              all runs to this experiment
  lightexp track sync paths.outputs=FOLDER                  the runs of another folder of outputs

Runs that are still going on are left out. Runs that were deleted in MLflow's bin are not uploaded again. Exit codes:
0 done, 1 not everything could be uploaded, 2 bad input, 130 interrupted: the same command goes on from there."""


def make_parser() -> Arguments:
    """The command's flags."""
    made = Arguments("track", description=_HELP).add_config_dir()
    made.add_command("sync", "upload what MLflow has not seen").add_config_dir()
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp track` and returns the exit code."""
    _, overrides = make_parser().read(words)
    chosen = compose_settings(overrides)
    if not isinstance(chosen.tracking, Mlflow):
        raise BadInput("track sync uploads to MLflow. Received: tracking=none. Leave it out, or set tracking.uri=URI.")
    all_there = any(word.lstrip("+").startswith("tracking") for word in overrides)
    runs = chosen.outputs / RUNS
    if not runs.is_dir():
        raise BadInput(f"{chosen.outputs} holds no runs. Set paths.outputs=FOLDER.")
    with explain_disk_errors(chosen.outputs), FileLock(runs / ".sync.lock"):  # two at once would show a run twice
        run_lock.reap_dead_runs(runs, lambda record: NoTracking().mirror(chosen.outputs, _say))
        return _Sync(chosen.outputs, chosen.tracking, all_there).run()


def _say(words: str) -> None:
    print("lightexp:", words, file=sys.stderr)


class _Sync:
    """Uploads the runs of a folder of outputs."""

    def __init__(self, outputs: Path, tracking: Mlflow, all_there: bool) -> None:
        self._outputs, self._tracking, self._all_there = outputs, tracking, all_there
        self._mirrors: dict[Mlflow, tuple[MlflowMirror, dict[str, Any]] | None] = {}  # None where it is down

    def run(self) -> int:
        records, words = load_records(self._outputs)
        for line in words:
            _say(f"left out: {line}")
        done = Counter[str]()
        for record in records:
            done[self._one(record)] += 1
        parts = [
            f"{done[what]} {what}" for what in ("uploaded", "there already", "still running", "failed") if done[what]
        ]
        print(
            f"{', '.join(parts) or 'no runs'}: {', '.join(found[0].uri for found in self._mirrors.values() if found)}"
        )
        return 1 if done["failed"] else 0

    def _one(self, record: Record) -> str:
        """Uploads a run where it is not shown yet; returns what became of it."""
        folder = self._outputs / RUNS / record.id
        if record.status == "running" or run_lock.is_alive(folder.parent, record.id):
            return "still running"
        place = self._mirror(self._tracking if self._all_there else self._own(record))
        if place is None:
            return "failed"
        mirror, shown = place
        there = shown.get(record.id)
        if there and (there.info.lifecycle_stage == "deleted" or mirror.holds(there, folder)):
            return "there already"
        kept = record
        if record.mlflow.get("uri", mirror.uri) != mirror.uri and "run_id" in record.mlflow:
            kept = replace(record, mlflow={})  # it is shown elsewhere, and its record goes on saying so
        if there:
            kept.mlflow = {**mirror.place, "run_id": there.info.run_id}
        else:
            mirror.start(kept)
        if "run_id" in kept.mlflow:
            if kept is record:
                record.write(folder)  # as it is to be uploaded
            kept.mlflow["missing"] = "not all of it has been uploaded"
            mirror.end(kept, folder)
        if kept is record:
            record.write(folder)
        if "missing" in kept.mlflow:
            return "failed"
        print(f"{record.id}  {record.name}: run {kept.mlflow['run_id']}")
        return "uploaded"

    def _own(self, record: Record) -> Mlflow:
        """Where its own config shows a run."""
        own = build(record.config["tracking"], Tracking, "tracking", tuple(record.config["plugins"]))  # type: ignore[type-abstract]
        return own if isinstance(own, Mlflow) else self._tracking

    def _mirror(self, tracking: Mlflow) -> tuple[MlflowMirror, dict[str, Any]] | None:
        """A mirror and what it shows, or None where it cannot be used, which is said once."""
        if tracking not in self._mirrors:
            mirror = tracking.mirror(self._outputs, _say)
            try:
                self._mirrors[tracking] = mirror, mirror.shown()
            except RunFailed as error:
                _say(f"{error} No run was uploaded there.")
                self._mirrors[tracking] = None
        return self._mirrors[tracking]
