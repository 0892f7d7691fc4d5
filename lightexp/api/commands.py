"""The commands that the Python API runs in a worker: the command itself, with its output as log messages."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightexp.core.errors import INTERRUPTED, BadInput, RunFailed
from lightexp.execution.process import ParentConnection

_COMPLAINT = "lightexp: "
_TASK_FAILURE = " failed: "
_MAX_FAILURES = 5
"""Failed rows or trials that an exception's message names."""
_DRAIN_S = 2.0  # a process that the command has left may keep the pipe open


def search(parent: ParentConnection, overrides: list[str]) -> dict[str, Any]:
    """Run `lightexp search` and return the study's folder."""
    from lightexp.cli import search as command
    from lightexp.runner.launcher import split_hydra_overrides
    from lightexp.search.study_spec import StudySpec

    _run_command(parent, lambda: command.run(overrides), "no trial of the study has succeeded.")
    spec = StudySpec(split_hydra_overrides(overrides)[1], [])
    return {"folder": str(spec.folder.absolute())}


def ablate(parent: ParentConnection, overrides: list[str], path: str, workers: int) -> dict[str, Any]:
    """Run `lightexp ablate` and return the folder of its report."""
    from lightexp.ablation.spec import read_spec
    from lightexp.cli import ablate as command
    from lightexp.runner.launcher import split_hydra_overrides

    arguments = [path, *overrides, f"workers={workers}"]
    _run_command(parent, lambda: command.run(arguments), "a row of the ablation has failed.")
    spec = read_spec(Path(path), split_hydra_overrides(overrides)[1])
    return {"folder": str(spec.results.absolute())}


def report(parent: ParentConnection, overrides: list[str], places: list[str]) -> dict[str, Any]:
    """Run `lightexp report` and return the folder of the report."""
    from lightexp.cli import report as command

    _run_command(parent, lambda: command.run([*places, *overrides]), "the report cannot be made.")
    if len(places) == 1 and places[0].endswith((".yaml", ".yml")):
        from lightexp.ablation.spec import read_spec

        return {"folder": str(read_spec(Path(places[0]), overrides).results.absolute())}
    settings = dict(override.split("=", 1) for override in overrides)
    title = Path(os.path.realpath(places[0])).name if places else settings.get("tracking.experiment", "lightexp")
    folder = Path(settings.get("out") or Path("outputs") / "reports" / (title or "runs"))
    return {"folder": str(folder.absolute())}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"search": search, "ablate": ablate, "report": report}
"""By the name of a request's call."""


def _run_command(parent: ParentConnection, command: Callable[[], int], failure: str) -> None:
    """Run a command of the command line and raise the exception that its exit code means.

    Args:
        parent: Receives each line of the command's output.
        command: Returns the exit code.
        failure: The message if the command gives no reason.
    """
    complaints: list[str] = []
    task_failures: list[str] = []

    def forward(line: str) -> None:
        is_complaint = line.startswith(_COMPLAINT)
        if is_complaint:
            complaints.append(line.removeprefix(_COMPLAINT))
        elif _TASK_FAILURE in line:
            task_failures.append(line)
        parent.send_event(log=line, level=logging.WARNING if is_complaint else logging.INFO)

    with _forwarded_output(forward):
        exit_code = command()
    if exit_code == INTERRUPTED:
        raise KeyboardInterrupt
    if exit_code == BadInput.exit_code:
        raise BadInput("; ".join(complaints) or "nothing was requested.")
    if exit_code:
        raise RunFailed("; ".join(task_failures[:_MAX_FAILURES] or complaints) or failure)


@contextmanager
def _forwarded_output(forward: Callable[[str], None]) -> Iterator[None]:
    """Pass each line that is written to standard output or standard error to a function."""
    source, target = os.pipe()
    saved = {number: os.dup(number) for number in (1, 2)}
    for number in saved:
        os.dup2(target, number)
    os.close(target)
    reader = threading.Thread(target=_read_lines, args=[source, forward], daemon=True)
    reader.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, descriptor in saved.items():
            os.dup2(descriptor, number)
            os.close(descriptor)
        reader.join(_DRAIN_S)


def _read_lines(source: int, forward: Callable[[str], None]) -> None:
    with os.fdopen(source, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                forward(line.rstrip())
