"""the workers of one study: trials per second of 1 to 64 processes whose trials take 1 s

The trials of the part `trials`, with a stage that sleeps for a second, by the worker processes of `lightexp search`.
Counted are the trials that end within some seconds, from when all workers have ended their first trial, for which they
import and load. The ideal is N trials per second for N workers: no time for anything but the stage. Everything shares
this machine, so that on few cores a trial's CPU time bounds the rate: the notes give that of the workers and the
command, and that of PostgreSQL. Workers propose trials one at a time. What a trial computes in that block is measured
afterwards in this process, which proposes some while as many trials are running as the other workers had.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
from common import Result
from optuna.trial import TrialState

from lightexp.execution.locks import Locks
from lightexp.execution.postgres_locks import PostgresLocks
from lightexp.search.run_trials import View, run_trials
from lightexp.search.storage import open_storage
from lightexp.search.study import SearchStudy
from lightexp.search.study_status import StudyStatus
from lightexp.search.study_tracker import StudyTracker
from scale_parts import _trials_study

WORKERS, GOALS = (1, 2, 4, 8, 16, 32, 64), {32: 0.9, 64: 0.8}
MIN_SHARE_OF_FEW = 0.9
COUNTED_S, SMOKE_COUNTED_S = 10.0, 0.5
COUNTED_TRIALS = 60  # at least; among fewer, one more or less is a share of its own
PROPOSALS, SMOKE_PROPOSALS = 20, 3
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
    view = _CountingView(server, SMOKE_COUNTED_S if smoke else max(COUNTED_S, COUNTED_TRIALS * seconds / workers))
    run_trials(study, {}, ["lightexp", "search"], view, StudyTracker(study, view.message))
    begin, end = view.times
    ended = [trial.datetime_complete.timestamp() for trial in study.trials if trial.datetime_complete]
    count = sum(begin < moment <= end for moment in ended)
    own_block, server_block = _measure_exclusive_block(study, workers, SMOKE_PROPOSALS if smoke else PROPOSALS)
    ours, servers = (1e3 * (after - before) / max(1, count) for before, after in zip(*view.cpu, strict=True))
    rate = count / (end - begin)
    title = f"{workers} workers on {'PostgreSQL' if url else 'a journal'}, of the ideal rate"
    note = f"{rate:.1f} trials/s of {workers / seconds:g} in {end - begin:.0f} s, {len(ended)} in all; a trial takes "
    note += f"{ours:.0f} ms of CPU time, and the server {servers:.0f} ms, {own_block:.1f} and {server_block:.1f} of it "
    note += f"while no other is proposed; {os.cpu_count()} cores"
    goal = GOALS.get(workers, MIN_SHARE_OF_FEW)
    facts: dict[str, float | str] = {"storage": "PostgreSQL" if url else "journal", "workers": workers, "rate": rate}
    facts |= {"seconds": seconds, "worker_cpu_ms": ours, "server_cpu_ms": servers, "cores": os.cpu_count() or 1}
    facts |= {"worker_exclusive_ms": own_block, "server_exclusive_ms": server_block}
    return Result(title, [rate * seconds / workers], [], "", goal, at_least=True, note=note, facts=facts)


def _measure_exclusive_block(study: SearchStudy, workers: int, proposals: int) -> tuple[float, float]:
    """Return what a trial computes while no other one can be proposed, in milliseconds here and at the server."""
    storage, locks = open_storage(study.spec.search.storage, study.folder, study.spec.name, print)
    study_id = storage.get_study_id_from_name(study.spec.name)
    for ended in itertools.islice(itertools.cycle(study.trials), workers - 1):
        running = optuna.create_trial(state=TrialState.RUNNING, params=ended.params, distributions=ended.distributions)
        locks.acquire(storage.get_trial(storage.create_new_trial(study_id, running)).number)
    costs: list[tuple[float, float]] = []
    enter = study.locks.exclusive

    @contextmanager
    def measure_block() -> Iterator[None]:
        with enter():
            before = time.process_time(), _read_backend_seconds(study.locks)
            yield
            costs.append((time.process_time() - before[0], _read_backend_seconds(study.locks) - before[1]))

    study.locks.exclusive = measure_block  # type: ignore[method-assign]
    for _ in range(proposals):
        proposal = study.ask()
        assert proposal is not None
        study.prune(proposal, epoch=1)
    ours, servers = (1e3 * statistics.median(column) for column in zip(*costs, strict=True))
    return ours, servers


def _read_backend_seconds(locks: Locks) -> float:
    """Return the CPU seconds of the process that serves this one's connection; 0 for a journal."""
    if not isinstance(locks, PostgresLocks):
        return 0.0
    process = locks.run(lambda connection: connection.info.backend_pid)
    return int(Path(f"/proc/{process}/schedstat").read_text(encoding="utf-8").split()[0]) / 1e9


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
