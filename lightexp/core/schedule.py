"""Schedules of pruning: the training steps at which masks change."""

from __future__ import annotations

from dataclasses import dataclass

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput

_FREQUENCY = 100  # tfmot's default
_MIN_UPDATES = 10  # where the schedule is too short for the default frequency


@dataclass(frozen=True)
class Schedule:
    """A sparsity schedule in steps, whose last update falls on `end`.

    Attributes:
        initial: Sparsity at the first step of a polynomial schedule; None for a constant one.
        final: Sparsity at the last step.
        begin: First step, from 0; a schedule that begins at 0 updates for the first time at step `frequency`.
        end: Last step, at most the length of training.
        frequency: Steps between updates.
    """

    initial: float | None
    final: float
    begin: int
    end: int
    frequency: int


@settings_dataclass
class Span:
    """The begin and end of a schedule, in steps or else in shares of training.

    Attributes:
        begin: Begin as a share of training.
        end: End as a share of training.
        begin_step: Begin in steps, instead of `begin`. Defaults to None.
        end_step: End in steps, instead of `end`. Defaults to None.
        frequency: Steps between updates. Defaults to None: derived from the length.

    Example:
        >>> Span(begin=0.0, end=0.5).steps(2000, constant=False)
        (0, 1000, 100)
    """

    begin: float
    end: float
    begin_step: int | None = None
    end_step: int | None = None
    frequency: int | None = None

    def steps(self, total: int, constant: bool) -> tuple[int, int, int]:
        """Return begin, end and frequency in steps; an end set as a share moves to the last update before it.

        Args:
            total: Number of steps of training.
            constant: Whether the sparsity is constant, so that a single update is enough.

        Raises:
            BadInput: If the schedule would not end within training, is empty, or its last update would miss its end.
        """
        begin = int(self.begin * total) if self.begin_step is None else self.begin_step
        end = int(self.end * total) if self.end_step is None else self.end_step
        if end > total:
            raise BadInput(
                f"the pruning schedule ends at step {end}, but training has {total} steps, so the sparsity asked for "
                f"would not be reached. Raise epochs, or set end_step={total} or less."
            )
        if constant and begin == end and begin > 0:
            return begin, end, 1
        span = end - begin
        if span < 1:
            raise BadInput(
                f"the pruning schedule is empty: it begins at step {begin} and ends at step {end} of {total}. "
                "Set end (or end_step) after begin, or raise epochs."
            )
        frequency = self.frequency or self._derive_frequency(span)
        if frequency > span:
            raise BadInput(
                f"frequency={frequency} is longer than the pruning schedule of {span} steps, so nothing would be "
                f"pruned. Set frequency to at most {span}, or leave it null."
            )
        if span % frequency and self.end_step is not None:
            raise BadInput(
                f"with frequency={frequency} the last update falls on step {begin + span // frequency * frequency}, "
                f"not on end_step={end}, so the sparsity asked for would not be reached. "
                f"Set end_step={begin + span // frequency * frequency}, or leave frequency null."
            )
        return begin, begin + span // frequency * frequency, frequency

    def _derive_frequency(self, span: int) -> int:
        frequency = max(1, min(_FREQUENCY, span // _MIN_UPDATES))
        if self.end_step is not None:
            while span % frequency:
                frequency -= 1
        return frequency
