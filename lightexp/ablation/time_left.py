"""Estimate of an ablation's remaining time, from the stages that are left and how long others of their kind took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from statistics import fmean

from lightexp.ablation.runs import Backlog


class TimeLeft:
    """Learns how long stages take while they are made.

    A stage is taken to last as long as those with the same settings and other seeds, or else as those of the same name,
    or else as all.
    """

    def __init__(self, backlog: Backlog, is_stored: Callable[[str], bool], workers: int) -> None:
        """Start with the durations in earlier records.

        Args:
            backlog: Names the stages to make.
            is_stored: Returns whether a key is in the store.
            workers: Number of workers that share the stages.
        """
        self._kinds = backlog.kinds
        self._expected = {key: seconds for key, seconds in backlog.seconds.items() if seconds is not None}
        self._is_stored = is_stored
        self._workers = workers
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        self._left = set(backlog.seconds)

    def learn(self, key: str, seconds: float) -> None:
        """Note how long a stage took."""
        if key in self._kinds:
            for kind in self._kinds[key]:
                self._seconds[kind].append(seconds)
            self._seconds[""].append(seconds)

    def estimate(self) -> float | None:
        """Return the remaining seconds; None if nothing is known yet."""
        self._left = {key for key in self._left if not self._is_stored(key)}
        expected = [self._expect(key) for key in self._left]
        estimated = [seconds for seconds in expected if seconds is not None]
        if len(estimated) < len(expected):
            return None
        return sum(estimated) / max(1, min(self._workers, len(estimated)))

    def _expect(self, key: str) -> float | None:
        """Return the expected seconds of a stage: of its kind, of an earlier record, of its name, or of any stage."""
        kind, name = self._kinds[key]
        if self._seconds[kind]:
            return fmean(self._seconds[kind])
        if key in self._expected:
            return self._expected[key]
        for wider in (name, ""):
            if self._seconds[wider]:
                return fmean(self._seconds[wider])
        return None
