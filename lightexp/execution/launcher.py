"""Work in the jobs of a Hydra launcher: in processes of this host (joblib), on a cluster (submitit) or on Ray.

A job is no task but a worker that pulls tasks until none is left, as another host would. Launchers wait for the last
job of a batch before they start the next one; workers wait for nobody.
"""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from lightexp.core import interrupt
from lightexp.core.compat import get_job_error
from lightexp.core.disk_errors import explain_disk_errors
from lightexp.core.errors import BadInput, RunFailed, find_first_line
from lightexp.core.version import __version__
from lightexp.execution.launch_guard import start_guard
from lightexp.execution.locks import CommandLease
from lightexp.execution.pool import PoolView
from lightexp.execution.ray_cluster import (
    RayCluster,
    check_version,
    describe_shortage,
    find_store_problem,
    is_connected,
    list_resources,
)
from lightexp.execution.work import WorkSource

_TICK_S = 0.5
_MAX_FRUITLESS_LAUNCHES = 3
"""Launches that may fail in a row without any task done."""

Job = Callable[[DictConfig], Any]


class Launcher:
    """The launcher that a Hydra config has selected."""

    def __init__(self, config: DictConfig, context: HydraContext, overrides: list[str]) -> None:
        """Start nothing yet.

        Args:
            config: A composed config with its node `hydra`.
            context: Hydra's context.
            overrides: What the jobs' configs are composed from.
        """
        self._config, self._context, self._overrides = config, context, overrides

    @property
    def is_in_process(self) -> bool:
        """Whether it only runs one job after another in this process."""
        return str(self._config.hydra.launcher._target_).endswith(".BasicLauncher")

    @property
    def ray_cluster(self) -> RayCluster | None:
        """The running Ray cluster that the config names; None if it names none."""
        settings = self._get_ray_settings()
        return (
            RayCluster(settings["init"], settings["remote"]) if settings and settings["init"].get("address") else None
        )

    @property
    def shares_folder(self) -> bool:
        """Whether jobs work in the command's folder; else in their node's own, and share a remote store alone."""
        return self.ray_cluster is None or not self._config.store.remote

    @property
    def remote_store(self) -> str | None:
        """The address of the remote store that jobs share instead of the command's folder; None if they share that."""
        return None if self.shares_folder else str(self._config.store.remote)

    def connect(self, folder: Path) -> list[str]:
        """Connect to the Ray cluster that the config names, if it names one; see `RayCluster.connect`."""
        with explain_disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return self.ray_cluster.connect(folder, self.remote_store) if self.ray_cluster else []

    def describe_shortage(self, workers: int) -> str | None:
        """Return a line for the user if not all of the jobs can run at a time; None if they can or nobody knows."""
        settings = self._get_ray_settings()
        if settings is None or not is_connected():
            return None
        try:
            nodes = list_resources()
        except Exception:  # Ray raises anything once its head has died; its launcher says so
            return None
        return describe_shortage(nodes, settings["remote"], workers)

    def _get_ray_settings(self) -> dict[str, Any] | None:
        node = self._config.hydra.launcher
        if not str(node._target_).endswith(".RayLauncher"):
            return None
        return {name: OmegaConf.to_container(node.ray[name], resolve=True) for name in ("init", "remote")}

    def launch(self, job: Job, count: int) -> list[str]:
        """Launch jobs and wait for all of them.

        Args:
            job: What each does: a picklable function of the job's config.
            count: Number of jobs.

        Returns:
            Why jobs, or the launcher itself, have failed; empty if all is well.

        Raises:
            KeyboardInterrupt: If the user has interrupted it.
        """
        launcher = Plugins.instance().instantiate_launcher(self._context, job, self._config)
        try:
            with sigint_blocked():
                results = launcher.launch([self._overrides] * count, 0)
        except Exception as error:  # each launcher raises another kind of error for a job that died
            interrupt.raise_if_requested()
            return [find_first_line(error)]
        return [
            find_first_line(get_job_error(result)) for result in results if result.status is not JobStatus.COMPLETED
        ]


class LauncherPool:
    """Runs the tasks of a source in the jobs of a launcher, and launches again while jobs die and tasks are left."""

    def __init__(
        self,
        source: WorkSource,
        launcher: Launcher,
        view: PoolView,
        lease: CommandLease,
        drains: bool = True,
    ) -> None:
        """Start nothing yet.

        Args:
            source: Hands out the tasks; the jobs open it anew.
            launcher: Starts the jobs.
            view: Shows the work.
            lease: Tells the jobs whether this command goes on.
            drains: See `lightexp.execution.pool.PoolSettings`.
        """
        self._source, self._launcher, self._view, self._lease = source, launcher, view, lease
        self._drains = drains
        self._started_at = time.monotonic()
        self._fruitless = 0
        self._is_shortage_shown = False
        self._is_all_claimed = self._is_waiting = False
        self._is_leased, self._is_over, self._is_interrupted = threading.Event(), threading.Event(), threading.Event()
        self._stop_reason: str | None = None

    def run(self, job: Job, workers: int) -> bool:
        """Run tasks until none is left.

        Args:
            job: What each job does: a picklable function of the job's config, which pulls tasks.
            workers: Number of jobs at a time.

        Returns:
            Whether the user has interrupted it.

        Raises:
            RunFailed: If the launcher's jobs end before they can work.
        """
        is_dropped = False
        with ThreadPoolExecutor(1) as executor:
            watch = executor.submit(self._watch, workers)
            try:
                with self._defer_interrupt():
                    while not (self._is_leased.wait(_TICK_S) or watch.done()):
                        pass
                    while not watch.done() and self._launch(job, workers):
                        pass
            except KeyboardInterrupt:
                is_dropped = True
            finally:
                self._is_over.set()
            watch.result()
        if is_dropped:
            self._source.requeue()
        return is_dropped or self._is_interrupted.is_set()

    @contextmanager
    def _defer_interrupt(self) -> Iterator[None]:
        if not self._drains:
            yield
            return
        with interrupt.defer_first_signal(self._is_interrupted.set):
            yield

    def _launch(self, job: Job, workers: int) -> bool:
        """Launch jobs if there is work, else wait a moment for other hosts; return whether to go on."""
        status = self._source.status()
        if self._stop_reason or status.stop_reason or self._is_interrupted.is_set():
            return False
        if (self._is_all_claimed or not status.unclaimed) and not self._source.has_orphans():
            if not status.running:
                return False
            if not self._is_waiting:
                self._is_waiting = True
                self._view.show_message(f"Waiting for {status.running} {self._source.noun} that run elsewhere.")
            time.sleep(_TICK_S)
            return True
        failures = self._launcher.launch(job, max(1, min(workers, status.unclaimed + status.running)))
        for reason in failures:
            self._view.show_message(f"A job of the launcher has failed: {reason}")
        self._is_all_claimed = not failures
        has_progressed = self._source.status().progress != status.progress
        self._fruitless = 0 if has_progressed or not failures else self._fruitless + 1
        if self._fruitless >= _MAX_FRUITLESS_LAUNCHES:
            raise RunFailed(f"The launcher's jobs end before they can work: {failures[0]}")
        return True

    def _watch(self, workers: int) -> None:
        """Hold the lease and show the work, in a separate thread, as launching blocks."""
        with self._lease.hold_alive():
            with self._lease.hold_accepting():
                self._is_leased.set()
                while not (self._is_over.wait(_TICK_S) or self._is_interrupted.is_set() or self._stop_reason):
                    self._update()
                    self._show_shortage(workers)
                    self._stop_reason = self._source.status().stop_reason
            if not self._is_over.is_set():
                self._view.show_message(self._stop_reason or self._source.draining_message)
            while not self._is_over.wait(_TICK_S):
                self._update()
        self._update()

    def _show_shortage(self, workers: int) -> None:
        if not self._is_shortage_shown and (line := self._launcher.describe_shortage(workers)):
            self._is_shortage_shown = True
            self._view.show_message(line)

    def _update(self) -> None:
        self._view.update([], time.monotonic() - self._started_at)


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Start child processes with SIGINT blocked; the parent alone handles Ctrl-C, which a terminal sends to all.

    The children end with this process, even if it is killed.
    """
    start_guard()
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # receives SIGINT for this thread
    resource_tracker.ensure_running()  # this and joblib's unblock all signals when they are started
    with suppress(ImportError):
        from joblib.externals.loky.backend import resource_tracker as joblib_tracker

        joblib_tracker.ensure_running()
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def launch_origin(remote_store: str | None = None) -> dict[str, str]:
    """Return where this process works, for the jobs that it launches; see `join_as_worker`.

    Args:
        remote_store: See `Launcher.remote_store`. Defaults to None: the jobs work in the same folder.
    """
    place = {"folder": "" if remote_store else os.getcwd(), "remote_store": remote_store or ""}
    return {**place, "host": _identify_host(), "process": str(os.getpid()), "version": __version__}


def join_as_worker(origin: Mapping[str, str]) -> None:
    """Make a job's process work in the command's folder, and end when its starter or the command dies.

    Otherwise joblib's processes would stay for good. The process ignores Ctrl-C.

    Args:
        origin: `launch_origin` of the command.

    Raises:
        BadInput: If the command has another version of lightexp, or this host can never use the remote store. So a
            node that has joined the cluster without credentials takes no task, which would fail.
    """
    check_version(origin["version"], "The command")
    if problem := find_store_problem(origin["remote_store"]) if origin["remote_store"] else "":
        raise BadInput(f"{platform.node()}: {problem}")
    is_same_host = origin["host"] == _identify_host()
    if is_same_host and origin["process"] == str(os.getpid()):  # a job of Hydra's basic launcher
        return
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError):  # a node that does not see the folder works in its own
        os.chdir(origin["folder"] or ".")
    starter, command = os.getppid(), Path("/proc", origin["process"])

    def watch() -> None:
        while os.getppid() == starter and (command.exists() or not is_same_host):
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _identify_host() -> str:
    """Return a name of the host, and of the container on it, within which a process id is unique."""
    with suppress(OSError):
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    return platform.node()
