"""Samplers: propose the configuration of the next trial with Optuna, without repeating earlier trials."""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from typing import Any

import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from lightexp.core import compat
from lightexp.core.errors import BadInput
from lightexp.search.ranges import Parameter
from lightexp.search.space import VARIANT, SearchSpace
from lightexp.search.study_spec import StudySpec
from lightexp.search.trial_history import TrialHistory, TriedConfigurations

GridValues = list[str | int | float | bool | None]
_MAX_DRAWS = 10
_MAX_COMPARED = 1_000  # trials that one proposal may show to the sampler, in sum over its draws
_MAX_CHANGES = 100
_MAX_GRID_POINTS = 100_000  # Optuna lists all of them for each trial


class HistorySpaceSampler(samplers.BaseSampler):
    """Wrap a sampler to learn which parameters trials have from a few of them, instead of comparing all."""

    def __init__(self, inner: samplers.BaseSampler, history: TrialHistory) -> None:
        """Wrap a sampler that proposes the next trial after those of a history."""
        self._inner, self._history = inner, history

    def infer_relative_search_space(self, study: Any, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the space of the trials so far; see `optuna.samplers.BaseSampler`."""
        view = compat.make_study_view(study, self._history.first_of_each_parameter_set)
        return self._inner.infer_relative_search_space(view, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the wrapped sampler's proposal; see `optuna.samplers.BaseSampler`."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the wrapped sampler's value of a parameter; see `optuna.samplers.BaseSampler`."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


class HistorySampler(HistorySpaceSampler):
    """Wrap a sampler to learn from the trials of `TrialHistory.sample`, whose number is bounded."""

    def sample_relative(
        self, study: Any, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the wrapped sampler's proposal; see `optuna.samplers.BaseSampler`."""
        view = compat.make_study_view(study, self._history.sample())
        return self._inner.sample_relative(view, trial, search_space)

    def sample_independent(
        self, study: Any, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the wrapped sampler's value of a parameter; see `optuna.samplers.BaseSampler`."""
        view = compat.make_study_view(study, self._history.sample())
        return self._inner.sample_independent(view, trial, param_name, param_distribution)


class DeduplicatingSampler(samplers.BaseSampler):
    """Wrap a sampler to propose configurations that no trial has tried; Optuna's own repeat them in small spaces.

    The wrapped sampler is asked up to ten times, fewer times late in a study, where each takes longer. Then its last
    proposal is changed at random, one parameter at a time, up to a hundred times. If all of these configurations have
    been tried, the last one is proposed again.
    """

    def __init__(self, inner: samplers.BaseSampler, space: SearchSpace, history: TrialHistory, seed: int) -> None:
        """Wrap a sampler.

        Args:
            inner: The sampler that is asked first.
            space: The study's space.
            history: The study's trials.
            seed: Seed of the random changes.
        """
        self._inner, self._space, self._history = inner, space, history
        self._random_sampler = samplers.RandomSampler(seed=seed)
        self._random = random.Random(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the complete space; see `optuna.samplers.BaseSampler`."""
        return {
            VARIANT: CategoricalDistribution(self._space.labels),
            **{p.name: p.distribution for p in self._space.parameters},
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return a variant and the parameters that apply to it; see `optuna.samplers.BaseSampler`."""
        tried = self._history.list_tried(trial.number)
        draws = max(1, min(_MAX_DRAWS, _MAX_COMPARED // (len(tried) + 1)))
        for _ in range(draws):
            params = self._draw(self._inner, study, trial)
            if params not in tried:
                return params
        return self._change_randomly(params, tried, study, trial)

    def _change_randomly(
        self, params: dict[str, Any], tried: TriedConfigurations, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, Any]:
        """Change one parameter after another until no trial has tried the configuration."""
        distributions = {p.name: p.distribution for p in self._space.parameters}
        for _ in range(_MAX_CHANGES):
            free = [name for name in params if name not in trial.params]
            if not free:
                break
            name = self._random.choice(free)
            if name == VARIANT:  # other parameters apply to another variant
                params = self._draw(self._random_sampler, study, trial)
            else:
                params[name] = self._random_sampler.sample_independent(study, trial, name, distributions[name])
            if params not in tried:
                break
        return params

    def _draw(self, sampler: samplers.BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """Return a sampler's proposal: a variant and the parameters that apply to it."""
        relative = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        variant, labels = self._space.variants[0], self._space.labels
        params: dict[str, Any] = {}
        if len(labels) > 1:
            distribution = CategoricalDistribution(labels)
            params[VARIANT] = _pick(sampler, study, trial, VARIANT, distribution, relative)
            variant = self._space.variants[labels.index(params[VARIANT])]
        for parameter in self._space.select_parameters(variant):
            params[parameter.name] = _pick(sampler, study, trial, parameter.name, parameter.distribution, relative)
        return params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random value of a parameter without a proposal; see `optuna.samplers.BaseSampler`."""
        return self._random_sampler.sample_independent(study, trial, param_name, param_distribution)


def make_sampler(
    spec: StudySpec, space: SearchSpace, count: int, history: TrialHistory, cache: compat.ParameterCache
) -> samplers.BaseSampler:
    """Make the sampler that proposes the next trial.

    Each trial has its own sampler, seeded by the study's seed and the number of earlier trials, so that a resumed study
    repeats no proposal. QMC and grid number their points in the storage instead, and share one seed.

    Args:
        spec: The study.
        space: The study's space.
        count: Number of earlier trials.
        history: The study's trials.
        cache: What TPE has read of finished trials in this process; the sampler adds to it.

    Raises:
        BadInput: If a grid is requested over an interval.
    """
    kind, seed = spec.search.sampler, spec.settings.seed
    trial_seed = int.from_bytes(hashlib.sha256(f"{seed} {count}".encode()).digest()[:4])
    if kind == "grid":
        return samplers.GridSampler(list_grid_axes(space), seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        inner: samplers.BaseSampler
        if kind == "qmc":
            inner = samplers.QMCSampler(seed=seed, scramble=True)
        elif kind == "random":
            inner = samplers.RandomSampler(seed=trial_seed)
        elif kind == "nsga2":
            inner = HistorySpaceSampler(samplers.NSGAIISampler(seed=trial_seed, population_size=20), history)
        else:
            is_parallel = spec.search.workers > 1
            inner = compat.make_caching_tpe_sampler(
                cache, seed=trial_seed, multivariate=True, group=True, constant_liar=is_parallel
            )
            inner = HistorySampler(inner, history)
    return DeduplicatingSampler(inner, space, history, trial_seed)


def list_grid_axes(space: SearchSpace) -> dict[str, GridValues]:
    """Return the values of each parameter on a grid.

    Raises:
        BadInput: If a range is continuous, or the grid has too many points.
    """
    axes = {p.name: list_grid_values(p) for p in space.parameters}
    if len(space.variants) > 1:
        axes[VARIANT] = list(space.labels)
    if (points := math.prod(map(len, axes.values()))) > _MAX_GRID_POINTS:
        raise BadInput(
            f"search.sampler=grid runs at most {_MAX_GRID_POINTS:,} points. This grid has {points:,}, from {len(axes)} "
            "settings. Give fewer values, or set search.sampler=random, which repeats no point either."
        )
    return axes


def has_configurations_left(spec: StudySpec, space: SearchSpace, history: TrialHistory) -> bool:
    """Return whether a configuration that has not been started may be started.

    Args:
        spec: The study.
        space: The study's space.
        history: The study's trials.
    """
    if history.started_configurations >= spec.search.trials:
        return False
    if spec.search.sampler != "grid":
        return True
    # Optuna would propose points that run once more.
    return len(history.grid_points) < math.prod(map(len, list_grid_axes(space).values()))


def list_grid_values(parameter: Parameter) -> GridValues:
    """Return the values of one parameter on a grid, as Optuna stores them.

    Raises:
        BadInput: If the range is continuous.
    """
    distribution = parameter.distribution
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high, step = distribution.low, distribution.high, distribution.step  # type: ignore[attr-defined]
    if step is None:
        raise BadInput(f"search.sampler=grid needs choices or steps. Received: {parameter.name} from {parameter}.")
    kind = int if isinstance(distribution, IntDistribution) else float
    count = round((high - low) / step) + 1
    return [kind(low + n * step) for n in range(count)]


def _pick(
    sampler: samplers.BaseSampler,
    study: optuna.Study,
    trial: FrozenTrial,
    name: str,
    distribution: BaseDistribution,
    relative: dict[str, Any],
) -> Any:
    """Return a parameter's value: the trial's if it has one, else the joint proposal's, else one of its own."""
    if name in trial.params:  # its process died while it was proposed
        return trial.params[name]
    if name in relative:
        return relative[name]
    return sampler.sample_independent(study, trial, name, distribution)
