"""An ablation whose workers are the jobs of a Hydra launcher; each joins in as another host would."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightexp.ablation.command_session import CommandSession
from lightexp.ablation.run import LOCKS, AblationOutcome, format_metrics, measure_latencies
from lightexp.ablation.run import run_backlog as run_here
from lightexp.ablation.runs import AblationRun, Backlog, RunIndex, find_backlog, needs_latency, plan_runs
from lightexp.ablation.spec import AblationSpec, read_spec
from lightexp.ablation.task_pool import Say
from lightexp.core.store import Store
from lightexp.runner.launcher import MAX_LAUNCH_FAILURES, Launcher, join_as_worker, launch_origin
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner

_TICK = 1.0  # seconds


class AblationLauncherPool:
    """Runs an ablation in jobs that a launcher starts; they share the outputs folder with this process."""

    def __init__(self, study: AblationSpec, overrides: list[str], outputs: Path, launcher: Launcher, say: Say) -> None:
        """Starts nothing yet; `overrides` are those of the command line."""
        self._study, self._overrides, self._outputs = study, overrides, outputs
        self._launcher, self._say = launcher, say

    def run(self, ahead: Backlog, finished: RunIndex, workers: int) -> AblationOutcome:
        """Runs the missing jobs in `workers` processes, then measures latency in one.

        Raises:
            KeyboardInterrupt: If it was interrupted.
        """
        call = CommandSession(self._outputs / LOCKS / f"call-{uuid.uuid4().hex}", workers)
        missing, outcome, mine = list(ahead.missing), AblationOutcome(), finished
        over = threading.Event()
        with call.going_on(), ThreadPoolExecutor(1) as aside:
            try:
                shown = aside.submit(self._watch, list(missing), finished, over)
                left, words = MAX_LAUNCH_FAILURES, list[str]()
                while missing and left:
                    count = len(missing)
                    words = self._launch(call, "rows", min(workers, count))
                    mine = RunIndex(self._outputs)
                    mine.refresh()
                    outcome.failed = call.failures()
                    missing = [job for job in missing if mine.of(job) is None and job.place not in outcome.failed]
                    left = MAX_LAUNCH_FAILURES if len(missing) < count else left - 1 if words else 0
            finally:
                over.set()
            shown.result()
            for job in missing:
                outcome.failed[job.place] = words[0] if words else "no job of the launcher has run it"
            outcome.ran = len(ahead.missing)
            if any((record := mine.of(job)) and needs_latency(job, record) for job in ahead.timings):
                self._say("Measuring latency, one run after another, while nothing else of this computes.")
                self._launch(call, "latency", 1)
        return outcome

    def _launch(self, call: CommandSession, what: str, count: int) -> list[str]:
        given: dict[str, Any] = {"path": str(self._study.path.absolute()), "overrides": self._overrides, "what": what}
        given |= {"call": str(call.path.absolute()), "share": call.workers, "origin": launch_origin()}
        words = self._launcher.launch(partial(work, given), count)
        for line in words:
            self._say(f"A job of the launcher has failed: {line}")
        return words

    def _watch(self, missing: list[AblationRun], finished: RunIndex, over: threading.Event) -> None:
        count, done = len(missing), 0
        while missing:
            last = over.wait(_TICK)
            finished.refresh()
            for job in list(missing):
                if record := finished.of(job):
                    missing.remove(job)
                    done += 1
                    self._say(f"[{done}/{count}] {job.row.name}, seed {job.seed}: {format_metrics(record.metrics)}")
            if last:
                return


def work(given: dict[str, Any], config: DictConfig) -> None:
    """Is what a job of the launcher does: what is missing of the ablation, until nothing is left.

    Args:
        given: The ablation, and whose job this is.
        config: The job's, which says nothing more.
    """
    join_as_worker(given["origin"])
    study = read_spec(Path(given["path"]), given["overrides"])
    jobs = plan_runs(study, Runner(SilentReporter()))
    outputs = jobs[0].settings.outputs
    finished = RunIndex(outputs)
    finished.refresh()
    ahead = find_backlog(jobs, finished, Store(outputs / "store").has)
    if given["what"] == "latency":
        measure_latencies(ahead, finished, outputs, _quiet)
        return
    run_here(ahead, finished, outputs, 1, _quiet, CommandSession(Path(given["call"]), given["share"]))


def _quiet(words: str) -> None:
    """The command tells of what has ended, whatever a launcher does with its jobs' output."""
