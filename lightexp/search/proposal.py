"""What a study proposes to a worker: a trial with its config."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig
from optuna.trial import Trial

from lightexp.search.outcome import RUNG


@dataclass(frozen=True)
class Proposal:
    """A trial for a worker to run.

    Attributes:
        trial: Optuna's trial.
        config: The run's config.
        varied: The overrides that the study has set.
    """

    trial: Trial
    config: DictConfig
    varied: list[str]

    @property
    def rung(self) -> int:
        """The rung of successive halving; 0 is the shortest training."""
        return int(self.trial.user_attrs.get(RUNG, 0))
