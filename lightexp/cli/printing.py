"""Standard output and error of all commands: what is printed, and what happens when nobody reads it."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from io import TextIOWrapper
from typing import TYPE_CHECKING, TextIO

from lightexp.core.formatting import strip_controls
from lightexp.core.secrets import hide_secrets

if TYPE_CHECKING:
    from rich.console import Console

BROKEN_PIPE = 141
"""Exit code of a command whose output nobody reads any more: that of a shell for a program that SIGPIPE has ended."""

_OUTPUTS = (1, 2)
_LINE_INTERVAL_S = 2.0


def prepare_streams() -> None:
    """Open standard streams that the parent has closed, and let others print what the locale lacks as `?`."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is `descriptor`
            stream = os.fdopen(opened, mode, encoding="utf-8", errors="replace")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def print_line(text: str, stream: TextIO | None = None) -> None:
    """Print text, which may quote files and servers of others, without control characters and secrets.

    Args:
        text: The text.
        stream: Where to print it; nothing is printed if nobody reads it. Defaults to standard output.

    Raises:
        BrokenPipeError: If nobody reads standard output.
    """
    try:
        print(strip_controls(hide_secrets(text)), file=stream, flush=True)
    except BrokenPipeError:
        if stream is None:
            raise


def print_error(message: object, stream: TextIO | None = None) -> None:
    """Print a message as one line that begins with the program's name.

    Args:
        message: The message.
        stream: Where to print it. Defaults to standard error, also where libraries have replaced it.
    """
    line = " ".join(strip_controls(str(message)).split()).removesuffix(":")
    named = line if line.startswith(("lightexp ", "lightexp:")) else f"lightexp: {line}"
    print_line(named, stream or sys.__stderr__)


def make_console(stream: TextIO | None = None, width: int | None = None) -> Console:
    """Make a rich console. When nobody reads its output, one on standard output raises BrokenPipeError.

    Another one, which shows progress, prints nothing more, so that the work goes on. Rich's own console would end the
    process.

    Args:
        stream: Where it prints. Defaults to standard output.
        width: Characters of a line. Defaults to None: rich asks the terminal.
    """
    from rich.console import Console

    class PipeConsole(Console):
        def on_broken_pipe(self) -> None:
            if stream is None:
                raise BrokenPipeError
            self.quiet = True

    return PipeConsole(file=stream, width=width, highlight=False)


def is_output_closed(error: BaseException) -> bool:
    """Return whether an error means that nobody reads standard output or standard error any more."""
    return isinstance(error, BrokenPipeError) and any(map(_has_no_reader, _OUTPUTS))


def discard_output() -> None:
    """Discard what unread streams still hold, so that Python does not complain about it at its end."""
    for descriptor in filter(_has_no_reader, _OUTPUTS):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _has_no_reader(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def report_progress(noun: str) -> Callable[[], None]:
    """Return a function that counts its calls, and every two seconds prints their number on standard error.

    Args:
        noun: What is counted, such as `entries read that the index lacks`.
    """
    count, last_line = 0, time.monotonic()

    def count_one() -> None:
        nonlocal count, last_line
        count += 1
        if time.monotonic() - last_line >= _LINE_INTERVAL_S:
            last_line = time.monotonic()
            print_line(f"{count:,} {noun} ...", sys.stderr)

    return count_one
