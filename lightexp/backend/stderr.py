"""Silence what C++ libraries write to standard error."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

from lightexp.core.errors import LightexpError

_lock = threading.RLock()  # file descriptor 2 belongs to the process, not to a thread


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Discard what is written to file descriptor 2 while the context lasts.

    TensorFlow, its converter and LiteRT print there from C++, ignoring Python's and their own log levels. When an
    unexpected exception leaves the context, the output is written after all; a `LightexpError` explains itself.
    """
    with _lock, TemporaryFile() as captured:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(captured.fileno(), 2)
        has_failed = True
        try:
            yield
            has_failed = False
        except LightexpError:
            has_failed = False
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            if has_failed:
                captured.seek(0)
                os.write(2, captured.read())
