"""The process in which MLflow runs and mirrors are kept; `lightexp.tracking.remote_mirror` is the other side."""

from __future__ import annotations

import gc
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightexp.core.errors import BadInput
from lightexp.execution.process import ParentConnection
from lightexp.tracking import stores
from lightexp.tracking.mirror import Mirror, MirrorSettings
from lightexp.tracking.study_payload import parse_study


def main() -> None:
    """Serve requests until the parent has gone, then close the runs and studies that it has left open."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent still has calls to make after Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = ParentConnection()
    with suppress(Exception):  # the first request meets the same error, and reports it
        _import_mlflow()
    mirrors = _Mirrors(parent)
    while (message := parent.receive()) is not None:
        parent.reply({"place": mirrors.serve(message.content)})
    mirrors.close()


def _import_mlflow() -> None:
    """Import MLflow a quarter faster: collections during the import would find nothing, and so would later ones."""
    gc.disable()
    stores.import_mlflow()
    gc.freeze()
    gc.enable()


class _Mirrors:
    """The mirrors of this process, opened when a request needs them."""

    def __init__(self, parent: ParentConnection) -> None:
        self._parent = parent
        self._mirrors: dict[str, Mirror] = {}

    def serve(self, request: dict[str, Any]) -> dict[str, str]:
        """Do what a `RemoteMirror` asks for, and return where the run or study is shown."""
        try:
            mirror = self._open(MirrorSettings(**request["settings"]))
            if "study" in request:
                return mirror.sync_study(parse_study(request["study"]))
            return mirror.sync(Path(request["sync"]), request["create"]).place
        except BadInput as error:
            return {"missing": str(error)}

    def close(self) -> None:
        """Show that the runs and studies which are still shown as running were killed."""
        for mirror in self._mirrors.values():
            mirror.close_running()

    def _open(self, settings: MirrorSettings) -> Mirror:
        if settings.key not in self._mirrors:
            self._mirrors[settings.key] = settings.open_mirror(lambda line: self._parent.send_event(message=line))
        return self._mirrors[settings.key]


if __name__ == "__main__":
    main()
