"""`lightexp track sync`: upload the runs that MLflow has not seen yet."""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import print_error, print_line
from lightexp.core import interrupt
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import INTERRUPTED, BadInput
from lightexp.core.formatting import format_duration
from lightexp.core.record import Record, read_run
from lightexp.core.records import MAX_COMPLAINTS, RUNS, list_run_folders
from lightexp.runner import run_lock
from lightexp.runner.compose import compose_settings
from lightexp.tracking import stores
from lightexp.tracking.mlflow import Mlflow, MlflowMirror, find_recorded_place
from lightexp.tracking.upload_notes import UploadNotes

_HELP = """A run's record is complete whatever becomes of MLflow. This uploads the runs that MLflow has not seen:
because it could not be reached, they were made with tracking=none, or its store was deleted. The others stay unchanged.

  lightexp track sync                                       to outputs/mlflow.db: runs recorded for it or for nowhere
  lightexp track sync tracking.uri=http://HOST:PORT         all runs to this server
  lightexp track sync tracking.experiment=NAME              all runs to this experiment
  lightexp track sync --to-recorded                         each run to the server that its own record names
  lightexp track sync paths.outputs=FOLDER                  the runs of another outputs folder
  lightexp track sync --compare-all                         asks MLflow about every run

What was uploaded is noted. Of the runs that have not changed since, 20 are compared with MLflow: the newest ten and ten
at random. If one of them differs there, or the experiment was made anew, all are compared, as with --compare-all.

A record names its server, which its writer chose: without --to-recorded, runs recorded for another
server are left out. So are runs that are still going on. Runs that were deleted in MLflow's bin are not uploaded again.
Exit codes: 0 done, 1 not everything could be uploaded, 2 bad input, 130 interrupted: the same command goes on."""

_UPLOADED, _UNCHANGED, _RUNNING, _FAILED = "uploaded", "there already", "still running", "failed"
_DELETED, _LEFT_OUT = "deleted in MLflow", "left out"
_RESULTS = (_UPLOADED, _UNCHANGED, _DELETED, _RUNNING, _LEFT_OUT, _FAILED)
NEWEST, DRAWN = 10, 10
"""How many of the newest and of the other runs are compared with MLflow though their upload is noted."""
PROGRESS_PAUSE_S = 10.0


def make_parser() -> Arguments:
    """Make the parser of `lightexp track`."""
    usage = "%(prog)s sync [--to-recorded] [--compare-all] [--config-dir DIR] [setting=value ...]"
    parser = Arguments("track", usage=usage, description=_HELP).add_config_dir()
    sync = parser.add_command("sync", "upload what MLflow has not seen").add_config_dir()
    sync.add_argument("--to-recorded", action="store_true", help="each run to the server that its record names")
    sync.add_argument("--compare-all", action="store_true", help="ask MLflow also about runs whose upload is noted")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp track` and return the exit code."""
    interrupt.install_handlers()
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
    with explain_disk_errors(settings.outputs), _lock(runs):
        run_lock.reap_dead_runs(runs)
        UploadNotes(runs).remove_orphans()
        sync = _RunSync(settings.outputs, settings.tracking, options.to_recorded, to_one_place)
        try:
            return sync.sync_all(options.compare_all)
        except KeyboardInterrupt:
            _say("Interrupted. What was uploaded stays; the same 'lightexp track sync' goes on from there.")
            return INTERRUPTED


def _lock(runs: Path) -> AbstractContextManager[object]:
    """Return a context in which no other command uploads these runs: two at once would show a run twice."""
    lock = FileLock(runs / ".sync.lock")
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        _say("Another 'lightexp track sync' uploads these runs; waiting for it.")
        return lock.acquire()


def _say(message: str) -> None:
    print_error(message, sys.__stderr__)


@dataclass(frozen=True)
class _Upload:
    """A run that has ended, and where it goes.

    Attributes:
        folder: The run's folder.
        started: Seconds since the epoch.
        place: The server and experiment.
    """

    folder: Path
    started: float
    place: Mlflow


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
        self._counts: Counter[str] = Counter()
        self._complaints = 0

    def sync_all(self, compare_all: bool) -> int:
        """Upload every run, print what was done, and return the exit code.

        Args:
            compare_all: Whether MLflow is asked about every run, also about those whose upload is noted.
        """
        noted, others = self._list_uploads(compare_all)
        for uri, number in self._other_servers.items():
            _say(
                f"left out: {number} recorded for {uri}. Add --to-recorded to send each run to the server that its "
                "record names, or set tracking.uri=URI to send all runs to one."
            )
        trusted = 0
        for uploads in noted.values():
            compared, rest = _draw_compared(uploads)
            results = {self._sync(upload) for upload in compared}
            if results <= {_UNCHANGED, _DELETED}:
                self._counts[_UNCHANGED] += len(rest)
                trusted += len(rest)
            else:
                others += rest
        others.sort(key=lambda upload: upload.started)
        progress = _ProgressLines(len(others))
        for upload in others:
            self._sync(upload)
            progress.step()
        uris = [mirror.uri for mirror in self._mirrors.values() if mirror.is_reachable]
        parts = [f"{self._counts[result]} {result}" for result in _RESULTS if self._counts[result]]
        if trusted:
            print_line(f"{trusted} unchanged since their upload was noted; --compare-all asks MLflow about each.")
        print_line(f"{', '.join(parts) or 'no runs'}: {', '.join(uris)}".removesuffix(": "))
        return 1 if self._counts[_FAILED] else 0

    def _list_uploads(self, compare_all: bool) -> tuple[dict[Mlflow, list[_Upload]], list[_Upload]]:
        """Return the runs whose upload is noted, by place, and the others; count those that go nowhere."""
        noted: dict[Mlflow, list[_Upload]] = {}
        others: list[_Upload] = []
        for folder in list_run_folders(self._outputs):
            try:
                record = read_run(folder)
            except BadInput as complaint:
                self._complain(complaint)
                self._counts[_LEFT_OUT] += 1
                continue
            if record.status == "running" or run_lock.is_alive(folder.parent, record.id):
                self._counts[_RUNNING] += 1
            elif (place := self._choose_place(record)) is None:
                self._counts[_LEFT_OUT] += 1
            else:
                is_noted = not compare_all and self._open_mirror(place).has_noted(folder, record)
                uploads = noted.setdefault(place, []) if is_noted else others
                uploads.append(_Upload(folder, record.started, place))
        return noted, others

    def _sync(self, upload: _Upload) -> str:
        """Upload what MLflow lacks of a run, and return what was done, which is counted."""
        try:
            record = read_run(upload.folder)
            result = self._open_mirror(upload.place).sync(upload.folder)
        except BadInput as complaint:  # it has been removed or changed since it was listed
            self._complain(complaint)
            self._counts[_LEFT_OUT] += 1
            return _LEFT_OUT
        if result.note_in(record):
            record.write(upload.folder)
        if "missing" in result.place:
            done = _FAILED
        elif result.is_deleted:
            done = _DELETED
        else:
            done = _UPLOADED if result.changed else _UNCHANGED
        if done == _UPLOADED:
            print_line(f"{record.id}  {record.name}: run {result.place['run_id']}")
        self._counts[done] += 1
        interrupt.raise_if_requested()
        return done

    def _choose_place(self, record: Record) -> Mlflow | None:
        """Return where a run goes; None if nowhere, of which the user hears."""
        try:
            recorded = None if self._to_one_place else find_recorded_place(record, self._outputs)
        except BadInput as complaint:
            self._complain(complaint)
            return None
        if recorded is None:
            return self._tracking
        if self._to_recorded or recorded.uri == self._tracking.uri:
            return replace(self._tracking, uri=recorded.uri, experiment=recorded.experiment)
        self._other_servers[str(recorded.uri)] += 1
        return None

    def _complain(self, complaint: BadInput) -> None:
        self._complaints += 1
        if self._complaints <= MAX_COMPLAINTS:
            _say(f"left out: {complaint}")
        elif self._complaints == MAX_COMPLAINTS + 1:
            _say("left out: more runs, which the last line counts")

    def _open_mirror(self, tracking: Mlflow) -> MlflowMirror:
        if tracking not in self._mirrors:
            self._mirrors[tracking] = tracking.open_mirror(self._outputs, _say)
        return self._mirrors[tracking]


def _draw_compared(uploads: list[_Upload]) -> tuple[list[_Upload], list[_Upload]]:
    """Return the uploads that are compared with MLflow though they are noted, and the rest."""
    by_age = sorted(uploads, key=lambda upload: upload.started)
    older, newest = by_age[:-NEWEST], by_age[-NEWEST:]
    drawn = random.sample(older, min(DRAWN, len(older)))
    compared = {upload.folder for upload in drawn}
    return [*drawn, *newest], [upload for upload in older if upload.folder not in compared]


class _ProgressLines:
    """Lines on standard error, every ten seconds: how many of some runs are done, the rate, and the time left."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started = self._printed = time.monotonic()

    def step(self) -> None:
        """Count a run as done."""
        self._done += 1
        now = time.monotonic()
        if now - self._printed < PROGRESS_PAUSE_S:
            return
        self._printed = now
        rate = self._done / (now - self._started)
        time_left = format_duration((self._total - self._done) / rate)
        _say(f"{self._done} of {self._total} runs, {rate:.1f} runs/s, about {time_left} left")
