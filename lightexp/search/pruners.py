"""Optuna's pruners, which stop a training whose validation accuracy falls behind: for studies of one objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import Trial

from lightexp.core.errors import BadInput, RunFailed, suggest_nearest
from lightexp.search.goals import SearchObjective

REPORTED = "accuracy/val"


def make_pruner(asked: str | Mapping[str, Any] | None, objectives: Sequence[SearchObjective]) -> BasePruner | None:
    """Makes a pruner.

    Args:
        asked: `search.pruner`: a name such as `median`, or `_target_: optuna.pruners.MedianPruner` with its settings.
        objectives: The study's.

    Raises:
        BadInput: If there is no such pruner, or the study's objectives are not for one.
    """
    if asked is None:
        return None
    if [o.name for o in objectives] != [REPORTED]:
        raise BadInput(
            f"search.pruner goes by {REPORTED} alone. Received: search.objectives={[o.name for o in objectives]}. "
            "With several objectives take search.halving={epochs:[1],eta:6}."
        )
    known = {f"optuna.pruners.{name}": name for name in optuna.pruners.__all__ if name != "BasePruner"}
    short = {name.removesuffix("Pruner").lower(): target for target, name in known.items()}
    settings = {"_target_": short.get(asked, asked)} if isinstance(asked, str) else dict(asked)
    target = settings.pop("_target_", None)
    if target not in known:
        raise BadInput(
            f"search.pruner: {target} is no pruner of Optuna's: {suggest_nearest(str(target), [*short, *known])}"
        )
    try:
        made: BasePruner = getattr(optuna.pruners, known[target])(**settings)
    except (TypeError, ValueError) as error:
        raise BadInput(f"search.pruner: {target}: {error}.") from None
    return made


class PrunedTraining(RunFailed):
    """A training was stopped because others were better at that point."""


class EpochReporter:
    """Tells Optuna of each epoch of one stage's training.

    Attributes:
        stopped: The epoch after which Optuna stopped it, or None.
    """

    def __init__(self, trial: Trial, stage: str | None, settled: int) -> None:
        """Tells nothing yet.

        Args:
            trial: Optuna's.
            stage: The stage's name.
            settled: Epochs after which no schedule changes anything; those before them are not comparable.
        """
        self._trial, self._stage, self._settled = trial, stage, settled
        self.stopped: int | None = None

    def step(self, stage: str, done: float, total: float, figures: Mapping[str, float]) -> None:
        """Tells of a whole epoch but the last.

        Raises:
            Pruned: If the training is to stop.
        """
        epoch = int(done)
        if stage != self._stage or done != epoch or not self._settled < epoch < total or "val_accuracy" not in figures:
            return
        self._trial.report(figures["val_accuracy"], epoch - self._settled)
        if self._trial.should_prune():
            self.stopped = epoch
            raise PrunedTraining(f"pruned after epoch {epoch} of {total:.0f}")
