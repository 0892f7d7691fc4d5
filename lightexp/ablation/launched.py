"""An ablation whose workers are the jobs of a Hydra launcher; each joins in as another host would."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lightexp.ablation.call import Call
from lightexp.ablation.crew import Say
from lightexp.ablation.file import Study, read
from lightexp.ablation.jobs import Finished, Job, Outlook, outlook, planned, untimed
from lightexp.ablation.run import LOCKS, Outcome, figures, timed
from lightexp.ablation.run import run as run_here
from lightexp.core.store import Store
from lightexp.runner.launch import TRIES, Launcher, origin, settle
from lightexp.runner.run import Runner
from lightexp.runner.watch import Silent

_TICK = 1.0  # seconds


class Launched:
    """Runs an ablation in jobs that a launcher starts; they share the outputs folder with this process."""

    def __init__(self, study: Study, overrides: list[str], outputs: Path, launcher: Launcher, say: Say) -> None:
        """Starts nothing yet; `overrides` are those of the command line."""
        self._study, self._overrides, self._outputs = study, overrides, outputs
        self._launcher, self._say = launcher, say

    def run(self, ahead: Outlook, finished: Finished, workers: int) -> Outcome:
        """Runs the missing jobs in `workers` processes, then measures latency in one.

        Raises:
            KeyboardInterrupt: If it was interrupted.
        """
        call = Call(self._outputs / LOCKS / f"call-{uuid.uuid4().hex}", workers)
        missing, outcome, mine = list(ahead.missing), Outcome(), finished
        over = threading.Event()
        with call.going_on(), ThreadPoolExecutor(1) as aside:
            try:
                shown = aside.submit(self._watch, list(missing), finished, over)
                left, words = TRIES, list[str]()
                while missing and left:
                    count = len(missing)
                    words = self._launch(call, "rows", min(workers, count))
                    mine = Finished(self._outputs)
                    mine.refresh()
                    outcome.failed = call.failures()
                    missing = [job for job in missing if mine.of(job) is None and job.place not in outcome.failed]
                    left = TRIES if len(missing) < count else left - 1 if words else 0
            finally:
                over.set()
            shown.result()
            for job in missing:
                outcome.failed[job.place] = words[0] if words else "no job of the launcher has run it"
            outcome.ran = len(ahead.missing)
            if any((record := mine.of(job)) and untimed(job, record) for job in ahead.timings):
                self._say("Measuring latency, one run after another, while nothing else of this computes.")
                self._launch(call, "latency", 1)
        return outcome

    def _launch(self, call: Call, what: str, count: int) -> list[str]:
        given: dict[str, Any] = {"path": str(self._study.path.absolute()), "overrides": self._overrides, "what": what}
        given |= {"call": str(call.path.absolute()), "share": call.workers, "origin": origin()}
        words = self._launcher.launch(partial(work, given), count)
        for line in words:
            self._say(f"A job of the launcher has failed: {line}")
        return words

    def _watch(self, missing: list[Job], finished: Finished, over: threading.Event) -> None:
        count, done = len(missing), 0
        while missing:
            last = over.wait(_TICK)
            finished.refresh()
            for job in list(missing):
                if record := finished.of(job):
                    missing.remove(job)
                    done += 1
                    self._say(f"[{done}/{count}] {job.row.name}, seed {job.seed}: {figures(record.figures)}")
            if last:
                return


def work(given: dict[str, Any], config: DictConfig) -> None:
    """Is what a job of the launcher does: what is missing of the ablation, until nothing is left.

    Args:
        given: The ablation, and whose job this is.
        config: The job's, which says nothing more.
    """
    settle(given["origin"])
    study = read(Path(given["path"]), given["overrides"])
    jobs = planned(study, Runner(Silent()))
    outputs = jobs[0].settings.outputs
    finished = Finished(outputs)
    finished.refresh()
    ahead = outlook(jobs, finished, Store(outputs / "store").has)
    if given["what"] == "latency":
        timed(ahead, finished, outputs, _quiet)
        return
    run_here(ahead, finished, outputs, 1, _quiet, Call(Path(given["call"]), given["share"]))


def _quiet(words: str) -> None:
    """The command tells of what has ended, whatever a launcher does with its jobs' output."""
