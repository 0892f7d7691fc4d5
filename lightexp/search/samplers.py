"""How configurations are proposed."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Container
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna import Study, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.errors import BadInput
from lightexp.search.outcome import PROMOTED_FROM
from lightexp.search.ranges import Parameter
from lightexp.search.space import VARIANT, SearchSpace
from lightexp.search.study_spec import StudySpec

RowCache = dict[tuple[str, ...], dict[int, list[float] | None]]
"""Of some parameters by name, what TPE takes of each finished trial; None of one that lacks any of them."""

_DRAWS, _CHANCES = 10, 100
_ASKED = 1_000  # trials that the sampler may be shown for one proposal, in sum over its draws


class FirstRungStudy(optuna.Study):
    """A study as Optuna is to know it: each configuration as its first rung has left it.

    What went on was trained for longer, and is not to be compared with what did not; nor does it count twice.
    """

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in super()._get_trials(deepcopy, states, use_cache) if PROMOTED_FROM not in t.user_attrs]


class DeduplicatingSampler(samplers.BaseSampler):
    """Proposes by another sampler what no trial has tried: Optuna's own propose what they know, in a small space often.

    The other is asked up to ten times, fewer late in a study, where that takes long. Then chance changes what it said
    last, one parameter at a time, up to a hundred times; where all of that has been tried, the last is again.
    """

    def __init__(self, inner: samplers.BaseSampler, space: SearchSpace, seed: int) -> None:
        """Proposes nothing yet."""
        self._inner, self._space, self._chance = inner, space, samplers.RandomSampler(seed=seed)
        self._which = random.Random(seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space; see Optuna."""
        return {
            VARIANT: CategoricalDistribution(self._space.labels),
            **{p.name: p.distribution for p in self._space.parameters},
        }

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A structure and the parameters that apply to it; see Optuna."""
        tried = [t.params for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        for _ in range(max(1, min(_DRAWS, _ASKED // (len(tried) + 1)))):
            found = self._drawn(self._inner, study, trial)
            if found not in tried:
                return found
        ranges = {p.name: p.distribution for p in self._space.parameters}
        for _ in range(_CHANCES):
            name = self._which.choice(list(found))
            if name == VARIANT:
                found = self._drawn(self._chance, study, trial)
            else:
                found[name] = self._chance.sample_independent(study, trial, name, ranges[name])
            if found not in tried:
                break
        return found

    def _drawn(self, sampler: samplers.BaseSampler, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        together = sampler.sample_relative(study, trial, sampler.infer_relative_search_space(study, trial))
        found: dict[str, Any] = {}

        def draw(name: str, ranged: BaseDistribution) -> Any:
            alone = name not in together
            found[name] = sampler.sample_independent(study, trial, name, ranged) if alone else together[name]
            return found[name]

        structure, labels = self._space.variants[0], self._space.labels
        if len(labels) > 1:
            structure = self._space.variants[labels.index(draw(VARIANT, CategoricalDistribution(labels)))]
        for parameter in self._space.select_parameters(structure):
            draw(parameter.name, parameter.distribution)
        return found

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A parameter that nothing was proposed for; see Optuna."""
        return self._chance.sample_independent(study, trial, param_name, param_distribution)


class DistinctSpacesStudy:
    """A study of the first trial with each set of parameters: how they are grouped, another like it does not change."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *args: Any, **more: Any) -> list[FrozenTrial]:
        first: dict[frozenset[str], FrozenTrial] = {}
        for trial in self._study._get_trials(*args, **more):
            first.setdefault(frozenset(trial.distributions), trial)
        return list(first.values())


class CachingTPESampler(samplers.TPESampler):
    """TPE as Optuna's, proposal for proposal, that reads a finished trial once and not for every proposal after it."""

    def __init__(self, rows: RowCache, **settings: Any) -> None:
        super().__init__(**settings)
        self._rows = rows

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return super().infer_relative_search_space(DistinctSpacesStudy(study), trial)  # type: ignore[arg-type]

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, NDArray[Any]]:
        known = self._rows.setdefault(tuple(search_space), {})
        new = [t for t in trials if t.number not in known]
        rows = {t.number: self._row(t, search_space, study) for t in new}
        known |= {t.number: rows[t.number] for t in new if t.state.is_finished()}
        found = [row for t in trials if (row := known.get(t.number, rows.get(t.number))) is not None]
        columns = zip(*found, strict=True) if found else [()] * len(search_space)
        return dict(zip(search_space, map(np.asarray, columns), strict=True))

    def _row(self, trial: FrozenTrial, search_space: dict[str, BaseDistribution], study: Study) -> list[float] | None:
        params = self._get_params(trial, study)
        if not search_space.keys() <= params.keys():
            return None
        return [ranged.to_internal_repr(params[name]) for name, ranged in search_space.items()]


def make_sampler(spec: StudySpec, space: SearchSpace, count: int, rows: RowCache) -> samplers.BaseSampler:
    """The sampler that proposes the next trial.

    Each trial has one of its own, seeded by the study's seed and the number of trials before it, so that going on with
    a study repeats nothing. QMC and grid instead number their points in the storage, and share one seed.

    Args:
        spec: The study.
        space: What is searched.
        count: Trials before this one.
        rows: What TPE has read of the study's trials in this process; it is added to.

    Raises:
        BadInput: If a grid is asked for over an interval.
    """
    kind, seed = spec.search.sampler, spec.settings.seed
    own = int.from_bytes(hashlib.sha256(f"{seed} {count}".encode()).digest()[:4])
    if kind == "grid":
        axes = {p.name: list_grid_points(p) for p in space.parameters}
        if len(space.variants) > 1:
            axes[VARIANT] = list(space.labels)
        return samplers.GridSampler(axes, seed=seed)
    inner: samplers.BaseSampler
    if kind == "qmc":
        inner = samplers.QMCSampler(seed=seed, scramble=True)
    elif kind == "random":
        inner = samplers.RandomSampler(seed=own)
    elif kind == "nsga2":
        inner = samplers.NSGAIISampler(seed=own, population_size=20)
    else:
        inner = CachingTPESampler(rows, seed=own, multivariate=True, group=True, constant_liar=spec.search.workers > 1)
    return DeduplicatingSampler(inner, space, own)


def list_grid_points(parameter: Parameter) -> list[str | int | float | bool | None]:
    ranged = parameter.distribution
    if isinstance(ranged, CategoricalDistribution):
        return list(ranged.choices)
    if ranged.step is None:  # type: ignore[attr-defined]
        raise BadInput(f"search.sampler=grid needs choices or steps. Received: {parameter.name} from {parameter}.")
    count = round((ranged.high - ranged.low) / ranged.step) + 1  # type: ignore[attr-defined]
    kind = int if isinstance(ranged, IntDistribution) else float
    return [kind(ranged.low + n * ranged.step) for n in range(count)]  # type: ignore[attr-defined]
