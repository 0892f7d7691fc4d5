"""Garbage collection of commands that read many records."""

from __future__ import annotations

import gc
from contextlib import suppress

import pytest

from lightexp.cli.garbage_collection import pause_garbage_collection


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_collection_pauses_in_the_block_alone(was_enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was_enabled else gc.disable)()
        with suppress(ZeroDivisionError), pause_garbage_collection():
            is_enabled = gc.isenabled()
            raise ZeroDivisionError
        assert not is_enabled
        assert gc.isenabled() == was_enabled
    finally:
        (gc.enable if before else gc.disable)()
