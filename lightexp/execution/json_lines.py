"""A process that takes calls and gives answers as lines of JSON, from both sides.

It imports what it needs beside its parent's own work, and whatever becomes of it, the parent goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, TextIO


class WorkerProcess:
    """The process, from its parent's side. It ends with its parent, whatever ends that, as its input then closes."""

    def __init__(self, module: str, *words: str, errors: Any = subprocess.DEVNULL, session: bool = False) -> None:
        """Starts the process.

        Args:
            module: That it runs.
            words: Its arguments.
            errors: Where its standard error goes. Defaults to nowhere.
            session: Whether it has one of its own, so that Ctrl-C is the parent's alone. Defaults to False.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *words],  # -P: no file of the current folder stands in for a module
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            start_new_session=session,
        )

    def call(self, request: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
        """Sends a call and waits for its answer.

        Args:
            request: The call, as JSON types.
            say: Takes each line for the user.

        Raises:
            BrokenPipeError: If the process has ended.
        """
        assert self.process.stdin and self.process.stdout
        write_line(self.process.stdin, request)
        for line in self.process.stdout:
            words: dict[str, Any] = json.loads(line)
            if "say" not in words:
                return words
            say(words["say"])
        raise BrokenPipeError("its process has ended")


def close(process: subprocess.Popen[str]) -> None:
    """Closes a child's input, at which it ends, and waits for that."""
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            if stream is not None:
                stream.close()
    process.wait()


def write_line(stream: IO[str], words: dict[str, Any]) -> None:
    """Writes one line."""
    stream.write(json.dumps(words) + "\n")
    stream.flush()


def claim_stdout() -> TextIO:
    """Where this process, a child, is to answer; what libraries print is no answer, and goes to standard error."""
    found = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return found


def reply(stream: TextIO, words: dict[str, Any]) -> None:
    """Answers the parent, if it is still there."""
    with suppress(BrokenPipeError):
        write_line(stream, words)
