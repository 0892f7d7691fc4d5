"""Groups of runs in MLflow: an ablation or a sweep is the parent run of its runs, with its table as the description."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from lightexp.core.records import RUNS
from lightexp.tracking.mirror import MirrorSettings, asks_for_mirror
from lightexp.tracking.remote_mirror import RemoteMirror
from lightexp.tracking.study_payload import StudyPayload

ABLATION, SWEEP = "ablation", "sweep"
"""Tags of a record that name the group of its run."""
GROUP = "group"
"""Tag of a record that another host has made for a command: the id of the command's group."""
CALL = "call"
"""Tag of a record that another host has made for a command: the command's name."""
_GROUP_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class RunGroup:
    """An ablation or a sweep of one outputs folder, which is that of the command.

    Attributes:
        id: Distinguishes it from groups of the same name in other outputs folders.
        name: For people.
    """

    id: str
    name: str


def find_group(tags: Mapping[str, str], outputs: Path) -> RunGroup | None:
    """Return the group that a record's tags name; None if they name none.

    Args:
        tags: The record's tags.
        outputs: The outputs folder that the record is in; a tag `group` counts instead.
    """
    for kind in (ABLATION, SWEEP):
        if name := tags.get(kind):
            identity = "\n".join((kind, name, str(outputs.resolve())))
            group_id = hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()[:32]
            if _GROUP_ID.fullmatch(tags.get(GROUP, "")):
                group_id = tags[GROUP]
            return RunGroup(group_id, f"{kind} {name}")
    return None


def make_group_tag(tags: Mapping[str, str], outputs: Path) -> dict[str, str]:
    """Return the tag by which a run on another host is in the group of this outputs folder; none without a group."""
    group = find_group(tags, outputs)
    return {GROUP: group.id} if group else {}


def build_sweep_tags(folder: Path, swept: Sequence[str]) -> dict[str, str]:
    """Return the tags of a sweep's job: the sweep, and what the job has set besides its seed.

    Args:
        folder: The sweep's folder.
        swept: The job's overrides that differ from those of other jobs.

    Example:
        >>> build_sweep_tags(Path("sweeps/today"), ["pipeline.stages.prune.sparsity=0.5", "seed=1"])
        {'sweep': 'today', 'job': 'prune.sparsity=0.5'}
    """
    pairs = [override.lstrip("+~").partition("=") for override in swept if not override.startswith("seed=")]
    job = " ".join(f"{'.'.join(name.split('.')[-2:])}{equals}{value}" for name, equals, value in pairs)
    return {SWEEP: folder.name} | ({"job": job} if job else {})


def lock_groups(outputs: Path) -> FileLock:
    """Return the lock under which a group's parent run is looked for and created, by one process at a time."""
    runs = outputs / RUNS
    runs.mkdir(parents=True, exist_ok=True)
    return FileLock(runs / ".groups.lock")


class RunGroupTracker:
    """Show a group as running, and at the end its table, without waiting for MLflow meanwhile."""

    def __init__(self, group: RunGroup, settings: MirrorSettings, mirror: RemoteMirror) -> None:
        """Show nothing yet.

        Args:
            group: The group.
            settings: Of the mirror. Nothing is shown if they ask for none.
            mirror: Reaches the mirror.
        """
        self._group, self._settings, self._mirror = group, settings, mirror
        self._thread = ThreadPoolExecutor(1)

    def start(self) -> None:
        """Show the group as running."""
        self._thread.submit(self._upload, "RUNNING")

    def end(self, status: str, table: Path | None = None, call: str = "") -> None:
        """Show how the group ended, and wait for that.

        Args:
            status: MLflow's: `FINISHED`, `FAILED` or `KILLED`.
            table: File of its table in Markdown, if there is one. Defaults to None.
            call: See `StudyPayload`. Defaults to none.
        """
        self._thread.submit(self._upload, status, table, call).result()
        self._thread.shutdown()

    def _upload(self, status: str, table: Path | None = None, call: str = "") -> None:
        if not asks_for_mirror(self._settings.tracking):
            return
        payload = StudyPayload(self._group.id, self._group.name, status, call=call)
        if table is not None and table.is_file():
            payload = replace(payload, files={str(table): ""}, table=table.read_text(encoding="utf-8"))
        with lock_groups(Path(self._settings.outputs)):
            self._mirror.sync_study(payload, self._settings)
