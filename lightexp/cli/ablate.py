"""`lightexp ablate`: runs what is missing of an ablation's rows x seeds."""

from __future__ import annotations

import sys
from pathlib import Path

from lightexp.core import interrupt
from lightexp.core.errors import BadInput, suggest_nearest

HELP = """lightexp ablate FILE [--plan] [workers=N] [setting=value ...]

Runs every row of an ablation's file with every seed, as far as no record of it is there yet, and writes the report.

  lightexp ablate experiments/01_article.yaml --plan      what is there, what is shared, how long it will take
  lightexp ablate experiments/01_article.yaml workers=2   two processes, which share the cores
  lightexp ablate FILE dataset=mnist                      the same rows on another data set, as a table of its own

Stages that several rows stand on are made first, and once. A row that fails is reported and the others go on. The same
command goes on after an interruption; on another host with the same outputs folder it joins in. Latency is measured at
the end, while nothing else computes. A new row or seed runs only itself. hydra/launcher=joblib, submitit_slurm, ray:
its jobs are the workers, on whatever hosts, over the same outputs folder.

Exit codes: 0 done, 1 a row failed, 2 bad input, 130 interrupted.
"""
FLAGS = ("--plan", "--help", "-h")


def run(words: list[str]) -> int:
    """Runs the command and returns its exit code; `words` is the command line after `ablate`."""
    if not words or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return 0 if words else BadInput.exit_code
    interrupt.install_handlers()
    flags = [word for word in words if word.startswith("-")]
    for flag in flags:
        if flag not in FLAGS:
            raise BadInput(f"{flag} is not a flag of lightexp ablate: {suggest_nearest(flag, FLAGS)}")
    file, *overrides = [word for word in words if word not in flags]
    workers = _workers([word for word in overrides if word.startswith("workers=")])
    overrides = [word for word in overrides if not word.startswith("workers=")]

    from lightexp.ablation.run import AblationPool
    from lightexp.ablation.runs import RunIndex, find_backlog, plan_runs
    from lightexp.ablation.spec import read_spec
    from lightexp.cli import ablation_view
    from lightexp.cli.report import run as report
    from lightexp.core.store import Store
    from lightexp.runner.launcher import select_launcher, split_hydra_overrides
    from lightexp.runner.progress import SilentReporter
    from lightexp.runner.run import Runner

    hydra, overrides = split_hydra_overrides(overrides)
    study = read_spec(Path(file), overrides)
    jobs = plan_runs(study, Runner(SilentReporter()))
    outputs = jobs[0].settings.outputs
    finished = RunIndex(outputs)
    finished.refresh()
    ahead = find_backlog(jobs, finished, Store(outputs / "store").has)
    if "--plan" in flags:
        ablation_view.print_backlog(study, jobs, ahead, workers)
        return 0

    def say(line: str) -> None:
        print(line, file=sys.__stderr__, flush=True)  # the other is turned away on an interrupt

    say(f"{study.name}: {len(ahead.done)} of {len(jobs)} runs are there, {len(ahead.missing)} to do")
    try:
        launcher = select_launcher(hydra, [], outputs) if hydra else None
        pool = AblationPool(outputs, finished, say, workers, launcher)
        failures = pool.run(ahead)
        pool.measure_latencies(ahead)
    except KeyboardInterrupt:
        say("lightexp: Interrupted. What was finished is kept; the same command goes on from there.")
        return 130
    is_launched = launcher is not None and not launcher.is_in_process
    for (row, seed), reason in failures.items():
        say(f"lightexp: {row}, seed {seed}: {reason if is_launched else 'failed, as said above.'}")
    if len(failures) < len(jobs):
        report([file, *overrides], set(failures.values()))
    return 1 if failures else 0


def _workers(given: list[str]) -> int:
    try:
        count = int(given[-1].partition("=")[2]) if given else 1
    except ValueError:
        count = 0
    if count < 1:
        raise BadInput(f"workers must be a whole number from 1. Received: {given[-1]}.")
    return count
