"""The space that a study searches: structures, and the parameters that apply to some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna.trial import BaseTrial

from lightexp.search.pipeline_variants import PipelineVariant
from lightexp.search.ranges import ConfigPath, Parameter

VARIANT = "structure"
"""The parameter that chooses among several structures."""


@dataclass(frozen=True)
class SearchSpace:
    """What is searched: one of the structures, and the parameters that apply to it."""

    variants: tuple[PipelineVariant, ...]
    parameters: tuple[Parameter, ...]

    def select_parameters(self, structure: PipelineVariant) -> list[Parameter]:
        """The parameters that a structure has a place for."""
        return [p for p in self.parameters if structure.has(p.path)]

    @property
    def labels(self) -> tuple[str, ...]:
        """What sets the structures apart."""
        return tuple(structure.label for structure in self.variants)

    def propose(self, trial: BaseTrial) -> tuple[PipelineVariant, dict[ConfigPath, Any]]:
        """A trial's structure and the values of the parameters that apply to it."""
        structure = self.variants[0]
        if len(self.variants) > 1:
            structure = self.variants[self.labels.index(trial.suggest_categorical(VARIANT, self.labels))]
        return structure, {p.path: p.suggest(trial) for p in self.select_parameters(structure)}
