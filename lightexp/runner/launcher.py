"""Hydra's launchers, which start work wherever they do: in processes of this host, on a cluster's nodes, on Ray."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lightexp.core import interrupt
from lightexp.runner.compose import add_config_dirs, as_bad_input, is_config_error
from lightexp.runner.config_dir import PRIMARY_CONFIG

MAX_LAUNCH_FAILURES = 3
"""How often a launcher may fail in a row, without anything done, before it is given up."""


class Launcher:
    """The launcher that a config has chosen. Each of its jobs joins in the work as another host would."""

    def __init__(self, config: DictConfig, context: HydraContext, words: list[str]) -> None:
        """Starts nothing yet.

        Args:
            config: A composed one, with its node `hydra`.
            context: Hydra's.
            words: Overrides that jobs' configs are composed from.
        """
        self._config, self._context, self._words = config, context, words

    @property
    def is_in_process(self) -> bool:
        """Whether it only runs one job after another in this process."""
        return str(self._config.hydra.launcher._target_).endswith(".BasicLauncher")

    def launch(self, work: Callable[[DictConfig], Any], count: int) -> list[str]:
        """Launches jobs and waits for all of them.

        Args:
            work: What each does; it can be pickled, and takes the job's config.
            count: How many.

        Returns:
            Why jobs failed, or why the launcher did; nothing where all is well.

        Raises:
            KeyboardInterrupt: If it was interrupted.
        """
        launcher = Plugins.instance().instantiate_launcher(self._context, work, self._config)
        try:
            with sigint_blocked():
                jobs = launcher.launch([self._words] * count, 0)
        except Exception as error:  # a job that died is the launcher's own kind of error
            interrupt.raise_if_requested()
            return [_one_line(error)]
        return [_one_line(job._return_value) for job in jobs if job.status is not JobStatus.COMPLETED]


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """A context in which processes are started that do not hear of Ctrl-C, which a terminal sends to all of them.

    When they end is the command's to say.
    """
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # hears of it for this thread
    resource_tracker.ensure_running()  # this and joblib's own unblock what is blocked when they are started
    with suppress(ImportError):
        from joblib.externals.loky.backend import resource_tracker as of_joblib

        of_joblib.ensure_running()
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def split_hydra_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Overrides that are about Hydra, and the others."""
    own = [word for word in words if word.lstrip("+~").startswith(("hydra/", "hydra."))]
    return own, [word for word in words if word not in own]


def select_launcher(words: list[str], folders: list[str], outputs: Path) -> Launcher:
    """The launcher that a command which is no Hydra application is to use.

    Args:
        words: Overrides about Hydra.
        folders: The user's own config folders.
        outputs: The folder of all outputs.

    Raises:
        BadInput: If the launcher is not there or a setting of it is wrong.
    """
    add_config_dirs(folders)
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    place = "paths.outputs='" + str(outputs).replace("\\", "\\\\").replace("'", "\\'") + "'"
    try:
        config = hydra.compose_config(PRIMARY_CONFIG, [*words, place], RunMode.MULTIRUN, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if not is_config_error(error):
            raise
        raise as_bad_input(error, words) from None
    return Launcher(config, HydraContext(hydra.config_loader, Callbacks()), [place])


def launch_origin() -> dict[str, str]:
    """Where this process works, for jobs that work for it; see `settle`."""
    return {"folder": os.getcwd(), "host": _host(), "process": str(os.getpid())}


def join_as_worker(where: Mapping[str, str]) -> None:
    """Makes a job's process work where the command does, and end at once if what started it, or the command, dies.

    Joblib's processes would stay for good, and a worker that computes would go on. Of Ctrl-C it is not told.
    """
    here = where["host"] == _host()
    if here and where["process"] == str(os.getpid()):  # the basic launcher's job
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # a node that does not see the folder has one of its own
        os.chdir(where["folder"])
    starter, command = os.getppid(), Path("/proc", where["process"])

    def watch() -> None:
        while os.getppid() == starter and (command.exists() or not here):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _host() -> str:
    """What tells where a process' number means the same process: a host, and a container on it."""
    with suppress(OSError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()


def without_sweeps(words: list[str]) -> list[str]:
    """The overrides that are no sweeps."""
    parsed = OverridesParser.create().parse_overrides(words)
    return [word for word, override in zip(words, parsed, strict=True) if not override.is_sweep_override()]


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
