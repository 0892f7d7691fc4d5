"""The process in which records are mirrored; see `lightexp.tracking.remote_mirror`."""

from __future__ import annotations

import json
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightexp.core.config import build
from lightexp.core.record import parse_record
from lightexp.execution.process import ParentConnection
from lightexp.tracking import stores, study_payload
from lightexp.tracking.mirror import Mirror, Tracking


def main() -> None:
    """Serve calls until the parent has gone, then close the studies that it has left open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent still has calls to make after Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = ParentConnection()
    with suppress(Exception):  # whoever uses it meets the same error, and reports it
        stores.import_mlflow()
    mirrors: dict[str, Mirror] = {}
    while (message := parent.receive()) is not None:
        request = message.content
        place = json.dumps([request["tracking"], request["plugins"], request["outputs"]])
        if place not in mirrors:
            mirrors[place] = _mirror(request, parent)
        if request["call"] == "study":
            parent.reply({"mlflow": mirrors[place].study(study_payload.parse_study(request["study"]))})
            continue
        record = parse_record(request["record"])
        if request["call"] == "end":
            mirrors[place].end(record, Path(request["folder"]))
        else:
            getattr(mirrors[place], request["call"])(record)
        parent.reply({"mlflow": record.mlflow})
    for mirror in mirrors.values():
        mirror.left()


def _mirror(request: dict[str, Any], parent: ParentConnection) -> Mirror:
    tracking: Tracking = build(request["tracking"], Tracking, "tracking", tuple(request["plugins"]))  # type: ignore[type-abstract]
    return tracking.mirror(Path(request["outputs"]), lambda line: parent.send_event(message=line))


if __name__ == "__main__":
    main()
