"""the workers of one study: trials per second of 1 to 64 processes whose trials take 1 s

The trials of the part `trials`, with a stage that sleeps for a second, by the worker processes of `lightexp search`.
Counted are the trials that end within some seconds, from when all workers have ended their first trial, for which they
import and load. The ideal is N trials per second for N workers: no time for anything but the stage. Everything shares
this machine, so that on few cores a trial's CPU time bounds the rate: the notes give that of the workers and the
command, and that of PostgreSQL.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from common import Result

from lightexp.search.run_trials import View, run_trials
from lightexp.search.study_status import StudyStatus
from lightexp.search.study_tracker import StudyTracker
from scale_parts import _trials_study

WORKERS, GOALS = (1, 2, 4, 8, 16, 32, 64), {32: 0.9, 64: 0.8}
MIN_SHARE_OF_FEW = 0.9
COUNTED_S, SMOKE_COUNTED_S = 10.0, 0.5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def measure(smoke: bool) -> list[Result]:
    """Measure the rate of each number of workers, on a journal and on PostgreSQL."""
    os.environ["PYTHONPATH"] = _trials_study.environment()["PYTHONPATH"]
    results = []
    for kind in ("journal",) if smoke else ("PostgreSQL", "journal"):
        for workers in (1,) if smoke else WORKERS:
            print(f"workers: {workers} on {kind}", file=sys.stderr)
            with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
                folder, url, server = Path(name), None, None
                if kind == "PostgreSQL":
                    url, server = servers.enter_context(_trials_study.start_postgres(folder))
                results.append(_measure_rate(folder, url, server, workers, smoke))
    return results


class _CountingView(View):
    """Ends a study some seconds after all of its workers have ended a trial.

    Attributes:
        times: When the counting began and ended, as time stamps.
        cpu: The CPU seconds of this process with its workers, and of the server, at both times.
    """

    def __init__(self, server: int | None, counted_s: float) -> None:
        self._server, self._counted_s = server, counted_s
        self._first_trials: dict[int, str] = {}
        self.times: list[float] = []
        self.cpu: list[tuple[float, float]] = []

    def message(self, text: str) -> None:
        """Show nothing."""

    def show_status(self, status: StudyStatus, workers: list[str], seconds: float, left: float | None) -> None:
        now = time.time()
        trials = [activity.partition(":")[0] for activity in workers]
        for worker, trial in enumerate(trials):
            if trial.startswith("trial "):
                self._first_trials.setdefault(worker, trial)
        have_ended = [self._first_trials.get(worker, trial) != trial for worker, trial in enumerate(trials)]
        if len(self.times) == 2 or not (self.times or all(have_ended)):
            return
        if not self.times or now > self.times[0] + self._counted_s:
            self.times.append(now)
            self.cpu.append((_sum_cpu_seconds(os.getpid()), _sum_cpu_seconds(self._server) if self._server else 0.0))
        if len(self.times) == 2:
            raise KeyboardInterrupt  # the workers finish their trials


def _measure_rate(folder: Path, url: str | None, server: int | None, workers: int, smoke: bool) -> Result:
    seconds = 0.05 if smoke else 1.0
    settings = [f"search.workers={workers}", f"runtime.threads={workers}", "tracking=none"]
    settings.append(f"pipeline.stages.constant.seconds={seconds}")
    study = _trials_study.open_study(folder, url, 10**6, *settings)
    view = _CountingView(server, SMOKE_COUNTED_S if smoke else COUNTED_S)
    run_trials(study, {}, ["lightexp", "search"], view, StudyTracker(study, view.message))
    begin, end = view.times
    ended = [trial.datetime_complete.timestamp() for trial in study.trials if trial.datetime_complete]
    count = sum(begin < moment <= end for moment in ended)
    ours, servers = (1e3 * (after - before) / max(1, count) for before, after in zip(*view.cpu, strict=True))
    rate = count / (end - begin)
    title = f"{workers} workers on {'PostgreSQL' if url else 'a journal'}, of the ideal rate"
    note = f"{rate:.1f} trials/s of {workers / seconds:g} in {end - begin:.0f} s, {len(ended)} in all; a trial takes "
    note += f"{ours:.0f} ms of CPU time, and the server {servers:.0f} ms; {os.cpu_count()} cores"
    goal = GOALS.get(workers, MIN_SHARE_OF_FEW)
    facts: dict[str, float | str] = {"storage": "PostgreSQL" if url else "journal", "workers": workers, "rate": rate}
    facts |= {"seconds": seconds, "worker_cpu_ms": ours, "server_cpu_ms": servers, "cores": os.cpu_count() or 1}
    return Result(title, [rate * seconds / workers], [], "", goal, at_least=True, note=note, facts=facts)


def _sum_cpu_seconds(process: int) -> float:
    """Return the CPU seconds of a process and its children, ended ones included."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if process in (int(folder.name), int(fields[1])):
            total += sum(map(int, fields[11:15]))
    return total / TICKS_PER_S
