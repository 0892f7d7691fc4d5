"""Front-aware successive halving: which configurations have earned a longer training.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) with several objectives: every configuration is
trained for a few epochs, then one of `eta` of them for more, and so on, chosen front by front as in MO-ASHA (Schmucker
et al. 2021, arXiv 2106.12639). Unlike there, nothing goes on before all that it is to be compared with is there: what
goes on early is the best of few.
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
from lightexp.search.outcome import PROMOTED_FROM, RUNG, place_on_axes, read_stopped_epoch
from lightexp.stages.train import TrainingStage


@settings_dataclass
class SuccessiveHalving:
    """`search.halving`: the epochs of the last training stage that a configuration gets.

    A front has many points, so that many have to reach the end, which `eta ** -len(epochs)` of all do: with more rungs,
    keep more of each.

    Attributes:
        epochs: Those of each rung but the last, which goes to the training's end, counted from where the stage's
            schedules have ended. Defaults to one of 1 epoch.
        eta: One of `eta` configurations on a rung goes on, and one at least. Defaults to 6.
    """

    epochs: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [1])
    eta: Annotated[int, Field(ge=2)] = 6

    def __post_init__(self) -> None:
        """Checks that later rungs are longer."""
        if self.epochs != sorted(set(self.epochs)):
            raise ValueError(f"each of epochs must be above the one before. Received: {self.epochs}.")

    def rung(self, number: int) -> Rung:
        """A rung's place in a run's settings."""
        return Rung(number, tuple(self.epochs))

    def check(self, settings: Settings, examples: int) -> None:
        """Checks that a pipeline's training can be cut short.

        Args:
            settings: The run's.
            examples: Of the train split.

        Raises:
            BadInput: If not.
        """
        name = settings.fidelity
        stage = settings.stages[name] if name else None
        if not isinstance(stage, TrainingStage):
            raise BadInput("search.halving: no stage after the control trains. Leave it out: search.halving=null.")
        if not stage.once or stage.early_stopping:
            why = "sets early_stopping" if stage.once else "trains in several rounds"
            raise BadInput(f"search.halving: '{name}' {why}, and cannot be cut short. Set search.halving=null.")
        settled = stage.schedule_epochs(examples)
        if self.rung(0).stops(settled, stage.epochs) == [None]:
            raise BadInput(
                f"search.halving: nothing of '{name}' is left to cut short: its schedules take {settled} of "
                f"{stage.epochs} epochs, and epochs={self.epochs} the rest. Raise pipeline.stages.{name}.epochs, or "
                "let its schedule end earlier."
            )

    def select_promotable(
        self, trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]
    ) -> FrozenTrial | None:
        """The trial whose configuration goes on, when all have begun; None where none may, or not yet.

        The lowest rung comes first, and none before what runs there, or below, has ended.
        """
        promoted = {t.user_attrs[PROMOTED_FROM] for t in trials if PROMOTED_FROM in t.user_attrs}
        rungs: dict[int, list[FrozenTrial]] = {}
        for trial in trials:
            rungs.setdefault(trial.user_attrs.get(RUNG, 0), []).append(trial)
        for _, all_there in sorted(rungs.items()):
            if any(t.state is TrialState.RUNNING for t in all_there):
                return None
            there = [t for t in all_there if t.state is TrialState.COMPLETE and read_stopped_epoch(t) is not None]
            left = [t for t in rank_trials(there, objectives) if t.number not in promoted]
            if left and len(there) - len(left) < max(1, len(there) // self.eta):
                return left[0]
        return None


def rank_trials(trials: Sequence[FrozenTrial], objectives: Sequence[SearchObjective]) -> list[FrozenTrial]:
    """Trials, best first: those within the constraints, front by front; then the others, the least beyond first.

    Within a front that one comes next which adds most to the hypervolume of those before it.
    """
    beyond = {t.number: sum(max(0.0, v) for v in t.constraints.values()) for t in trials}
    rest = [t for t in trials if not beyond[t.number]]
    places = {t.number: place_on_axes(t, objectives) for t in rest}
    order: list[FrozenTrial] = []
    while rest:
        on = find_front([places[t.number][0] for t in rest])
        level = [t for t, there in zip(rest, on, strict=True) if there]
        rest = [t for t, there in zip(rest, on, strict=True) if not there]
        while level:
            before = [places[t.number][0] for t in order]
            gains = [compute_hypervolume([*before, places[t.number][0]], places[t.number][1]) for t in level]
            order.append(level.pop(gains.index(max(gains))))
    return order + sorted((t for t in trials if beyond[t.number]), key=lambda t: beyond[t.number])
