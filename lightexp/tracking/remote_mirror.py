"""A mirror in a process of its own; see `lightexp.tracking.process`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightexp.core.record import Record
from lightexp.tracking.mirror import Mirror
from lightexp.tracking.process import MirrorProcess
from lightexp.tracking.study_payload import StudyPayload


class RemoteMirror(Mirror):
    """A mirror that a worker keeps."""

    def __init__(
        self,
        worker: MirrorProcess,
        tracking: dict[str, Any],
        plugins: list[str],
        outputs: Path,
        say: Callable[[str], None],
    ) -> None:
        """Opens nothing yet.

        Args:
            worker: The process.
            tracking: The config node of the `Tracking` that makes the mirror there.
            plugins: The user's packages that the node may name.
            outputs: The folder of all outputs.
            say: Takes each line for the user.
        """
        self._worker = worker
        self._place = {"tracking": tracking, "plugins": plugins, "outputs": str(outputs)}
        self._say = say
        self._told = False

    def start(self, record: Record) -> None:
        """See `Mirror.start`."""
        self._call("start", record)

    def end(self, record: Record, folder: Path) -> None:
        """See `Mirror.end`."""
        self._call("end", record, folder=str(folder))

    def close(self, record: Record) -> None:
        """See `Mirror.close`."""
        self._call("close", record)

    def study(self, study: StudyPayload) -> dict[str, str]:
        """See `Mirror.study`."""
        try:
            return self._ask({"call": "study", "study": asdict(study)})
        except (OSError, ValueError) as error:
            return {"missing": f"{error}"}

    def left(self) -> None:
        """See `Mirror.left`; the worker does it when its parent has died."""

    def _call(self, call: str, record: Record, **more: str) -> None:
        try:
            record.mlflow = self._ask({"call": call, "record": asdict(record), **more})
        except (OSError, ValueError) as error:
            record.mlflow["missing"] = f"{error}"
            if not self._told:
                self._say(f"Tracking has stopped: {error}. The run goes on; its record is whole.")
                self._told = True

    def _ask(self, request: dict[str, Any]) -> dict[str, str]:
        reply = self._worker.call({**request, **self._place}, on_event=lambda event: self._say(event["message"]))
        return dict(reply.content["mlflow"])
