"""The process in which records are mirrored; see `lightexp.tracking.remote_mirror`."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from lightexp.core.config import build
from lightexp.core.record import parse_record
from lightexp.execution.process import claim_stdout, reply
from lightexp.tracking import stores, study_payload
from lightexp.tracking.mirror import Mirror, Tracking


def main() -> None:
    """Answers calls until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent still has calls to make
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = claim_stdout()
    with suppress(Exception):  # whoever uses it meets the same error, and reports it
        stores.import_mlflow()
    mirrors: dict[str, Mirror] = {}
    for line in sys.stdin:
        request = json.loads(line)
        place = json.dumps([request["tracking"], request["plugins"], request["outputs"]])
        if place not in mirrors:
            mirrors[place] = _mirror(request, parent)
        if request["call"] == "study":
            reply(parent, {"mlflow": mirrors[place].study(study_payload.parse_study(request["study"]))})
            continue
        record = parse_record(request["record"])
        if request["call"] == "end":
            mirrors[place].end(record, Path(request["folder"]))
        else:
            getattr(mirrors[place], request["call"])(record)
        reply(parent, {"mlflow": record.mlflow})
    for mirror in mirrors.values():
        mirror.left()


def _mirror(request: dict[str, Any], parent: TextIO) -> Mirror:
    tracking: Tracking = build(request["tracking"], Tracking, "tracking", tuple(request["plugins"]))  # type: ignore[type-abstract]
    return tracking.mirror(Path(request["outputs"]), lambda words: reply(parent, {"say": words}))


if __name__ == "__main__":
    main()
