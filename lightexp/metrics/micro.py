"""Whether the shipped file runs on the embedded interpreter, in how much RAM, and which boards it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict
from typing_extensions import TypedDict

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note


class Board(TypedDict):
    """A microcontroller, in KiB.

    Attributes:
        flash: That it has.
        ram: That it has, of the largest piece that an arena can lie in.
        flash_taken: Of that by the interpreter, its kernels and the application.
        ram_taken: Likewise, with stack and buffers.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    flash: Count
    ram: Count
    flash_taken: Index
    ram_taken: Index


@settings_dataclass
class Micro(Measurement):
    """What TensorFlow Lite for Microcontrollers makes of the file, run on zeros on this machine.

    `micro/runs` is 1 if it runs there. `micro/arena_bytes` is the smallest arena, in steps of 64 bytes beyond head and
    tail, in which it starts and runs; `micro/arena_head_bytes` (activations) and `micro/arena_tail_bytes` (what stays)
    are what the interpreter counts of it. `fits/<board>` is 1 if file and arena go into what a board leaves free. What
    does not run or fit has a note that says why.

    Attributes:
        boards: By name; see `Board` and `conf/deploy/`.
    """

    boards: dict[str, Board]

    @property
    def gives(self) -> Mapping[str, Literal["max", "min"] | None]:  # type: ignore[override]
        """See `Measurement`; a figure for each board."""
        arena: Mapping[str, Literal["max", "min"] | None] = {
            "micro/runs": "max",
            "micro/arena_bytes": "min",
            "micro/arena_head_bytes": "min",
            "micro/arena_tail_bytes": "min",
        }
        return {**arena, **{f"fits/{board}": "max" for board in self.boards}}

    def measure(self, subject: MeasurementContext) -> list[Metric | Note]:
        """Measures `micro/*` and `fits/*`."""
        from lightexp.backend import micro

        if why := micro.find_unavailable_reason():
            return [Note("micro/runs", why)]
        try:
            arena = micro.measure_arena(subject.tflite)
        except BadInput as error:
            no = [self._yes_or_no("micro/runs", str(error))]
            no += [self._yes_or_no(f"fits/{name}", "it does not run on TFLite Micro") for name in self.boards]
            return [one for pair in no for one in pair]
        found: list[Metric | Note] = [*self._yes_or_no("micro/runs", None)]
        parts = {"": arena.minimum, "_head": arena.head, "_tail": arena.tail}
        for part, size in parts.items():
            found.append(Metric(f"micro/arena{part}_bytes", size, "bytes", "min", version=self.version))
        for name, board in self.boards.items():
            found += self._yes_or_no(f"fits/{name}", too_large(board, subject.tflite, arena.minimum))
        return found

    def _yes_or_no(self, name: str, why_not: str | None) -> list[Metric | Note]:
        figure = Metric(name, float(why_not is None), "", "max", version=self.version)
        return [figure] if why_not is None else [figure, Note(name, why_not)]


def too_large(board: Board, tflite: Path, arena: int) -> str | None:
    """Why a file that needs an arena of so many bytes does not go onto a board, or None if it does."""
    needs = {"flash": (tflite.stat().st_size, board["flash"] - board["flash_taken"])}
    needs["RAM"] = arena, board["ram"] - board["ram_taken"]
    words = [
        f"{math.ceil(size / 1024):,} KiB of {kind} where {max(free, 0):,} are free"
        for kind, (size, free) in needs.items()
        if size > free * 1024
    ]
    return f"it takes {' and '.join(words)}" if words else None
