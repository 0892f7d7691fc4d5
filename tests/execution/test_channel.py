"""Channels: messages and arrays over pipes, and what is not a message."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO

import numpy as np
import pytest

from lightexp.execution.channel import Channel, Message


@pytest.fixture
def pipe() -> Iterator[tuple[FileIO, FileIO]]:
    source, target = (FileIO(descriptor, mode) for descriptor, mode in zip(os.pipe(), "rw", strict=True))
    with source, target:
        yield source, target


def test_channel_carries_messages_in_their_order(pipe: tuple[FileIO, FileIO]) -> None:
    channel = Channel(*pipe)
    channel.send(Message("request", {"a": [1, None, "ä"]}, number=7))
    channel.send(Message("event", {}, np.arange(6, dtype=np.int16).reshape(2, 3)))
    channel.send(Message("stop", {}))
    first, second, third = (channel.receive() for _ in range(3))
    assert first == Message("request", {"a": [1, None, "ä"]}, number=7)
    assert second is not None
    assert second.array is not None
    assert second.array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert third == Message("stop", {})


def test_channel_skips_lines_that_are_no_messages(pipe: tuple[FileIO, FileIO]) -> None:
    channel = Channel(*pipe)
    pipe[1].write(b'a warning of a library\n{"not": "a message"}\n[1]\n\xff\n')
    channel.send(Message("reply", {"a": 1}))
    assert channel.receive() == Message("reply", {"a": 1})


@pytest.mark.parametrize("cut", [5, -5])
def test_message_that_is_cut_off_is_the_end(pipe: tuple[FileIO, FileIO], cut: int) -> None:
    Channel(*pipe).send(Message("reply", {}, np.zeros(10)))
    data = pipe[0].read(1000)
    pipe[1].write(data[:cut])
    pipe[1].close()
    assert Channel(*pipe).receive() is None


def test_closed_channel_is_at_its_end_and_takes_nothing(pipe: tuple[FileIO, FileIO]) -> None:
    channel = Channel(*pipe)
    pipe[0].close()
    assert channel.receive() is None
    with pytest.raises(OSError, match="Broken pipe"):
        channel.send(Message("reply", {}))
    pipe[1].close()
    with pytest.raises(ValueError, match="closed"):
        channel.send(Message("reply", {}))
