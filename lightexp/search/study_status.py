"""Study status: its front, best trial and hypervolume so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from lightexp.core.hypervolume import compute_hypervolume, find_front
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import is_feasible, place_on_axes, read_chance, read_stopped_epoch, sum_violations


@dataclass(frozen=True)
class StudyStatus:
    """The state of a study at one moment.

    Attributes:
        done: Trials with metrics of the complete training, in the order in which they ended.
        cut_short: Trials whose training was cut short: pruned, or not promoted, or not yet.
        failed: Trials without metrics.
        running: Trials that workers are running.
        feasible: The trials of `done` that satisfy every constraint.
        chance: The trials of `feasible` whose file is no better than guessing.
        candidates: The other trials of `feasible`; all of them if all only guess.
        front: Candidates that no other dominates, sorted by the first objective; the first of equal ones.
        history: The hypervolume after each trial of `done`.
    """

    done: list[FrozenTrial]
    cut_short: list[FrozenTrial]
    failed: list[FrozenTrial]
    running: list[FrozenTrial]
    feasible: list[FrozenTrial]
    chance: list[FrozenTrial]
    candidates: list[FrozenTrial]
    front: list[FrozenTrial]
    history: list[float]

    @property
    def ended(self) -> list[FrozenTrial]:
        """All trials that have ended."""
        return [*self.done, *self.cut_short, *self.failed]

    @property
    def best(self) -> FrozenTrial | None:
        """The feasible trial that is best by the first objective."""
        return self.front[0] if self.front else None

    @property
    def nearest(self) -> FrozenTrial | None:
        """The trial that comes nearest to the constraints where none satisfies all of them."""
        return None if self.feasible else min(self.done, key=sum_violations, default=None)

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front; see `lightexp.search.goals.SearchObjective.to_axis`."""
        return self.history[-1] if self.history else 0.0


def compute_status(trials: Sequence[FrozenTrial], objectives: tuple[SearchObjective, ...]) -> StudyStatus:
    """Compute the status of a study.

    Args:
        trials: All trials.
        objectives: The study's objectives.
    """
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    done = [t for t in ended if read_stopped_epoch(t) is None]
    done.sort(key=lambda t: (t.datetime_complete, t.number))
    feasible = [t for t in done if is_feasible(t)]
    chance = [t for t in feasible if read_chance(t)]
    candidates = [t for t in feasible if not read_chance(t)] or feasible
    places = place_on_axes(candidates, objectives)
    front, history = _follow_front(done, places)
    return StudyStatus(
        done=done,
        cut_short=[t for t in ended if read_stopped_epoch(t) is not None],
        failed=[t for t in trials if t.state is TrialState.FAIL],
        running=[t for t in trials if t.state is TrialState.RUNNING],
        feasible=feasible,
        chance=chance,
        candidates=candidates,
        front=sorted(front, key=lambda t: places[t.number][0]),
        history=history,
    )


def _follow_front(
    done: Sequence[FrozenTrial], places: Mapping[int, tuple[list[float], list[float]]]
) -> tuple[list[FrozenTrial], list[float]]:
    """Return the front after all trials, and the hypervolume after each of them.

    Args:
        done: Trials in the order in which they ended.
        places: The point and the reference point of each trial that may be on the front, by its number.
    """
    front: list[FrozenTrial] = []
    history: list[float] = []
    hypervolume = 0.0
    for trial in done:
        if trial.number in places:
            point, reference = places[trial.number]
            # Late in a study most trials are dominated, and the front does not have to be computed again.
            if not any(_is_at_least_as_good(places[t.number][0], point) for t in front):
                front.append(trial)
                on_front = find_front([places[t.number][0] for t in front])
                front = [t for t, is_on_front in zip(front, on_front, strict=True) if is_on_front]
                hypervolume = compute_hypervolume([places[t.number][0] for t in front], reference)
        history.append(hypervolume)
    return front, history


def _is_at_least_as_good(point: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(point, other, strict=True))
