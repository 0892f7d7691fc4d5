"""Successive halving with several objectives: decide which trials are promoted to a longer training.

Every configuration is trained for a few epochs, then one of `eta` of them for more, and so on (successive halving,
Jamieson and Talwalkar 2016, arXiv 1502.07943). Trials are ranked front by front, as in MO-ASHA (Schmucker et al. 2021,
arXiv 2106.12639). Unlike in MO-ASHA, promotion is synchronous: a trial is promoted only when all trials that it is
compared with have finished, because an early promotion picks the best of few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.hypervolume import compute_hypervolume, find_front
from lightexp.core.training import Rung
from lightexp.runner.settings import Settings
from lightexp.search.goals import SearchObjective
from lightexp.search.outcome import PROMOTED_FROM, RUNG, place_on_axes, read_stopped_epoch, sum_violations
from lightexp.stages.train import TrainingStage


@settings_dataclass
class SuccessiveHalving:
    """`search.halving`: how many epochs of the last training stage each rung trains for.

    A fraction `eta ** -len(epochs)` of all configurations reaches the end of the training. A front has many points, so
    with more rungs use a smaller `eta`.

    Attributes:
        epochs: Epochs of each rung but the last, which trains to the end. Counted from the epoch in which the stage's
            schedules have ended. Must increase. Defaults to one rung of 1 epoch.
        eta: One of `eta` configurations on a rung is promoted, and at least one. Defaults to 6.

    Example:
        >>> SuccessiveHalving(epochs=[1, 3], eta=4).make_rung(0)
        Rung(number=0, epochs=(1, 3))
    """

    epochs: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [1])
    eta: Annotated[int, Field(ge=2)] = 6

    def __post_init__(self) -> None:
        """Check that later rungs are longer."""
        if self.epochs != sorted(set(self.epochs)):
            raise ValueError(f"each of epochs must be above the one before. Received: {self.epochs}.")

    def make_rung(self, number: int) -> Rung:
        """Return the rung of a number, as the settings of a run take it."""
        return Rung(number, tuple(self.epochs))

    def check(self, settings: Settings, examples: int) -> None:
        """Check that the training of a pipeline can be cut short.

        Args:
            settings: Settings of the study's runs.
            examples: Number of examples in the train split.

        Raises:
            BadInput: If no stage after the control trains, or nothing of its training can be cut short.
        """
        name = settings.fidelity
        stage = settings.stages[name] if name else None
        if not isinstance(stage, TrainingStage):
            raise BadInput("search.halving: no stage after the control trains. Leave it out: search.halving=null.")
        if not stage.resumable:
            raise BadInput(
                f"search.halving: '{name}' trains in several rounds, and cannot be cut short. Set search.halving=null."
            )
        if stage.early_stopping:
            raise BadInput(
                f"search.halving: '{name}' sets early_stopping, and cannot be cut short. Set search.halving=null."
            )
        scheduled = stage.schedule_epochs(examples)
        if self.make_rung(0).stops(scheduled, stage.epochs) == [None]:
            raise BadInput(
                f"search.halving: nothing of '{name}' is left to cut short: its schedules take {scheduled} of "
                f"{stage.epochs} epochs, and epochs={self.epochs} the rest. Raise pipeline.stages.{name}.epochs, or "
                "let its schedule end earlier."
            )

    def select_promotable(
        self, trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]
    ) -> FrozenTrial | None:
        """Return the trial to promote next, or None if none may be promoted now.

        The lowest rung comes first, and no trial is promoted while a trial runs on its rung or below.

        Args:
            trials: All trials of a study in which every configuration has been started.
            objectives: The study's objectives.
        """
        promoted = {t.user_attrs[PROMOTED_FROM] for t in trials if PROMOTED_FROM in t.user_attrs}
        rungs: dict[int, list[FrozenTrial]] = {}
        for trial in trials:
            rungs.setdefault(trial.user_attrs.get(RUNG, 0), []).append(trial)
        for _, rung in sorted(rungs.items()):
            if any(t.state is TrialState.RUNNING for t in rung):
                return None
            cut_short = [t for t in rung if t.state is TrialState.COMPLETE and read_stopped_epoch(t) is not None]
            candidates = [t for t in rank_trials(cut_short, objectives) if t.number not in promoted]
            quota = max(1, len(cut_short) // self.eta)
            if candidates and len(cut_short) - len(candidates) < quota:
                return candidates[0]
        return None


def rank_trials(trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]) -> list[FrozenTrial]:
    """Sort finished trials from best to worst.

    Feasible trials come front by front; within a front, the next trial is the one that adds most to the hypervolume of
    the trials before it. Infeasible trials follow, by the sum of their violations.

    Args:
        trials: Trials with a value for each objective.
        objectives: The study's objectives.
    """
    violations = {t.number: sum_violations(t) for t in trials}
    remaining = [t for t in trials if not violations[t.number]]
    places = place_on_axes(remaining, objectives)
    ranked: list[FrozenTrial] = []
    while remaining:
        on_front = find_front([places[t.number][0] for t in remaining])
        front = [t for t, is_on_front in zip(remaining, on_front, strict=True) if is_on_front]
        remaining = [t for t, is_on_front in zip(remaining, on_front, strict=True) if not is_on_front]
        while front:
            points = [places[t.number][0] for t in ranked]
            volumes = [compute_hypervolume([*points, places[t.number][0]], places[t.number][1]) for t in front]
            ranked.append(front.pop(volumes.index(max(volumes))))
    return ranked + sorted((t for t in trials if violations[t.number]), key=lambda t: violations[t.number])
