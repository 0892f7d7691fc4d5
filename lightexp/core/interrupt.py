"""Handlers of SIGINT and SIGTERM that remember the signal, which C code of libraries may swallow or replace."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_requested = False


def install_handlers() -> None:
    """Let SIGTERM raise KeyboardInterrupt as SIGINT does, and remember both; an ignored SIGINT stays ignored."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def was_requested() -> bool:
    """Check whether the process has been asked to stop."""
    return _requested


def raise_if_requested() -> None:
    """Raise KeyboardInterrupt if the process has been asked to stop and a library has swallowed the exception."""
    if _requested:
        raise KeyboardInterrupt


@contextmanager
def defer_first_signal(on_signal: Callable[[], None]) -> Iterator[None]:
    """Call a function at the first SIGINT or SIGTERM in the context; the next one raises KeyboardInterrupt as usual.

    Args:
        on_signal: The function.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler is _interrupt}

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def handle_first(*_: object) -> None:
        restore()
        on_signal()

    for number in handlers:
        signal.signal(number, handle_first)
    try:
        yield
    finally:
        restore()


def _interrupt(*_: object) -> None:
    global _requested
    if not _requested:
        # C code that expects no exception prints a traceback; lightexp's own messages go to `sys.__stderr__`.
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open until the process ends
    _requested = True
    raise KeyboardInterrupt
