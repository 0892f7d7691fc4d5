"""the finished trials of one study: what the next trial costs beyond its evaluation

A study with six settings, two objectives and a constraint, sampled by TPE, whose stage and metrics take no time. It
runs some trials itself and is filled up to each size with trials of the same shape. Then one worker, in this process,
runs trials as `lightexp search` does, and the median cycle counts: claim, plan, store, record, and the result in the
study.
`search.test=now` on the filled study is the end of a study: the front's tests, tables and plots.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from common import Result, run_command

from lightexp.search.trial_source import TrialSource
from scale_parts import _trials_study

SIZES, SMOKE_SIZES = (100, 1_000, 10_000), (6, 30)
CYCLES, SMOKE_CYCLES = 40, 3
MAX_GROWTH, MAX_END_S = 1.5, 60


def measure(smoke: bool) -> list[Result]:
    """Measure the cycles of trials on a journal and on PostgreSQL, and the end of a long study."""
    sizes, cycles = (SMOKE_SIZES, SMOKE_CYCLES) if smoke else (SIZES, CYCLES)
    results = []
    for kind in ("journal",) if smoke else ("journal", "PostgreSQL"):
        with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
            folder, url = Path(name), None
            if kind == "PostgreSQL":
                url, _ = servers.enter_context(_trials_study.start_postgres(folder))
            measured = [_measure_at(folder, url, size, cycles) for size in sizes]
            texts = [text for _, text in measured]
            (first, _), *_, (last, _) = measured
            title = f"a trial at {sizes[-1]:,} of a study against one at {sizes[0]:,}, {kind}"
            results.append(Result(title, [last], [first], "ms", MAX_GROWTH, at_least=False, note="; ".join(texts)))
            if kind == "journal" and not smoke:
                results.append(_time_end(folder, sizes[-1]))
    return results


def _measure_at(folder: Path, url: str | None, size: int, cycles: int) -> tuple[float, str]:
    """Fill the study to a size and run some trials; return the median cycle in milliseconds, and a note."""
    print(f"trials: {size:,} of them", file=sys.stderr)
    study = _trials_study.open_study(folder, url, 2 * size, "tracking=none")
    if len(study.trials) < 2:
        _run_trials(TrialSource(study, []), 2)
    trials = _trials_study.make_trials(study, study.trials[-1], size)
    if url:
        _trials_study.fill_database(url, trials)
    else:
        _trials_study.fill_journal(study.folder / "journal.log", trials)
    start = time.process_time()
    study = _trials_study.open_study(folder, url, 2 * size, "tracking=none")
    opened = time.process_time() - start
    wall, cpu = _run_trials(TrialSource(study, []), cycles)
    note = f"at {size:,} {wall:.1f} ms, of which this process computes {cpu:.1f} ms, after {opened:.1f} s to open it"
    return wall, note


def _run_trials(source: TrialSource, count: int) -> tuple[float, float]:
    """Run trials as a worker does; return the median of the wall time of each and of its CPU time, in milliseconds."""
    cycles = []
    for _ in range(count):
        start = time.perf_counter(), time.process_time()
        task = source.claim()
        assert task is not None
        source.finish(task, task.run())
        cycles.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, cpu = (1e3 * statistics.median(column) for column in zip(*cycles, strict=True))
    return wall, cpu


def _time_end(folder: Path, size: int) -> Result:
    """Time the command that ends a study without running any trial."""
    print(f"trials: the end of a study of {size:,}", file=sys.stderr)
    overrides = _trials_study.list_overrides(folder, None, size, "tracking=none", "search.test=now")
    command = [str(Path(sys.executable).parent / "lightexp"), "search", f"--config-dir={_trials_study.CONF}"]
    start = time.perf_counter()
    run_command([*command, *overrides], folder, _trials_study.environment())
    seconds = time.perf_counter() - start
    title = f"front, tables and plots of {size:,} trials"
    return Result(title, [seconds], [], "s", MAX_END_S, at_least=False, note="the complete command")
