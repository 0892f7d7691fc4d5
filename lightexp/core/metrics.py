"""Measurements of a shipped file: the abstract class, its context, and the metrics and notes it returns.

`lightexp.core.protocols` exports the same names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:  # records are read in the user's own process, which loads no NumPy for them
    import numpy as np
    from numpy.typing import NDArray

    from lightexp.core.data import Data
    from lightexp.core.task import Task


@dataclass(frozen=True)
class Metric:
    """A measured number.

    Attributes:
        name: Name such as `accuracy/val`; the same in records, MLflow and tables.
        value: The number, in `unit`.
        unit: Unit such as `bytes` or `µs`; empty for a ratio.
        direction: Which way is better; None where neither is.
        split: The split it was measured on, if any.
        version: Version of the measurement; metrics of different versions are not compared.
    """

    name: str
    value: float
    unit: str = ""
    direction: Literal["max", "min"] | None = None
    split: Literal["train", "val", "test"] | None = None
    version: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", float(self.value))  # JSON has no NumPy numbers


@dataclass(frozen=True)
class Note:
    """An explanation of a metric: why it is missing, or why it has its value.

    Attributes:
        name: The metric's name.
        text: The explanation, in one line.
    """

    name: str
    text: str


@dataclass(frozen=True)
class MeasurementContext:
    """What a measurement works with: the shipped file, the control's file and the data.

    Attributes:
        tflite: The shipped file.
        control: The float32 control's file.
        data: The data set.
        threads: Number of threads that may compute (latency always uses one).
        splits: The splits that may be evaluated.
        foreign: Whether other software wrote the file, so that it runs in a sandbox process.
        foreign_control: The same of the control's file.
        encoded: The entropy-coded file; None where there is none.
        cache: Outputs by file and split, shared by the measurements of a run; see `lightexp.metrics.logits`.
        requested: The metrics that are needed; a measurement may leave out others that are costly. None for all.
        report: Called with the share of the examples that the file has been run on, from 0 to 1.
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
    requested: frozenset[str] | None = None
    report: Callable[[float], None] = field(default=lambda share: None, compare=False, repr=False)


class Measurement(ABC):
    """A kind of measurement of a shipped file.

    Attributes:
        gives: The names of its metrics, each with the direction that is better; see `list_metrics`.
        is_timing: Whether it measures time, so that nothing else may compute meanwhile.
        version: To be raised when the same file gives another value.
    """

    version: ClassVar[int] = 1
    is_timing: ClassVar[bool] = False
    gives: ClassVar[Mapping[str, Literal["max", "min"] | None]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether it measures nothing under its settings; it is then left out of a run, its keys and its record."""
        return False

    def list_metrics(self, task: Task) -> Mapping[str, Literal["max", "min"] | None]:
        """Return the names of its metrics under a task, each with the direction that is better.

        By them a search is refused before it has trained anything.
        """
        return self.gives

    @abstractmethod
    def measure(self, subject: MeasurementContext) -> Sequence[Metric | Note]:
        """Measure the file of `subject`."""
