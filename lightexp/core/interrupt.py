"""Ctrl-C and SIGTERM, noticed even where a library's C code turns them into another error or loses them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_asked = False


def install_handlers() -> None:
    """Makes SIGTERM end the process as Ctrl-C does, and remembers either; Ctrl-C stays ignored where it was."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def was_requested() -> bool:
    """Whether the user has asked to stop."""
    return _asked


def raise_if_requested() -> None:
    """Raises KeyboardInterrupt if the user has asked to stop and the request was lost on its way."""
    if _asked:
        raise KeyboardInterrupt


@contextmanager
def defer_first_signal(told: Callable[[], None]) -> Iterator[None]:
    """A context in which the first request to stop is only told of, by a call; the next one raises as ever."""
    asked = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}
    asked = {sign: handler for sign, handler in asked.items() if handler is _interrupt}

    def back() -> None:
        for sign, handler in asked.items():
            signal.signal(sign, handler)

    def first(*_: object) -> None:
        back()
        told()

    for sign in asked:
        signal.signal(sign, first)
    try:
        yield
    finally:
        back()


def _interrupt(*_: object) -> None:
    global _asked
    if not _asked:
        # C code that did not expect an error prints a traceback; what we have to say goes to `sys.__stderr__`.
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open until the process ends
    _asked = True
    raise KeyboardInterrupt
