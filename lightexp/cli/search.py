"""`lightexp search`: search a pipeline's settings with Optuna, and export the trade-off front."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from lightexp.cli.arguments import Arguments
from lightexp.cli.printing import print_error, print_line
from lightexp.core import interrupt
from lightexp.core.errors import INTERRUPTED, BadInput, RunFailed
from lightexp.runner.config_dir import find_config_dir

if TYPE_CHECKING:
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from lightexp.cli.study_view import StudyView
    from lightexp.execution.launcher import Launcher
    from lightexp.search.export_front import TestedPoint
    from lightexp.search.preparation import PreparedStudy
    from lightexp.search.study import SearchStudy
    from lightexp.search.study_spec import StudySpec
    from lightexp.search.study_status import StudyStatus
    from lightexp.search.study_tracker import StudyTracker

_USAGE = "lightexp search [--plan] [--pick TRIAL] [--config-dir DIR] [setting=value ...] [setting=range ...]"
_DESCRIPTION = """Lets Optuna find the trade-off front of a pipeline's settings, under constraints. The same command
continues a study; on another host with the same storage it joins the study.

  lightexp search                                                the default preset on digits
  lightexp search --plan                                         what is searched, and what is run first
  lightexp search 'pipeline.stages.prune.sparsity=interval(0.5,0.98)'   interval(), range(), choice(), tag(log, ...)
  lightexp search 'pipeline.stages.prune=choice(on,off)'         a stage as a choice; in what order: pipeline.order=
  lightexp search search.space=auto                              the default ranges of every stage
  lightexp search "search.constraints=['size/file_bytes <= 64 KiB', 'accuracy/val >= control - 0.01']"
  lightexp search search.trials=200 search.workers=2             trials of the complete study, and processes
  lightexp search search.test=now                                test the front of a study that has not ended
  lightexp search --pick knee search.study=NAME                  the command that runs one trial: knee, best, ... or 12

The front is tested once, when the study has ended; an interrupted study leaves the test split alone.
Presets (search=NAME): {presets}. Everything that lightexp run takes can be set, too.
Workers on other hosts (hydra/launcher, search.storage, store.remote): lightexp guide cluster.

search.* and their defaults:
{settings}
Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""


def make_parser() -> Arguments:
    """Return the command's flags; the help lists the presets and settings of `conf/search`."""
    folder = find_config_dir() / "search"
    lines = (folder / "_settings.yaml").read_text(encoding="utf-8").splitlines()[1:]
    settings = "\n".join(f"  {line}" for line in lines)
    presets = ", ".join(sorted(path.stem for path in folder.glob("[!_]*.yaml")))
    parser = Arguments("search", usage=_USAGE, description=_DESCRIPTION.format(presets=presets, settings=settings))
    parser.add_argument("--plan", action="store_true", help="show what would be searched")
    text = "print the command that runs a trial of the study: best, knee, smallest or its number"
    parser.add_argument("--pick", metavar="TRIAL", help=text)
    return parser.add_config_dir()


def run(argv: list[str]) -> int:
    """Run `lightexp search`.

    Args:
        argv: The command line after `search`.

    Returns:
        The exit code.
    """
    options, overrides = make_parser().read(argv)
    interrupt.install_handlers()
    from lightexp.runner.launcher import select_launcher, split_hydra_overrides
    from lightexp.search.study_spec import StudySpec

    hydra_overrides, overrides = split_hydra_overrides(overrides)
    spec = StudySpec(overrides, options.config_dir)
    launcher = None
    if hydra_overrides:
        settings = spec.settings
        launcher = select_launcher(
            hydra_overrides, options.config_dir, settings.outputs, overrides, settings.remote_store
        )
    if options.plan:
        _show_plan(spec)
        return 0
    if options.pick:
        _print_pick(spec, options.pick)
        return 0
    command = ["lightexp", "search", *argv]
    code = _search(spec, command, launcher)
    if code == INTERRUPTED:
        print_error(f"Interrupted. This continues it: {shlex.join(command)}")
        _explain_untested_front(command, "search.test=now")
    return code


def run_sweep(
    overrides: list[str], search: dict[str, Any], config: DictConfig, context: HydraContext, is_plan: bool
) -> None:
    """Run or plan a study as the sweeper of `lightexp run -m hydra/sweeper=lightexp`.

    Args:
        overrides: Overrides, of which the sweeps are the search space.
        search: Settings of the study.
        config: The composed config, with its node `hydra`.
        context: Hydra's loaders.
        is_plan: Whether only to show what would be searched.

    Raises:
        LightexpError: If the study is wrong, or none of its trials has succeeded.
        KeyboardInterrupt: If it was interrupted.
    """
    from lightexp.execution.launcher import Launcher
    from lightexp.runner.launcher import drop_sweeps
    from lightexp.search.study_spec import StudySpec

    config_dirs = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    settings = {name: value for name, value in search.items() if name != "_target_"}
    spec = StudySpec(overrides, config_dirs, config.hydra.job.config_name, settings)
    if is_plan:
        _show_plan(spec)
        return
    command = ["lightexp", "run", *sys.argv[1:]]
    code = _search(spec, command, Launcher(config, context, drop_sweeps(overrides)))
    if code == INTERRUPTED:
        _explain_untested_front(command, "hydra.sweeper.test=now")
        raise KeyboardInterrupt
    if code:
        raise RunFailed("no trial of the study has succeeded.")


def _explain_untested_front(command: list[str], override: str) -> None:
    """Print the command that tests the front of a study that was interrupted."""
    if override not in command:
        command = [*command, override]
    print_error(f"The front is not tested yet. This tests it now: {shlex.join(command)}")


def _show_plan(spec: StudySpec) -> None:
    """Show the search space, the seed trials and the goals."""
    from lightexp.cli.study_view import StudyView
    from lightexp.search.export_front import count_stored_stages
    from lightexp.search.preparation import prepare_study
    from lightexp.search.storage import count_trials

    view = StudyView(spec)
    prepared = prepare_study(spec)
    seed_trials = spec.make_seed_trials(prepared.space)
    prepared.runner.open_store(spec.settings, print_error)
    counts = count_stored_stages(spec, [seed_trial.config for seed_trial in seed_trials], prepared.runner)
    rows = []
    for seed_trial, (stored, total) in zip(seed_trials, counts, strict=True):
        stages = spec.make_trial_settings(seed_trial.config).stages
        names = [name for name, stage in stages.items() if not stage.implicit]
        rows.append((seed_trial.name, names, stored, total))
    view.show_plan(prepared.space, rows, count_trials(spec.search.storage, spec.folder, spec.name))


def _search(spec: StudySpec, command: list[str], launcher: Launcher | None) -> int:
    """Run a study's trials, test its front and show it.

    Args:
        spec: The study's specification.
        command: The command line, for the records.
        launcher: Starts the workers. None starts them on this host.

    Returns:
        The exit code.
    """
    from lightexp.cli.study_view import StudyView, describe_workers
    from lightexp.search.export_front import list_front_points
    from lightexp.search.preparation import prepare_study
    from lightexp.search.run_trials import connect_launcher
    from lightexp.search.study import SearchStudy
    from lightexp.search.study_status import compute_status
    from lightexp.search.study_tracker import StudyTracker

    with StudyView(spec) as view:
        if launcher is not None and spec.search.test != "now":
            connect_launcher(launcher, spec, view.message)
        prepared = prepare_study(spec)
        prepared.runner.open_store(spec.settings, view.message)  # whose address may be wrong
        if spec.search.test == "now":
            _require_trials(spec, "search.test=now tests the front of a study")
        prepared.runner.close_dead_runs(spec.settings)
        spec.folder.mkdir(parents=True, exist_ok=True)  # workers on other hosts have their own
        study = SearchStudy(spec, prepared.space, spec.folder, view.message, prepared.identity)
        view.message(f"{spec.name}: {describe_workers(spec)}, into {spec.folder}")
        if spec.workers < spec.search.workers:
            view.message("Latency is timed with nothing else computing: one worker, not search.workers.")
        tracker = StudyTracker(study, view.message)
        points, is_interrupted = _run_and_test(study, prepared, view, tracker, command, launcher)
    status = compute_status(study.trials, spec.objectives)
    view.show_front(status, points or list_front_points(status), tracker.place, command)
    if is_interrupted:
        return INTERRUPTED
    return 0 if points or status.done else 1


def _run_and_test(
    study: SearchStudy,
    prepared: PreparedStudy,
    view: StudyView,
    tracker: StudyTracker,
    command: list[str],
    launcher: Launcher | None,
) -> tuple[list[TestedPoint], bool]:
    """Run a study's trials, test its front unless the user interrupts the trials, and mirror the study's end.

    Returns:
        The tested front, and whether the user has interrupted the study.
    """
    from lightexp.search.export_front import export_front
    from lightexp.search.run_trials import run_trials
    from lightexp.search.study_status import compute_status

    spec = study.spec
    points: list[TestedPoint] = []
    mlflow_status, is_interrupted = "FAILED", False
    try:
        if spec.search.test != "now":
            is_interrupted = run_trials(study, prepared.layers, command, view, tracker, launcher)
        status = compute_status(study.trials, spec.objectives)
        if not is_interrupted:
            if status.front:
                view.message("The front is being tested.")
            points = export_front(study, status, prepared.runner, command)
        mlflow_status = "KILLED" if is_interrupted or _has_trials_left(spec, status) else "FINISHED"
    except KeyboardInterrupt:  # during the test
        mlflow_status, is_interrupted = "KILLED", True
    finally:
        tracker.end(mlflow_status, compute_status(study.trials, spec.objectives), points)
    return points, is_interrupted


def _has_trials_left(spec: StudySpec, status: StudyStatus) -> bool:
    """Return whether the front was tested before the study has ended."""
    return spec.search.test == "now" and len(status.ended) < spec.search.trials


def _require_trials(spec: StudySpec, purpose: str) -> None:
    """Refuse to use the trials of a study that has none.

    Args:
        spec: The study's specification.
        purpose: What needs them, as the start of the message.
    """
    from lightexp.search.storage import count_trials

    if not count_trials(spec.search.storage, spec.folder, spec.name):
        raise BadInput(
            f"{purpose}, but '{spec.name}' has no trials yet. Leave it out to run some, or set search.study=NAME."
        )


def _print_pick(spec: StudySpec, name: str) -> None:
    """Print the command that runs a trial of a study, and say on standard error which trial it is."""
    from lightexp.search.export_front import write_point_config
    from lightexp.search.picks import find_point
    from lightexp.search.preparation import prepare_study
    from lightexp.search.stored_spec import restore_spec
    from lightexp.search.study import SearchStudy
    from lightexp.search.study_status import compute_status

    _require_trials(spec, f"--pick {name} takes a trial of a study")
    spec = restore_spec(spec, print_error)
    prepared = prepare_study(spec)
    study = SearchStudy(spec, prepared.space, spec.folder, print_error, prepared.identity)
    status = compute_status(study.trials, spec.objectives)
    trial, description = find_point(name, status, spec.objectives)
    print_line(description, sys.stderr)
    config = spec.make_trial_settings(study.config_of(trial)).written
    print_line(write_point_config(study, trial.number, config)[1])
