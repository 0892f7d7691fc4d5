"""What a measurement is: from a shipped file to figures and notes. To be had from `core.protocols` too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:  # records are read in the user's own process, which loads no NumPy for them
    import numpy as np
    from numpy.typing import NDArray

    from lightexp.core.data import Data


@dataclass(frozen=True)
class Metric:
    """One measured number.

    Attributes:
        name: Such as `accuracy/val`; the same in records, MLflow and tables.
        value: In `unit`.
        unit: Such as `bytes`, `µs`, or `` for a plain ratio.
        direction: Which way is better; None where neither is.
        split: The split it was measured on, if any.
        version: The evaluator's version: figures of different versions are not compared.
    """

    name: str
    value: float
    unit: str = ""
    direction: Literal["max", "min"] | None = None
    split: Literal["train", "val", "test"] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))  # a number of NumPy's has no place in JSON


@dataclass(frozen=True)
class Note:
    """What is to be said of a figure: why there is none, or why it is as it is.

    Attributes:
        name: The figure's name.
        words: In one line.
    """

    name: str
    words: str


@dataclass(frozen=True)
class MeasurementContext:
    """What is measured: a flatbuffer, beside the control's.

    Attributes:
        tflite: The file.
        control: The float32 control's file.
        data: The data set.
        threads: How many threads may compute (latency always takes one).
        splits: Which splits may be looked at.
        foreign: Whether the file comes from somebody else, so that it is run in a process of its own.
        foreign_control: Whether the control does.
        encoded: The entropy-coded file, where there is one.
        cache: Logits by file and split, shared by the measurements of a run; see `measure.outputs`.
        wanted: The figures that somebody asks for; what is costly may leave out others. None for all.
    """

    tflite: Path
    control: Path
    data: Data
    threads: int
    splits: tuple[Literal["val", "test"], ...] = ("val", "test")
    foreign: bool = False
    foreign_control: bool = False
    encoded: Path | None = None
    cache: dict[tuple[Path, str], NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)
    wanted: frozenset[str] | None = None


class Measurement(ABC):
    """One kind of measurement of a shipped file.

    Attributes:
        gives: The names of its metrics, each with the direction that is better, so that a search can be refused before
            it has trained anything.
        is_timing: Whether it measures time, so that nothing else may compute meanwhile.
        version: To be raised when the same file gives another value.
    """

    version: ClassVar[int] = 1
    is_timing: ClassVar[bool] = False
    gives: ClassVar[Mapping[str, Literal["max", "min"] | None]] = {}

    @abstractmethod
    def measure(self, subject: MeasurementContext) -> Sequence[Metric | Note]:
        """Measures the subject's file."""
