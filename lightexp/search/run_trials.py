"""Run the trials of a study, in worker processes of this host or in the jobs of a Hydra launcher."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from omegaconf import DictConfig

from lightexp.core.errors import BadInput
from lightexp.core.formatting import strip_controls
from lightexp.execution.launcher import Launcher, LauncherPool, join_as_worker, launch_origin
from lightexp.execution.pool import LocalPool, PoolSettings, PoolView, ThrottledView
from lightexp.search.storage import is_journal
from lightexp.search.study import SearchStudy
from lightexp.search.study_spec import StudySpec
from lightexp.search.study_status import StudyStatus, compute_status
from lightexp.search.study_tracker import StudyTracker
from lightexp.search.trial_source import SilentTrialReporter, TrialOrder, TrialSource

WORKER = "lightexp.search.worker"


class View(Protocol):
    """Shows a study at work."""

    def message(self, text: str) -> None:
        """Show one line."""

    def show_status(self, status: StudyStatus, workers: list[str], seconds: float, left: float | None) -> None:
        """Show the study's status, what each worker does, how long it has run and how long it may still take."""


def run_trials(
    study: SearchStudy,
    layers: Mapping[str, list[str]],
    command: list[str],
    view: View,
    tracker: StudyTracker,
    launcher: Launcher | None = None,
) -> bool:
    """Run a study's trials until none is left, the time is over or the user interrupts it.

    Args:
        study: The study.
        layers: The layers' names, as `StudySpec.make_space` takes them.
        command: The command line, for the trials' records.
        view: Shows the study.
        tracker: Mirrors it to MLflow.
        launcher: Starts the workers. Defaults to this process.

    Returns:
        Whether the user has interrupted it.

    Raises:
        RunFailed: If the workers die before they can work.
    """
    source = TrialSource(study, command)
    progress = ThrottledView(_StudyProgress(source, view, tracker))  # an update reads all trials
    order = source.make_order(layers)
    if launcher is None or launcher.is_in_process:
        return LocalPool(source, _make_pool_settings(source, order, study.spec.workers), progress).run()
    lease = source.make_lease()
    job = partial(run_job, {"order": asdict(order), "lease": lease.key, "origin": launch_origin(launcher.remote_store)})
    return LauncherPool(source, launcher, progress, lease).run(job, study.spec.workers)


def connect_launcher(launcher: Launcher, spec: StudySpec, report: Callable[[str], None]) -> None:
    """Connect to the cluster that runs the jobs, if there is one, and check what its nodes see of this host.

    Args:
        launcher: Starts the workers.
        spec: The study's specification.
        report: Takes a line for the user.

    Raises:
        BadInput: If the cluster cannot be used, or its nodes cannot see the study's storage.
    """
    outputs = spec.settings.outputs
    blind_nodes = launcher.connect(outputs)
    if launcher.shares_folder and not blind_nodes:
        return
    if is_journal(spec.search.storage):
        reason = f"{', '.join(blind_nodes)} do not see {outputs}" if blind_nodes else "work in their own folders"
        raise BadInput(
            f"search.storage: Ray's nodes {reason}, and so not the study's journal file. "
            "Set search.storage=postgresql://HOST/DATABASE."
        )
    if launcher.shares_folder:
        report(
            f"Ray's nodes {', '.join(blind_nodes)} do not see {outputs}, and store.remote is not set: what they make "
            "stays there, other nodes and the test of the front make it again. Set store.remote=s3://BUCKET/PREFIX."
        )


def run_job(arguments: dict[str, Any], config: DictConfig) -> None:
    """Run trials as a job of a launcher, until none is left or the command has ended.

    Args:
        arguments: The study and the command, as `run_trials` describes them.
        config: The job's config, which adds nothing.
    """
    join_as_worker(arguments["origin"])
    order = TrialOrder(**arguments["order"])
    source = TrialSource.open(order, _JobReporter())
    lease = source.make_lease(arguments["lease"])
    if lease.is_accepting:  # a cluster may have started the job after the command's end
        LocalPool(source, _make_pool_settings(source, order, 1), _JobProgress(), lease).run()


def _make_pool_settings(source: TrialSource, order: TrialOrder, workers: int) -> PoolSettings:
    study = source.study
    return PoolSettings(WORKER, asdict(order), workers, study.folder / "workers", study.spec.search.trial_timeout)


class _StudyProgress(PoolView):
    """Shows a pool's progress as a study's."""

    def __init__(self, source: TrialSource, view: View, tracker: StudyTracker) -> None:
        self._source, self._view, self._tracker = source, view, tracker
        self._ended_before = source.status().ended

    def show_message(self, text: str) -> None:
        self._view.message(text)

    def update(self, activities: list[str], seconds: float) -> None:
        spec = self._source.study.spec
        status = compute_status(self._source.study.trials, spec.objectives)
        self._tracker.update(status)
        ended = len(status.ended)
        remaining = None
        if ended:
            per_trial = seconds / max(1, ended - self._ended_before)
            remaining = per_trial * max(0, spec.search.trials - ended)
        activities = activities or [f"trial {trial.number}" for trial in status.running]
        self._view.show_status(status, activities, seconds, remaining)


class _JobReporter(SilentTrialReporter):
    def say(self, message: str) -> None:
        _print_in_job(message)


class _JobProgress(PoolView):
    """Shows a job's pool: what is out of the ordinary, which the launcher keeps or shows."""

    def show_message(self, text: str) -> None:
        _print_in_job(text)


def _print_in_job(text: str) -> None:
    print("lightexp:", strip_controls(text), file=sys.stderr, flush=True)
