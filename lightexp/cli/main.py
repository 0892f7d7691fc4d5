"""`lightexp`: one word a command; nothing is imported before it is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

from lightexp.core import exceptions, interrupt
from lightexp.core.errors import LightexpError, suggest_nearest
from lightexp.core.version import __version__

HELP = """lightexp: compare ways of making deep-learning models small, on the file that would ship.

Usage: lightexp COMMAND [words]

  run         train a model, compress it stage by stage, measure the file after each, log the run
              lightexp run                    a first run: digits, a small CNN, pruned, then int8 (under a minute)
              lightexp run --plan             what would happen
              lightexp run --help             every group and flag
  search      let Optuna find the trade-offs: ranges instead of values, several objectives, the device's limits
              lightexp search search=prune_quantize model=lenet5 dataset=fashion_mnist
              lightexp search --help          presets and settings
  ablate      run what is missing of a paper's table: a file of rows and seeds
              lightexp ablate FILE --plan     what is there already, what is not, how long it will take
  report      tables, figures and one HTML page from what has been run: an ablation's file, runs, a study, MLflow
  doctor      whether this machine can run it: versions, memory, disk, store, plugins, data sets
  store       what the store of artifacts holds, whether it is whole, and what may go: ls, verify, gc
  track       sync: uploads the runs that MLflow has not seen yet
  ui          MLflow's pages over the runs
  completion  what makes the Tab key complete commands, groups and settings: bash, zsh, fish
  decode      an encoded model (.lxe) back to its .tflite
  export      a run's model with metadata, and as a C array

Each takes --help. Exit codes: 0 done, 1 a run failed, 2 bad input, 130 interrupted. --version prints the version.
"""

COMMANDS = ("run", "search", "ablate", "report", "decode", "export", "doctor", "store", "track", "ui", "completion")
"""Each a module of this folder with `run(words) -> exit code`, and `parser()`, or FLAGS that stand among settings."""
_RUNNING = ("-m", "--multirun", "-r", "--run")
_NOT_HERE = ("tracking=", "hydra/launcher=", "hydra/sweeper=")


def main(words: list[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        words: The command line without the program's name. Defaults to the process's own.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(f"lightexp {__version__}")
        return 0
    if words[0] == "run":
        return _without_traceback(lambda: _run(words))
    if words[0] in COMMANDS:
        return _without_traceback(lambda: import_module(f"lightexp.cli.{words[0]}").run(words[1:]))
    print(f"lightexp: '{words[0]}' is not a command: {suggest_nearest(words[0], COMMANDS)}", file=sys.stderr)
    return 2


def _run(words: list[str]) -> int:
    from lightexp.tracking.process import MirrorProcess

    # Started before anything else is imported; where no run seems to follow, it is not.
    asks = any((word.startswith("-") and word not in _RUNNING) or word.startswith(_NOT_HERE) for word in words)
    worker = None if asks else MirrorProcess()
    from lightexp.cli.run import run

    return run(words[1:], worker)


def _without_traceback(command: Callable[[], int]) -> int:
    """Runs a command; an error that nobody foresaw goes into a file, and one line to the user."""
    try:
        return command()
    except LightexpError as error:
        print("lightexp:", error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # while the command was being imported
        print("lightexp: Interrupted.", file=sys.__stderr__)
        return 130
    except Exception as error:
        if interrupt.was_requested():
            print("lightexp: Interrupted.", file=sys.__stderr__)
            return 130
        print("lightexp:", exceptions.summarize_exception(error), file=sys.stderr)
        return 1
