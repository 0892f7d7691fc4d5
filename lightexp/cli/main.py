"""The program `lightexp`: dispatch to one module a command, imported on use, and turn errors into one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from lightexp.cli.printing import BROKEN_PIPE, discard_output, is_output_closed, prepare_streams, print_error
from lightexp.core import exceptions, interrupt
from lightexp.core.errors import INTERRUPTED, BadInput, LightexpError, suggest_nearest
from lightexp.core.secrets import find_secret_problem
from lightexp.core.version import __version__

HELP = """lightexp: compare ways of making deep-learning models small, on the file that would ship.

Usage: lightexp COMMAND [arguments]

  run         train a model, compress it stage by stage, measure the file after each, log the run
              lightexp run                    a first run: digits, a small CNN, pruned, then int8 (under a minute)
              lightexp run --plan             what would happen
              lightexp run --help             every group and flag
  search      let Optuna find the trade-offs: ranges instead of values, several objectives, the device's limits
              lightexp search search=prune_quantize model=lenet5 dataset=fashion_mnist
              lightexp search --help          presets and settings
  ablate      run what is missing of a paper's table: a file of rows and seeds
              lightexp ablate FILE --plan     what is done already, what is missing, how long it will take
  report      tables, plots and one HTML page from finished runs: an ablation's file, runs, a study, MLflow
  guide       how to do a task, step by step: your model, your data, a device, a paper's table
  describe    what a group or a choice is, with every setting: lightexp describe stage/prune
  doctor      check whether this machine can run it: versions, memory, disk, store, plugins, data sets
  store       list, verify, clean up and share the store of artifacts: ls, verify, gc, push, pull
  track       sync: upload the runs that MLflow has not seen yet
  ui          MLflow's pages over the runs
  register    a run's model, or the best of a study's front, as a version in MLflow's model registry
  completion  scripts that make the Tab key complete commands, groups and settings: bash, zsh, fish
  decode      turn an encoded model (.lxe) back into its .tflite
  export      a run's model with metadata, and as a C array
  bench       measure a run's latency again, on this machine or on an Android phone

Each takes --help. Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted. --version prints the version.
"""

COMMANDS = (
    "run",
    "search",
    "ablate",
    "report",
    "guide",
    "describe",
    "decode",
    "export",
    "bench",
    "doctor",
    "store",
    "track",
    "ui",
    "register",
    "completion",
)
"""Each is a module of this folder with `run(argv) -> exit code` and `make_parser() -> Arguments`."""
_STARTING_FLAGS = ("-m", "--multirun", "-r", "--run", "--json")
"""Flags of `lightexp run` with which a run follows; with others, such as `--cfg`, none does."""
_NO_MIRROR = ("tracking=", "hydra/launcher=", "hydra/sweeper=")
"""Settings with which records may be mirrored nowhere, or by other processes."""


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: The command line without the program's name. Defaults to the process's own.
    """
    argv = sys.argv[1:] if argv is None else argv
    prepare_streams()
    try:
        try:
            return _without_traceback(lambda: _dispatch(argv))
        finally:  # also when argparse exits
            sys.stdout.flush()
    except BrokenPipeError:  # as in `lightexp run | head -1`
        discard_output()
        return BROKEN_PIPE


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    command, *rest = argv
    for word in rest:  # before anything is written: Hydra keeps the words of a sweep in a file
        if problem := find_secret_problem(word.partition("=")[0] if "=" in word else "the command line", word):
            raise BadInput(problem)
    if command == "--version":
        print(f"lightexp {__version__}")
        return 0
    if command in COMMANDS:
        return _run_command(command, rest)
    raise BadInput(f"'{command}' is not a command: {suggest_nearest(command, COMMANDS)}")


def _run_command(command: str, argv: list[str]) -> int:
    from lightexp.execution.process import isolated_children  # not needed for --help

    with isolated_children():
        return _run(argv) if command == "run" else int(import_module(f"lightexp.cli.{command}").run(argv))


def _run(argv: list[str]) -> int:
    """Run `lightexp run`, with the process that mirrors records started before anything else is imported."""
    from lightexp.cli.run_help import HELP_FLAGS, print_help

    flags = {argument for argument in argv if argument.startswith("-")}
    if flags and flags <= set(HELP_FLAGS):
        print_help()
        return 0
    from lightexp.tracking.process import MirrorProcess

    no_run = any(argument.startswith("-") and argument not in _STARTING_FLAGS for argument in argv)
    no_mirror = any(argument.startswith(_NO_MIRROR) for argument in argv)
    mirror_process = None if no_run or no_mirror else MirrorProcess()
    from lightexp.cli.run import run

    return run(argv, mirror_process)


def _without_traceback(command: Callable[[], int]) -> int:
    """Run a command; write the traceback of an unexpected error to a file, and one line to the user."""
    try:
        return command()
    except LightexpError as error:
        print_error(error)
        return error.exit_code
    except KeyboardInterrupt:  # while the command was being imported
        print_error("Interrupted.")
        return INTERRUPTED
    except Exception as error:  # the last resort: nothing below has turned it into a LightexpError
        if is_output_closed(error):
            raise
        if interrupt.was_requested():
            print_error("Interrupted.")
            return INTERRUPTED
        print_error(exceptions.summarize_exception(error))
        return 1
