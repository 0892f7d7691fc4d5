"""Measure whether the shipped file runs on TFLite Micro, its arena size, and which boards it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict
from typing_extensions import TypedDict

from lightexp.core.config import Count, Index, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Measurement, MeasurementContext, Metric, Note
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.metrics.board_advice import advise_flash, advise_io, advise_ram, explain_refusal


class Board(TypedDict):
    """Memory of a microcontroller, in KiB.

    Attributes:
        flash: Total flash.
        ram: RAM of the largest region that can hold an arena.
        flash_taken: Flash used by the interpreter, its kernels and the application.
        ram_taken: RAM used by the same, with stack and buffers.
        core: Its processor and clock, for people.
        source: Address of the data sheet or page that states the memory.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    flash: Count
    ram: Count
    flash_taken: Index
    ram_taken: Index
    core: NotRequired[str]
    source: NotRequired[str]


@settings_dataclass
class Micro(Measurement):
    """Result of running the file by TensorFlow Lite for Microcontrollers, on zeros, on this machine.

    `micro/runs` is 1 if it runs. `micro/arena_bytes` is the smallest arena in which it starts and runs, in steps of 64
    bytes above head plus tail; `micro/arena_head_bytes` (activations) and `micro/arena_tail_bytes` (persistent data)
    are the interpreter's own counts. `fits/<board>` is 1 if file and arena fit into the board's free memory. A note
    gives the reason if it does not run or fit.

    Attributes:
        boards: Boards by name; see `Board` and `conf/deploy/`.
    """

    boards: dict[str, Board]

    def __post_init__(self) -> None:
        """Drop what is for people, so that it can be written better without making a study another one."""
        sizes: dict[str, Any] = {
            name: {key: size for key, size in board.items() if key not in ("core", "source")}
            for name, board in self.boards.items()
        }
        object.__setattr__(self, "boards", sizes)

    @property
    def gives(self) -> Mapping[str, Literal["max", "min"] | None]:  # type: ignore[override]
        """Names and directions of the metrics, one of them for each board; see `Measurement`."""
        arena: Mapping[str, Literal["max", "min"] | None] = {
            "micro/runs": "max",
            "micro/arena_bytes": "min",
            "micro/arena_head_bytes": "min",
            "micro/arena_tail_bytes": "min",
        }
        return {**arena, **{f"fits/{board}": "max" for board in self.boards}}

    def measure(self, context: MeasurementContext) -> list[Metric | Note]:
        """Measure `micro/*` and `fits/*`."""
        from lightexp.backend import micro

        if reason := micro.find_unavailable_reason():
            return [Note("micro/runs", reason)]
        graph = _read_graph(context.tflite)
        try:
            arena = micro.measure_arena(context.tflite)
        except BadInput as error:
            results = self._make_flag("micro/runs", explain_refusal(str(error), graph) if graph else str(error))
            for name in self.boards:
                results += self._make_flag(f"fits/{name}", "it does not run on TFLite Micro")
            return results
        results = self._make_flag("micro/runs", None)
        for name, size in (
            ("micro/arena_bytes", arena.minimum),
            ("micro/arena_head_bytes", arena.head),
            ("micro/arena_tail_bytes", arena.tail),
        ):
            results.append(Metric(name, size, "bytes", "min", version=self.version))
        if graph and (advice := advise_io(graph, arena.minimum)):
            results.append(Note("micro/arena_bytes", advice))
        for name, board in self.boards.items():
            results += self._make_flag(f"fits/{name}", explain_misfit(board, context.tflite, arena.minimum, graph))
        return results

    def _make_flag(self, name: str, problem: str | None) -> list[Metric | Note]:
        """Return a metric of 1 if there is no problem, else of 0 with a note."""
        metric = Metric(name, float(problem is None), "", "max", version=self.version)
        return [metric] if problem is None else [metric, Note(name, problem)]


def _read_graph(tflite: Path) -> TFLiteGraph | None:
    """Read a file's graph; None of a file that only the interpreter may be able to read."""
    from lightexp.backend import flatbuffer

    try:
        return flatbuffer.read_graph(tflite)
    except BadInput:
        return None


def explain_misfit(board: Board, tflite: Path, arena: int, graph: TFLiteGraph | None) -> str | None:
    """Explain why a file does not fit on a board, and what would help.

    Args:
        board: The board's memory.
        tflite: Path of the file.
        arena: Size of the arena in bytes.
        graph: The file's graph; None if it cannot be read, then there is no advice.

    Returns:
        The reason, or None if it fits.
    """
    size = tflite.stat().st_size
    flash, ram = (board[kind] - board[f"{kind}_taken"] for kind in ("flash", "ram"))  # type: ignore[literal-required]
    problems, advice = [], []
    if size > flash * 1024:
        problems.append(f"{math.ceil(size / 1024):,} KiB of flash where {max(flash, 0):,} are free")
        advice += [f"flash: {advise_flash(graph)}"] if graph else []
    if arena > ram * 1024:
        problems.append(f"{math.ceil(arena / 1024):,} KiB of RAM where {max(ram, 0):,} are free")
        advice += [f"RAM: {advise_ram(graph, arena, arena - ram * 1024)}"] if graph else []
    return ". ".join(filter(None, [f"it takes {' and '.join(problems)}", "; ".join(advice)])) if problems else None
