"""Keeps what C++ libraries write to standard error from the user's terminal."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile

from lightexp.core.errors import LightexpError

_one_at_a_time = threading.RLock()


@contextmanager
def silence_stderr() -> Iterator[None]:
    """Drops what is written to descriptor 2 meanwhile, unless an unforeseen exception passes: then it is shown.

    TensorFlow, its converter and LiteRT greet and chat there from C++, past Python and past their own log levels.
    """
    with _one_at_a_time, TemporaryFile() as caught:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(caught.fileno(), 2)
        failed = True
        try:
            yield
            failed = False
        except LightexpError:
            failed = False  # says it all
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            if failed:
                caught.seek(0)
                os.write(2, caught.read())
