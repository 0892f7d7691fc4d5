"""Search space: pipeline variants and the parameters that apply to each of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optuna.trial import BaseTrial

from lightexp.search.pipeline_variants import PipelineVariant
from lightexp.search.ranges import ConfigPath, Parameter

VARIANT = "structure"
"""Name of the Optuna parameter that chooses among several pipeline variants; stored studies hold it."""


@dataclass(frozen=True)
class SearchSpace:
    """The pipeline variants and parameters that a study searches.

    Attributes:
        variants: At least one; a trial runs one of them.
        parameters: The searched settings; each applies to at least one variant.
    """

    variants: tuple[PipelineVariant, ...]
    parameters: tuple[Parameter, ...]

    def select_parameters(self, variant: PipelineVariant) -> list[Parameter]:
        """Return the parameters whose setting a variant has."""
        for own, parameters in zip(self.variants, self._parameters_by_variant, strict=True):
            if own is variant:
                return parameters
        return self._find_parameters(variant)

    @cached_property
    def _parameters_by_variant(self) -> list[list[Parameter]]:
        """The parameters of each of `variants`, which every trial asks for several times."""
        return [self._find_parameters(variant) for variant in self.variants]

    def _find_parameters(self, variant: PipelineVariant) -> list[Parameter]:
        return [p for p in self.parameters if variant.has(p.path)]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the variants."""
        return tuple(variant.label for variant in self.variants)

    def propose(self, trial: BaseTrial) -> tuple[PipelineVariant, dict[ConfigPath, Any]]:
        """Return a trial's variant, and the values of the parameters that apply to it."""
        variant = self.variants[0]
        if len(self.variants) > 1:
            variant = self.variants[self.labels.index(trial.suggest_categorical(VARIANT, self.labels))]
        return variant, {p.path: p.suggest(trial) for p in self.select_parameters(variant)}
