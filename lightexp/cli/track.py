"""`lightexp track sync`: upload the runs that MLflow has not seen yet."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from filelock import FileLock

from lightexp.cli.arguments import Arguments
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import BadInput
from lightexp.core.record import Record
from lightexp.core.records import RUNS, load_records
from lightexp.runner import run_lock
from lightexp.runner.compose import compose_settings
from lightexp.tracking.mirror import MirrorSettings
from lightexp.tracking.mlflow import Mlflow, MlflowMirror

_HELP = """A run's record is complete whatever becomes of MLflow. This uploads the runs that MLflow has not seen:
because it could not be reached, they were made with tracking=none, or its store was deleted. The others stay unchanged.

  lightexp track sync                                       each run to where its own config shows it,
                                                            one with tracking=none to outputs/mlflow.db
  lightexp track sync tracking.uri=http://HOST:PORT         all runs to this server
  lightexp track sync tracking.experiment=NAME              all runs to this experiment
  lightexp track sync paths.outputs=FOLDER                  the runs of another outputs folder

Runs that are still going on are left out. Runs that were deleted in MLflow's bin are not uploaded again. Exit codes:
0 done, 1 not everything could be uploaded, 2 bad input, 130 interrupted: the same command goes on from there."""

_UPLOADED, _UNCHANGED, _RUNNING, _FAILED = "uploaded", "there already", "still running", "failed"


def make_parser() -> Arguments:
    """Make the parser of `lightexp track`."""
    usage = "%(prog)s sync [--config-dir DIR] [setting=value ...]"
    parser = Arguments("track", usage=usage, description=_HELP).add_config_dir()
    parser.add_command("sync", "upload what MLflow has not seen").add_config_dir()
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp track` and return the exit code."""
    _, overrides = make_parser().read(argv)
    settings = compose_settings(overrides)
    if not isinstance(settings.tracking, Mlflow):
        raise BadInput("track sync uploads to MLflow. Received: tracking=none. Leave it out, or set tracking.uri=URI.")
    to_one_place = any(override.lstrip("+").startswith("tracking") for override in overrides)
    runs = settings.outputs / RUNS
    if not runs.is_dir():
        raise BadInput(f"{settings.outputs} holds no runs. Set paths.outputs=FOLDER.")
    with explain_disk_errors(settings.outputs), FileLock(runs / ".sync.lock"):  # two at once would show a run twice
        run_lock.reap_dead_runs(runs)
        return _RunSync(settings.outputs, settings.tracking, to_one_place).sync_all()


def _say(message: str) -> None:
    print("lightexp:", message, file=sys.stderr)


class _RunSync:
    """Upload the runs of an outputs folder."""

    def __init__(self, outputs: Path, tracking: Mlflow, to_one_place: bool) -> None:
        """Upload nothing yet.

        Args:
            outputs: The outputs folder.
            tracking: Where runs with tracking=none are shown.
            to_one_place: Whether all runs are shown there.
        """
        self._outputs, self._tracking, self._to_one_place = outputs, tracking, to_one_place
        self._mirrors: dict[Mlflow, MlflowMirror] = {}

    def sync_all(self) -> int:
        """Upload every run, print what was done, and return the exit code."""
        records, complaints = load_records(self._outputs)
        for complaint in complaints:
            _say(f"left out: {complaint}")
        counts = Counter(self._sync(record) for record in records)
        parts = [
            f"{counts[result]} {result}" for result in (_UPLOADED, _UNCHANGED, _RUNNING, _FAILED) if counts[result]
        ]
        uris = [mirror.uri for mirror in self._mirrors.values() if mirror.is_reachable]
        print(f"{', '.join(parts) or 'no runs'}: {', '.join(uris)}")
        return 1 if counts[_FAILED] else 0

    def _sync(self, record: Record) -> str:
        """Upload what MLflow lacks of a run, and return what was done."""
        folder = self._outputs / RUNS / record.id
        if record.status == "running" or run_lock.is_alive(folder.parent, record.id):
            return _RUNNING
        tracking = self._tracking if self._to_one_place else self._find_own_tracking(folder, record)
        result = self._open_mirror(tracking).sync(folder)
        if result.note_in(record):
            record.write(folder)
        if "missing" in result.place:
            return _FAILED
        if not result.changed:
            return _UNCHANGED
        print(f"{record.id}  {record.name}: run {result.place['run_id']}")
        return _UPLOADED

    def _find_own_tracking(self, folder: Path, record: Record) -> Mlflow:
        """Return where its own config shows a run, or the settings' place for one that it shows nowhere."""
        tracking = MirrorSettings.of_run(folder, record).build()
        return tracking if isinstance(tracking, Mlflow) else self._tracking

    def _open_mirror(self, tracking: Mlflow) -> MlflowMirror:
        if tracking not in self._mirrors:
            self._mirrors[tracking] = tracking.open_mirror(self._outputs, _say)
        return self._mirrors[tracking]
