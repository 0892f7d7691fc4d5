"""`lightexp track sync`: upload the runs that MLflow has not seen yet."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from filelock import FileLock

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import print_error, print_line
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE, Record, read_run
from lightexp.core.records import RUNS
from lightexp.runner import run_lock
from lightexp.runner.compose import compose_settings
from lightexp.tracking import stores
from lightexp.tracking.mlflow import Mlflow, MlflowMirror, find_recorded_place

_HELP = """A run's record is complete whatever becomes of MLflow. This uploads the runs that MLflow has not seen:
because it could not be reached, they were made with tracking=none, or its store was deleted. The others stay unchanged.

  lightexp track sync                                       to outputs/mlflow.db: runs recorded for it or for nowhere
  lightexp track sync tracking.uri=http://HOST:PORT         all runs to this server
  lightexp track sync tracking.experiment=NAME              all runs to this experiment
  lightexp track sync --to-recorded                         each run to the server that its own record names
  lightexp track sync paths.outputs=FOLDER                  the runs of another outputs folder

A record names its server, which its writer chose: without --to-recorded, runs recorded for another
server are left out. So are runs that are still going on. Runs that were deleted in MLflow's bin are not uploaded again.
Exit codes: 0 done, 1 not everything could be uploaded, 2 bad input, 130 interrupted: the same command goes on."""

_UPLOADED, _UNCHANGED, _RUNNING, _FAILED = "uploaded", "there already", "still running", "failed"
_LEFT_OUT = "left out"
_RESULTS = (_UPLOADED, _UNCHANGED, _RUNNING, _LEFT_OUT, _FAILED)


def make_parser() -> Arguments:
    """Make the parser of `lightexp track`."""
    usage = "%(prog)s sync [--to-recorded] [--config-dir DIR] [setting=value ...]"
    parser = Arguments("track", usage=usage, description=_HELP).add_config_dir()
    sync = parser.add_command("sync", "upload what MLflow has not seen").add_config_dir()
    sync.add_argument("--to-recorded", action="store_true", help="each run to the server that its record names")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp track` and return the exit code."""
    options, overrides = make_parser().read(argv)
    settings = compose_settings(overrides)
    if not isinstance(settings.tracking, Mlflow):
        raise BadInput("track sync uploads to MLflow. Received: tracking=none. Leave it out, or set tracking.uri=URI.")
    to_one_place = any(override.lstrip("+").startswith("tracking") for override in overrides)
    if to_one_place and options.to_recorded:
        raise BadInput(f"--to-recorded and {' '.join(overrides)} name different places. Leave one of them out.")
    runs = settings.outputs / RUNS
    if not runs.is_dir():
        raise BadInput(f"{settings.outputs} holds no runs. Set paths.outputs=FOLDER.")
    with explain_disk_errors(settings.outputs), FileLock(runs / ".sync.lock"):  # two at once would show a run twice
        run_lock.reap_dead_runs(runs)
        return _RunSync(settings.outputs, settings.tracking, options.to_recorded, to_one_place).sync_all()


def _say(message: str) -> None:
    print_error(message, sys.stderr)


class _RunSync:
    """Upload the runs of an outputs folder."""

    def __init__(self, outputs: Path, tracking: Mlflow, to_recorded: bool, to_one_place: bool) -> None:
        """Upload nothing yet.

        Args:
            outputs: The outputs folder.
            tracking: The server and experiment of the command.
            to_recorded: Whether a run goes to the server that its record names, whichever it is.
            to_one_place: Whether all runs go to the command's experiment, whatever their records name.
        """
        self._outputs, self._to_recorded, self._to_one_place = outputs, to_recorded, to_one_place
        self._tracking = replace(tracking, uri=stores.resolve_uri(tracking.uri, outputs))
        self._mirrors: dict[Mlflow, MlflowMirror] = {}
        self._other_servers: Counter[str] = Counter()

    def sync_all(self) -> int:
        """Upload every run, print what was done, and return the exit code."""
        runs: list[tuple[Path, Record]] = []
        for folder in sorted(path.parent for path in (self._outputs / RUNS).glob(f"*/{RECORD_FILE}")):
            try:
                runs.append((folder, read_run(folder)))
            except BadInput as complaint:
                _say(f"left out: {complaint}")
        counts = Counter(self._sync(folder, record) for folder, record in sorted(runs, key=lambda run: run[1].started))
        for uri, number in self._other_servers.items():
            _say(
                f"left out: {number} recorded for {uri}. Add --to-recorded to send each run to the server that its "
                "record names, or set tracking.uri=URI to send all runs to one."
            )
        uris = [mirror.uri for mirror in self._mirrors.values() if mirror.is_reachable]
        parts = [f"{counts[result]} {result}" for result in _RESULTS if counts[result]]
        print_line(f"{', '.join(parts) or 'no runs'}: {', '.join(uris)}".removesuffix(": "))
        return 1 if counts[_FAILED] else 0

    def _sync(self, folder: Path, record: Record) -> str:
        """Upload what MLflow lacks of a run, and return what was done."""
        if record.status == "running" or run_lock.is_alive(folder.parent, record.id):
            return _RUNNING
        try:
            tracking = self._choose_place(record)
        except BadInput as complaint:
            _say(f"left out: {complaint}")
            return _LEFT_OUT
        if tracking is None:
            return _LEFT_OUT
        result = self._open_mirror(tracking).sync(folder)
        if result.note_in(record):
            record.write(folder)
        if "missing" in result.place:
            return _FAILED
        if not result.changed:
            return _UNCHANGED
        print_line(f"{record.id}  {record.name}: run {result.place['run_id']}")
        return _UPLOADED

    def _choose_place(self, record: Record) -> Mlflow | None:
        """Return where a run goes; None if its record names a server that the command does not."""
        recorded = None if self._to_one_place else find_recorded_place(record, self._outputs)
        if recorded is None:
            return self._tracking
        if self._to_recorded or recorded.uri == self._tracking.uri:
            return replace(self._tracking, uri=recorded.uri, experiment=recorded.experiment)
        self._other_servers[str(recorded.uri)] += 1
        return None

    def _open_mirror(self, tracking: Mlflow) -> MlflowMirror:
        if tracking not in self._mirrors:
            self._mirrors[tracking] = tracking.open_mirror(self._outputs, _say)
        return self._mirrors[tracking]
