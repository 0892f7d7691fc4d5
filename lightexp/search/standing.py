"""How a study stands: its front, its best trial, its hypervolume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from lightexp.core.hypervolume import front, hypervolume
from lightexp.search.goals import Objective
from lightexp.search.study import OUTCOME


@dataclass(frozen=True)
class Standing:
    """What there is so far.

    Attributes:
        done: Trials with figures.
        failed: Trials without.
        running: Trials that are being worked on.
        feasible: Of those done, the ones that keep to every constraint.
        front: Feasible trials that no other dominates, by the first objective's order; of equal ones the first.
        history: The hypervolume after each trial that is done, in the order they ended.
    """

    done: list[FrozenTrial]
    failed: list[FrozenTrial]
    running: list[FrozenTrial]
    feasible: list[FrozenTrial]
    front: list[FrozenTrial]
    history: list[float]

    @property
    def best(self) -> FrozenTrial | None:
        """The feasible trial that is best by the first objective."""
        return self.front[0] if self.front else None

    @property
    def hypervolume(self) -> float:
        """Of the front; see `lightexp.search.goals.Objective.axis`."""
        return self.history[-1] if self.history else 0.0


def standing(trials: Sequence[FrozenTrial], objectives: tuple[Objective, ...]) -> Standing:
    """Works out how a study stands."""
    done = sorted((t for t in trials if t.state is TrialState.COMPLETE), key=lambda t: (t.datetime_complete, t.number))
    axes = {t.number: axis_values(t, objectives) for t in done}
    feasible = [t for t in done if all(v <= 0 for v in t.constraints.values())]
    within = {t.number for t in feasible}
    kept: list[FrozenTrial] = []
    history: list[float] = []
    volume = 0.0
    for trial in done:
        if trial.number in within:
            points, reference = axes[trial.number]
            if points not in [axes[t.number][0] for t in kept]:
                kept.append(trial)
                on = front([axes[t.number][0] for t in kept])
                kept = [t for t, there in zip(kept, on, strict=True) if there]
                volume = hypervolume([axes[t.number][0] for t in kept], reference)
        history.append(volume)
    return Standing(
        done,
        [t for t in trials if t.state is TrialState.FAIL],
        [t for t in trials if t.state is TrialState.RUNNING],
        feasible,
        sorted(kept, key=lambda t: axes[t.number][0]),
        history,
    )


def axis_values(trial: FrozenTrial, objectives: tuple[Objective, ...]) -> tuple[list[float], list[float]]:
    """A finished trial's place on the hypervolume's axes, and the reference point."""
    outcome = trial.user_attrs[OUTCOME]
    pairs = [
        o.axis(value, _control(outcome["control"], o.name, value), outcome["classes"])
        for o, value in zip(objectives, trial.values, strict=True)
    ]
    return [value for value, _ in pairs], [reference for _, reference in pairs]


def _control(figures: dict[str, float], name: str, value: float) -> float:
    """What a figure is compared with: the control's; of bytes that the control does not have, its file's."""
    return figures.get(name, figures.get("size/file_bytes", value) if name.endswith("_bytes") else value)
