"""A channel between two processes: messages as lines of JSON, each followed by the bytes of an array if it has one."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from io import FileIO
from typing import TYPE_CHECKING, Any, Literal

from lightexp.core.json_text import encode_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["request", "reply", "event", "stop"]
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Message:
    """A message between a parent and its worker.

    Attributes:
        kind: `request` and `stop` go to the worker, `reply` and `event` to the parent.
        content: JSON types.
        array: An array that goes with it. Defaults to None.
        number: The number of the request that a reply answers.
    """

    kind: Kind
    content: dict[str, Any]
    array: NDArray[Any] | None = None
    number: int = 0


class Channel:
    """Two pipes that carry messages, without buffers that a thread could hold at exit."""

    def __init__(self, source: FileIO, target: FileIO) -> None:
        """Open a channel.

        Args:
            source: The unbuffered file that messages are read from, by one thread.
            target: The unbuffered file that messages are written to, by any thread.
        """
        self._source, self._target = source, target
        self._pending = bytearray()
        self._write_lock = threading.Lock()

    def send(self, message: Message) -> None:
        """Write a message.

        Raises:
            OSError: If nobody reads it any more.
            ValueError: If the channel was closed.
        """
        header: dict[str, Any] = {"kind": message.kind, "number": message.number, "content": message.content}
        body = memoryview(b"")
        if message.array is not None:
            header["array"] = [message.array.dtype.str, message.array.shape]
            body = message.array.reshape(-1).view("u1").data
        with self._write_lock:
            for remaining in (memoryview(f"{encode_json(header)}\n".encode()), body):
                while remaining:
                    remaining = remaining[self._target.write(remaining) :]

    def receive(self) -> Message | None:
        """Return the next message; None at the end of the input."""
        while (line := self._read_line()) is not None:
            try:
                header = json.loads(line)
                kind, number, content = header["kind"], header["number"], header["content"]
            except (ValueError, TypeError, KeyError):
                continue  # printed by something that started before the worker claimed its output
            if "array" not in header:
                return Message(kind, content, None, number)
            array = self._read_array(*header["array"])
            return None if array is None else Message(kind, content, array, number)
        return None

    def _read_line(self) -> bytes | None:
        searched = 0
        while (end := self._pending.find(b"\n", searched)) < 0:
            searched = len(self._pending)
            if not self._fill():
                return None
        return self._take(end + 1)

    def _read_array(self, dtype: str, shape: list[int]) -> NDArray[Any] | None:
        import numpy as np  # not on the way to a command's --help

        size = np.dtype(dtype).itemsize * int(np.prod(shape))
        while len(self._pending) < size:
            if not self._fill():
                return None
        return np.frombuffer(self._take(size), np.dtype(dtype)).reshape(shape)

    def _fill(self) -> bool:
        try:
            chunk = self._source.read(_CHUNK_BYTES)
        except (OSError, ValueError):  # the pipe was closed by another thread
            return False
        self._pending += chunk
        return bool(chunk)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._pending[:count])
        del self._pending[:count]
        return taken
