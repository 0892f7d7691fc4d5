"""How a study stands: its front, its best trial, its hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import le

from optuna.trial import FrozenTrial, TrialState

from lightexp.core.hypervolume import compute_hypervolume, find_front
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import is_feasible, place_on_axes, read_stopped_epoch


@dataclass(frozen=True)
class StudyStatus:
    """What there is so far.

    Attributes:
        done: Trials with figures of the whole training.
        short: Trials whose training was cut short: pruned, or not, or not yet, gone on with.
        failed: Trials without.
        running: Trials that are being worked on.
        feasible: Of those done, the ones that keep to every constraint.
        front: Feasible trials that no other dominates, by the first objective's order; of equal ones the first.
        history: The hypervolume after each trial that is done, in the order they ended.
    """

    done: list[FrozenTrial]
    cut_short: list[FrozenTrial]
    failed: list[FrozenTrial]
    running: list[FrozenTrial]
    feasible: list[FrozenTrial]
    front: list[FrozenTrial]
    history: list[float]

    @property
    def ended(self) -> list[FrozenTrial]:
        """All that do not run."""
        return [*self.done, *self.cut_short, *self.failed]

    @property
    def best(self) -> FrozenTrial | None:
        """The feasible trial that is best by the first objective."""
        return self.front[0] if self.front else None

    @property
    def hypervolume(self) -> float:
        """Of the front; see `lightexp.search.goals.SearchObjective.axis`."""
        return self.history[-1] if self.history else 0.0


def compute_status(trials: Sequence[FrozenTrial], objectives: tuple[SearchObjective, ...]) -> StudyStatus:
    """Works out how a study stands."""
    told = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    whole = [t for t in told if read_stopped_epoch(t) is None]
    done = sorted(whole, key=lambda t: (t.datetime_complete, t.number))
    axes = {t.number: place_on_axes(t, objectives) for t in done}
    kept_to = [t for t in done if is_feasible(t)]
    within = {t.number for t in kept_to}
    kept: list[FrozenTrial] = []
    history: list[float] = []
    volume = 0.0
    for trial in done:
        if trial.number in within:
            points, reference = axes[trial.number]
            if not any(all(map(le, axes[t.number][0], points)) for t in kept):  # most add nothing, late in a study
                kept.append(trial)
                on = find_front([axes[t.number][0] for t in kept])
                kept = [t for t, there in zip(kept, on, strict=True) if there]
                volume = compute_hypervolume([axes[t.number][0] for t in kept], reference)
        history.append(volume)
    return StudyStatus(
        done,
        [t for t in told if read_stopped_epoch(t) is not None],
        [t for t in trials if t.state is TrialState.FAIL],
        [t for t in trials if t.state is TrialState.RUNNING],
        kept_to,
        sorted(kept, key=lambda t: axes[t.number][0]),
        history,
    )
