"""The process that mirrors records, from its parent's side. Imports nothing heavy: it is started before all else.

MLflow takes 2 s to import, as long again to make its first database, and brings libraries that do not bear being
imported beside TensorFlow's. In a process of its own it holds up nothing, and whatever becomes of it, the run goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Worker:
    """The process: `lightexp.tracking.worker`, which takes calls and gives answers as lines of JSON.

    It ends with its parent, whatever ends that, as its input then closes.
    """

    def __init__(self) -> None:
        """Starts the process, which imports MLflow at once."""
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lightexp.tracking.worker"],  # -P: no file of the current folder stands in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        weakref.finalize(self, _end, self.process)

    def call(self, request: dict[str, Any], say: Callable[[str], None]) -> dict[str, str]:
        """Sends a call and waits for its answer.

        Args:
            request: The call, as JSON types.
            say: Takes each line for the user.

        Returns:
            What is to stand in `record.mlflow`.

        Raises:
            OSError: If the process has ended.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            answer = json.loads(line)
            if "say" not in answer:
                return dict(answer["mlflow"])
            say(answer["say"])
        raise BrokenPipeError("the tracking process has ended")


def _end(process: subprocess.Popen[str]) -> None:
    """Ends the process, which has answered every call and has nothing left to write."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            if stream is not None:
                stream.close()
