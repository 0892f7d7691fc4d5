"""Requests of which several wait at the same time."""

from __future__ import annotations

import threading
from itertools import islice

import pytest

from lightexp.core.parallel_requests import request_parallel


def test_results_come_in_the_order_of_the_arguments() -> None:
    together = threading.Barrier(16)

    def request(number: int) -> int:
        together.wait(30)  # broken unless 16 calls run at a time
        return 2 * number

    assert list(request_parallel(request, range(32))) == [2 * number for number in range(32)]
    assert list(request_parallel(request, [])) == []


def test_no_call_starts_after_an_error() -> None:
    started: list[int] = []
    gate = threading.Event()

    def request(number: int) -> None:
        started.append(number)
        if number == 0:
            raise ZeroDivisionError
        gate.wait(30)

    threads = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        list(request_parallel(request, range(1_000)))
    assert all(thread.daemon for thread in set(threading.enumerate()) - threads)  # the process need not wait for them
    gate.set()
    for thread in set(threading.enumerate()) - threads:
        thread.join(30)
    assert len(started) <= 17


def test_no_call_starts_after_the_consumer_has_stopped() -> None:
    started: list[int] = []
    gate = threading.Event()

    def request(number: int) -> int:
        started.append(number)
        if number:
            gate.wait(30)
        return number

    results = request_parallel(request, range(1_000))
    assert list(islice(results, 1)) == [0]
    results.close()  # type: ignore[attr-defined]
    gate.set()
    assert len(started) <= 17
