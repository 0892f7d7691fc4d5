"""The process in which the Python API's work is done; `lightexp.api.worker_pool` starts it.

A request names a call (`run`, `search`, `ablate`, `report`), its overrides and arguments, and the state of the user's
process. A reply holds a `status` and the number of TensorFlow's `threads`:

- `done`, with `result`;
- `failed`, with `error` (the exception's class) and `message`;
- `interrupted`: the process ends;
- `other_threads`, with `requested_threads`: TensorFlow takes its threads once, so another worker must do the work;
- `outdated`: the source of a plugin has changed since this process imported it, so a new worker must do the work.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from lightexp.api import commands
from lightexp.api.plugin_sources import PluginSources
from lightexp.api.progress import LogEventHandler, LogReporter
from lightexp.api.worker_pool import STARTUP_VARIABLES
from lightexp.backend import session
from lightexp.core import exceptions, interrupt
from lightexp.core.errors import BadInput, LightexpError, RunFailed
from lightexp.core.records import RUNS
from lightexp.execution.process import EXTRA_PATH_VARIABLE, ParentConnection
from lightexp.runner.compose import clear_cache, compose_settings
from lightexp.runner.run import Runner

Reply = dict[str, Any]


class ApiServer:
    """Answers the requests of the user's process."""

    def __init__(self, parent: ParentConnection) -> None:
        """Forward the library's log to the parent."""
        self._parent = parent
        self._own_path = list(sys.path)
        self._plugins = PluginSources()
        self._packages: list[str] = []
        logger = logging.getLogger("lightexp")
        logger.addHandler(LogEventHandler(parent))
        logger.setLevel(logging.INFO)

    def serve(self) -> None:
        """Answer requests until the parent ends or a request is interrupted."""
        while (message := self._parent.receive()) is not None:
            reply = self._answer(message.content)
            self._parent.reply({"threads": session.get_threads(), **reply})
            if reply["status"] == "interrupted":
                return

    def _answer(self, request: dict[str, Any]) -> Reply:
        try:
            self._enter(request)
            if request["call"] == "run":
                return self._run(request["overrides"])
            command: Callable[..., Reply] = commands.COMMANDS[request["call"]]
            return {"status": "done", "result": command(self._parent, request["overrides"], **request["arguments"])}
        except KeyboardInterrupt:
            return {"status": "interrupted"}
        except LightexpError as error:
            return _describe(error)
        except Exception as error:  # a defect: the user gets one line and the traceback's file, as from the commands
            if interrupt.was_requested():
                return {"status": "interrupted"}
            return _describe(exceptions.summarize_exception(error, self._packages))

    def _enter(self, request: dict[str, Any]) -> None:
        """Take over the current folder, the environment and the import path of the user's process."""
        try:
            os.chdir(request["folder"])
        except OSError as error:
            raise BadInput(f"the current folder {request['folder']} cannot be used: {error.strerror}.") from None
        environment = request["environment"]
        for name in [name for name in os.environ if name not in environment]:
            if not name.startswith(STARTUP_VARIABLES):
                del os.environ[name]
        os.environ.update({k: v for k, v in environment.items() if not k.startswith(STARTUP_VARIABLES)})
        # At the end: a file of the user's folders must not replace a module of the libraries.
        extra_path = [entry for entry in request["path"] if entry not in self._own_path]
        sys.path[:] = [*self._own_path, *extra_path]
        os.environ[EXTRA_PATH_VARIABLE] = os.pathsep.join(extra_path)  # for the workers of a search or an ablation

    def _run(self, overrides: list[str]) -> Reply:
        if self._plugins.have_changed():
            return {"status": "outdated"}
        clear_cache()  # the user may have edited a config file since the last call
        settings = compose_settings(overrides)
        self._packages = settings.plain["plugins"]
        self._plugins.add(self._packages)
        if session.get_threads() not in (None, settings.threads):
            return {"status": "other_threads", "requested_threads": settings.threads}
        record = Runner(LogReporter(self._parent)).run(settings, overrides)
        return {"status": "done", "result": {"folder": str((settings.outputs / RUNS / record.id).absolute())}}


def _describe(error: LightexpError) -> Reply:
    kind = BadInput if isinstance(error, BadInput) else RunFailed
    return {"status": "failed", "error": kind.__name__, "message": str(error)}


def main() -> None:
    """Serve the parent process."""
    interrupt.install_handlers()
    ApiServer(ParentConnection()).serve()


if __name__ == "__main__":
    main()
