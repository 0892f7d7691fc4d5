"""Mirror runs and studies through a separate process, from the side of the command that runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightexp.core.errors import format_reason
from lightexp.core.record import Record
from lightexp.tracking.mirror import NOT_ASKED_FOR, MirrorSettings, SyncResult, asks_for_mirror
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.study_payload import StudyPayload


class RemoteMirror:
    """Mirror runs and studies through a `MirrorProcess`, which is started when the first one asks for a mirror.

    Whatever becomes of that process, nothing is raised: the reason is kept under `missing`.
    """

    def __init__(self, say: Callable[[str], None], process: MirrorProcess | None = None) -> None:
        """Start nothing yet.

        Args:
            say: Takes each line for the user.
            process: The process, if it has been started early, which saves its start-up. Defaults to None.
        """
        self._say = say
        self._process = process
        self._failure_reported = False

    def sync(self, folder: Path, record: Record, settings: MirrorSettings, create: bool = True) -> SyncResult:
        """Bring what is shown of a run to the state of the `record.json` in its folder.

        Args:
            folder: The run's folder.
            record: The same record in memory, in which is noted where the run is shown.
            settings: Of the mirror that the command asks for. What the record says of mirrors is not followed, since
                the run may be of somebody else.
            create: See `Mirror.sync`. Defaults to True.

        Returns:
            What the mirror shows; `changed` says whether the record has changed and must be written again.
        """
        if not asks_for_mirror(settings.tracking):
            place = NOT_ASKED_FOR if create or asks_for_mirror(record.config.get("tracking")) else {}
            return SyncResult(place, SyncResult(place).note_in(record))
        try:
            place = self._call({"sync": str(folder.absolute()), "create": create, "settings": asdict(settings)})
        except (OSError, ValueError) as error:
            if not self._failure_reported:
                self._say(f"Tracking has stopped: {format_reason(error)}. The run goes on, and its record is complete.")
            self._failure_reported = True
            place = {"missing": format_reason(error)}
        return SyncResult(place, SyncResult(place).note_in(record))

    def sync_study(self, study: StudyPayload, settings: MirrorSettings) -> dict[str, str]:
        """Bring what is shown of a study to its present state, and return where it is shown; see `Mirror.sync_study`.

        If this command dies while the study is shown as running, the process shows it as killed.
        """
        try:
            return self._call({"study": asdict(study), "settings": asdict(settings)})
        except (OSError, ValueError) as error:
            return {"missing": format_reason(error)}

    def _call(self, request: dict[str, Any]) -> dict[str, str]:
        self._process = self._process or MirrorProcess()
        reply = self._process.call(request, on_event=lambda event: self._say(event["message"]))
        return dict(reply.content["place"])
