"""`lightexp ablate`: run what is missing of an ablation's rows x seeds."""

from __future__ import annotations

import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import print_line
from lightexp.core import interrupt
from lightexp.core.errors import INTERRUPTED, BadInput

if TYPE_CHECKING:
    from lightexp.ablation.run import AblationPool
    from lightexp.ablation.runs import Backlog
    from lightexp.ablation.spec import AblationSpec
    from lightexp.runner.settings import Settings
    from lightexp.tracking.run_groups import RunGroupTracker

_USAGE = """lightexp ablate FILE [--plan] [workers=N] [setting=value ...]
       lightexp ablate --new FILE"""
_HELP = """Run every row of an ablation's file with every seed that has no record yet, and write the report.

  lightexp ablate --new experiments/mine.yaml             write a commented file to start from
  lightexp ablate experiments/01_article.yaml --plan      what is done, what is shared, how long it will take
  lightexp ablate experiments/01_article.yaml workers=2   two processes
  lightexp ablate FILE dataset=mnist                      the same rows on another data set, as a separate table

A stage that several rows share is made first, and once. A row that fails is reported and the others continue. After an
interruption the same command continues; on another host with the same outputs folder it shares the work. Latency is
measured at the end, while nothing else computes. A new row or seed runs only itself. Each run computes with one
thread, so that the number of workers changes no result; runtime.threads=N in the file's base is another number. With
hydra/launcher=joblib, submitit_slurm or ray the launcher's jobs are the workers, on any host, over the same outputs
folder; with ray, store.remote can stand in for that folder.

Keys of the file, each with an example in `lightexp guide ablation`:
  claim, control, seeds, rows                             the table; base: overrides of all rows
  rows: a list of overrides, or                           grid, zip, operating_points, power_set, leave_one_out,
                                                          add_one_in, orders, equal_budget
  external, reference, cost                               published rows, publication, time and hardware
  columns, labels, margin, stars, figures, latex          what is shown, also here and with `lightexp report FILE`

Exit codes: 0 done, 1 a row failed, 2 bad input, 130 interrupted."""
_WORKERS = "workers="
_NEW_FILE = "new_ablation.yaml"


def make_parser() -> Arguments:
    """Make the parser of `lightexp ablate`."""
    parser = Arguments("ablate", usage=_USAGE, description=_HELP)
    parser.add_argument("--plan", action="store_true", help="show what would run, and run nothing")
    parser.add_argument("--new", action="store_true", help="write a commented file to start from")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp ablate` and return the exit code.

    Args:
        argv: The command line after `ablate`.
    """
    parser = make_parser()
    options, arguments = parser.parse_known_args(argv)
    if options.new:
        _write_new_file(arguments)
        return 0
    if not arguments:
        parser.print_help()
        return BadInput.exit_code
    file, *overrides = arguments
    interrupt.install_handlers()
    workers = _parse_workers([text for text in overrides if text.startswith(_WORKERS)])
    overrides = [text for text in overrides if not text.startswith(_WORKERS)]
    return _ablate(file, overrides, workers, is_plan=options.plan)


def _ablate(file: str, overrides: list[str], workers: int, is_plan: bool) -> int:
    """Run or plan an ablation, and return the exit code."""
    from lightexp.ablation.run import AblationPool, connect_launcher
    from lightexp.ablation.runs import RunIndex, find_backlog, plan_runs
    from lightexp.ablation.spec import read_spec
    from lightexp.cli import ablation_view
    from lightexp.cli.report import run as write_report
    from lightexp.report.table_spec import split_presentation
    from lightexp.runner.launcher import select_launcher, split_hydra_overrides
    from lightexp.runner.progress import SilentReporter
    from lightexp.runner.run import Runner

    hydra_overrides, overrides = split_hydra_overrides(overrides)
    spec = read_spec(Path(file), overrides)
    runner = Runner(SilentReporter())
    runs = plan_runs(spec, runner)
    outputs = runs[0].settings.outputs
    index = RunIndex(outputs)
    index.refresh()
    stored = runner.open_store(runs[0].settings, _report).locate({node.key for run in runs for node in run.plan.nodes})
    backlog = find_backlog(runs, index, stored.__contains__)
    if is_plan:
        ablation_view.print_backlog(spec, runs, backlog, workers)
        return 0
    runner.close_dead_runs(runs[0].settings)
    for line in ablation_view.list_thread_notes(backlog):
        _report(line)
    _report(f"{spec.name}: {len(backlog.done)} of {len(runs)} runs are done, {len(backlog.missing)} to do")
    launcher, remote_store = None, runs[0].settings.remote_store
    if hydra_overrides:
        launcher = select_launcher(hydra_overrides, [], outputs, split_presentation(overrides)[1], remote_store)
        if backlog.missing:
            connect_launcher(launcher, outputs)
    tracker = _start_tracker(spec, runs[0].settings) if backlog.missing else None
    pool = AblationPool(outputs, index, _report, workers, launcher, remote_store)
    try:
        failures = _run_backlog(backlog, pool)
    except KeyboardInterrupt:
        _report("lightexp: Interrupted. What was finished is kept; the same command continues from there.")
        if tracker:
            tracker.end("KILLED", call=pool.call)
        return INTERRUPTED
    if len(failures) < len(runs):
        write_report([file, *overrides], set(failures.values()))
    if tracker:
        tracker.end("FAILED" if failures else "FINISHED", spec.results / "table.md", pool.call)
    return 1 if failures else 0


def _write_new_file(arguments: list[str]) -> None:
    """Write an ablation's file that can be run, with a comment on every key."""
    path = Path(*arguments[:1])
    if len(arguments) != 1 or path.suffix != ".yaml":
        received = shlex.join(arguments) or "nothing"
        raise BadInput(f"--new takes one file that ends in .yaml, such as experiments/mine.yaml. Received: {received}.")
    if path.exists():
        raise BadInput(f"{path} exists already. Name another file.")
    text = (files("lightexp.ablation") / _NEW_FILE).read_text(encoding="utf-8")
    text = text.replace("NAME", path.stem).replace("PATH", shlex.quote(str(path)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}. Name another file.") from None
    print_line(f"{path} is a table that can be run. Change its rows; see what it would run:")
    print_line(f"  lightexp ablate {shlex.quote(str(path))} --plan")


def _start_tracker(spec: AblationSpec, settings: Settings) -> RunGroupTracker | None:
    """Show the ablation in MLflow as running, if its settings ask for that; if this command dies, it is shown so."""
    from lightexp.runner.run import describe_mirror
    from lightexp.tracking.process import MirrorProcess
    from lightexp.tracking.remote_mirror import RemoteMirror
    from lightexp.tracking.run_groups import ABLATION, RunGroupTracker, find_group

    group = find_group({ABLATION: spec.name}, settings.outputs)
    if group is None or not settings.tracking.is_enabled:
        return None
    tracker = RunGroupTracker(group, describe_mirror(settings), RemoteMirror(_report, MirrorProcess()))
    tracker.start()
    return tracker


def _run_backlog(backlog: Backlog, pool: AblationPool) -> dict[tuple[str, int], str]:
    """Run what is missing, report the failures and return them by row and seed."""
    from lightexp.core.disk_errors import explain_disk_errors

    with explain_disk_errors(pool.outputs):
        failures = pool.run(backlog)
        pool.measure_latencies(backlog)
    is_launched = pool.launcher is not None and not pool.launcher.is_in_process
    for (row, seed), reason in failures.items():
        _report(f"lightexp: {row}, seed {seed}: {reason if is_launched else 'failed, as reported above.'}")
    return failures


def _report(line: str) -> None:
    print_line(line, sys.__stderr__)  # `sys.stderr` is closed to libraries after an interrupt


def _parse_workers(settings: list[str]) -> int:
    if not settings:
        return 1
    try:
        count = int(settings[-1].removeprefix(_WORKERS))
    except ValueError:
        count = 0
    if count < 1:
        raise BadInput(f"workers must be a whole number from 1. Received: {settings[-1]}.")
    return count
