"""Requests to a storage of which several wait for their answers at the same time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")

_THREADS = 16


def request_parallel(request: Callable[[A], T], arguments: Iterable[A]) -> Iterator[T]:
    """Yield what a function returns for each argument, in their order; 16 calls run at a time.

    If the consumer stops, also by Ctrl-C, no further call starts, and the process can end without those that run.

    Args:
        request: The function, whose exceptions are raised here.
        arguments: The arguments of its calls.
    """
    calls: deque[tuple[A, Future[T]]] = deque((argument, Future()) for argument in arguments)
    waiting = deque(calls)
    is_stopped = threading.Event()

    def work() -> None:
        while not is_stopped.is_set():
            try:
                argument, future = waiting.popleft()
            except IndexError:
                return
            try:
                future.set_result(request(argument))
            except BaseException as error:
                future.set_exception(error)

    for _ in range(min(_THREADS, len(calls))):
        threading.Thread(target=work, daemon=True).start()  # the threads of a pool would be waited for at the exit
    try:
        while calls:
            yield calls.popleft()[1].result()
    finally:
        is_stopped.set()
