"""Front-aware successive halving: which configuration has earned a longer training.

Asynchronous successive halving (Li et al. 2020, arXiv 1810.05934) with several objectives, as in MO-ASHA (Schmucker et
al. 2021, arXiv 2106.12639): every configuration is trained for a few epochs; whenever a worker is free, it goes on with
one that is among the best of its rung, or begins another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from lightexp.core.config import Count
from lightexp.core.errors import BadInput
from lightexp.core.hypervolume import front, hypervolume
from lightexp.core.training import Rung
from lightexp.runner.settings import Settings
from lightexp.search.goals import Objective
from lightexp.search.outcome import OF, RUNG, axis_values, cut_short
from lightexp.stages.train import TrainingStage


@dataclass(frozen=True)
class Halving:
    """`search.halving`: the epochs of the last training stage that a configuration gets.

    Attributes:
        epochs: Those of the first rung, counted from where the stage's schedules have ended. Defaults to 1.
        eta: One of `eta` configurations on a rung goes on, to `eta` times the epochs. Defaults to 3.
    """

    epochs: Count = 1
    eta: Annotated[int, Field(ge=2)] = 3

    def rung(self, number: int) -> Rung:
        """A rung's place in a run's settings."""
        return Rung(number, self.epochs, self.eta)

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
        settled = stage.settled(examples)
        if self.rung(0).stops(settled, stage.epochs) == [None]:
            raise BadInput(
                f"search.halving: nothing of '{name}' is left to cut short: its schedules take {settled} of "
                f"{stage.epochs} epochs, and epochs={self.epochs} the rest. Raise pipeline.stages.{name}.epochs, or "
                "let its schedule end earlier."
            )

    def promotable(self, trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> FrozenTrial | None:
        """The trial whose configuration goes on, from the highest rung where one may; None where none may."""
        promoted = {t.user_attrs[OF] for t in trials if OF in t.user_attrs}
        rungs: dict[int, list[FrozenTrial]] = {}
        for trial in trials:
            if trial.state is TrialState.COMPLETE and cut_short(trial) is not None:
                rungs.setdefault(trial.user_attrs.get(RUNG, 0), []).append(trial)
        for _, there in sorted(rungs.items(), reverse=True):
            best = ranked(there, objectives)[: len(there) // self.eta]
            if found := next((t for t in best if t.number not in promoted), None):
                return found
        return None


def ranked(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> list[FrozenTrial]:
    """Trials, best first: those within the constraints, front by front; then the others, the least beyond first.

    Within a front that one comes next which adds most to the hypervolume of those before it.
    """
    beyond = {t.number: sum(max(0.0, v) for v in t.constraints.values()) for t in trials}
    rest = [t for t in trials if not beyond[t.number]]
    places = {t.number: axis_values(t, objectives) for t in rest}
    order: list[FrozenTrial] = []
    while rest:
        on = front([places[t.number][0] for t in rest])
        level = [t for t, there in zip(rest, on, strict=True) if there]
        rest = [t for t, there in zip(rest, on, strict=True) if not there]
        while level:
            before = [places[t.number][0] for t in order]
            gains = [hypervolume([*before, places[t.number][0]], places[t.number][1]) for t in level]
            order.append(level.pop(gains.index(max(gains))))
    return order + sorted((t for t in trials if beyond[t.number]), key=lambda t: beyond[t.number])
