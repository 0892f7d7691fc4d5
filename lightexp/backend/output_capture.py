"""Capture what C and C++ libraries write to standard output or standard error."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile


@contextmanager
def capture_output(descriptor: int) -> Iterator[Callable[[], str]]:
    """Redirect a file descriptor to a temporary file while the context lasts.

    Args:
        descriptor: 1, standard output, or 2, standard error.

    Yields:
        A function that returns what has been written so far.
    """
    flush = ctypes.CDLL(None).fflush
    with TemporaryFile() as captured:

        def read() -> str:
            flush(None)  # C's library buffers standard output
            captured.seek(0)
            return captured.read().decode(errors="replace")

        original = os.dup(descriptor)
        os.dup2(captured.fileno(), descriptor)
        try:
            yield read
        finally:
            flush(None)
            os.dup2(original, descriptor)
            os.close(original)
