"""Optuna's pruners in studies of one objective: stop a training whose validation metric falls behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import Trial

from lightexp.core.errors import BadInput, RunFailed, suggest_nearest
from lightexp.core.task import Task
from lightexp.search.goals import SearchObjective


def make_pruner(
    setting: str | Mapping[str, Any] | None, objectives: Sequence[SearchObjective], task: Task
) -> BasePruner | None:
    """Make a pruner.

    Args:
        setting: `search.pruner`: a name such as `median`, or `_target_: optuna.pruners.MedianPruner` with arguments.
            None makes no pruner.
        objectives: The study's objectives.
        task: What is learnt.

    Raises:
        BadInput: If Optuna has no such pruner, or the objectives are not the primary metric on validation alone.
    """
    if setting is None:
        return None
    names, reported = [objective.name for objective in objectives], f"{task.primary}/val"
    if names != [reported]:
        raise BadInput(
            f"search.pruner goes by {reported} alone. Received: search.objectives={names}. "
            "With several objectives take search.halving={epochs:[1],eta:6}."
        )
    classes = {f"optuna.pruners.{name}": name for name in optuna.pruners.__all__ if name != "BasePruner"}
    short_names = {name.removesuffix("Pruner").lower(): target for target, name in classes.items()}
    arguments = {"_target_": short_names.get(setting, setting)} if isinstance(setting, str) else dict(setting)
    target = arguments.pop("_target_", None)
    if target not in classes:
        hint = suggest_nearest(str(target), [*short_names, *classes])
        raise BadInput(f"search.pruner: {target} is no pruner of Optuna's: {hint}")
    try:
        pruner: BasePruner = getattr(optuna.pruners, classes[target])(**arguments)
    except (TypeError, ValueError) as error:
        raise BadInput(f"search.pruner: {target}: {error}.") from None
    return pruner


class PrunedTraining(RunFailed):
    """Raised when a pruner stops a training."""


class EpochReporter:
    """Reports the epochs of one stage's training to Optuna.

    Attributes:
        stopped: The epoch after which Optuna stopped the training. None until then.
    """

    def __init__(self, trial: Trial, stage: str | None, scheduled_epochs: int, metric: str) -> None:
        """Report nothing yet.

        Args:
            trial: Optuna's trial.
            stage: Name of the stage; None reports nothing.
            scheduled_epochs: Epochs until the stage's schedules have ended. Metrics before cannot be compared.
            metric: Name of the task's primary metric.
        """
        self._trial, self._stage, self._scheduled_epochs = trial, stage, scheduled_epochs
        self._metric = f"val_{metric}"
        self.stopped: int | None = None

    def step(self, stage: str, done: float, total: float, metrics: Mapping[str, float]) -> None:
        """Report a complete epoch other than the last.

        Args:
            stage: Name of the stage that trains.
            done: Epochs that are complete, with fractions.
            total: All epochs of the training.
            metrics: Latest metrics; the task's metric on validation is reported.

        Raises:
            PrunedTraining: If the training is to stop.
        """
        epoch = int(done)
        if stage != self._stage or self._metric not in metrics:
            return
        if done != epoch or not self._scheduled_epochs < epoch < total:
            return
        self._trial.report(metrics[self._metric], epoch - self._scheduled_epochs)
        if self._trial.should_prune():
            self.stopped = epoch
            raise PrunedTraining(f"pruned after epoch {epoch} of {total:.0f}")
