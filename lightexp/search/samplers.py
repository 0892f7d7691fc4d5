"""How configurations are proposed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study, samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from lightexp.core.errors import BadInput
from lightexp.search.job import Job
from lightexp.search.ranges import Parameter
from lightexp.search.space import STRUCTURE, Space

Rows = dict[tuple[str, ...], dict[int, list[float] | None]]
"""Of some parameters by name, what TPE takes of each finished trial; None of one that lacks any of them."""


class _Kinds:
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


class _Tpe(samplers.TPESampler):
    """TPE as Optuna's, proposal for proposal, that reads a finished trial once and not for every proposal after it."""

    def __init__(self, rows: Rows, **settings: Any) -> None:
        super().__init__(**settings)
        self._rows = rows

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return super().infer_relative_search_space(_Kinds(study), trial)  # type: ignore[arg-type]

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


def sampler(job: Job, space: Space, count: int, rows: Rows) -> samplers.BaseSampler:
    """The sampler that proposes the next trial.

    Each trial has one of its own, seeded by the study's seed and the number of trials before it, so that going on with
    a study repeats nothing. QMC and grid instead number their points in the storage, and share one seed.

    Args:
        job: The study.
        space: What is searched.
        count: Trials before this one.
        rows: What TPE has read of the study's trials in this process; it is added to.

    Raises:
        BadInput: If a grid is asked for over an interval.
    """
    kind, seed = job.search.sampler, job.settings.seed
    own = int.from_bytes(hashlib.sha256(f"{seed} {count}".encode()).digest()[:4])
    if kind == "grid":
        axes = {p.name: _points(p) for p in space.parameters}
        if len(space.structures) > 1:
            axes[STRUCTURE] = list(space.labels)
        return samplers.GridSampler(axes, seed=seed)
    if kind == "qmc":
        return samplers.QMCSampler(seed=seed, scramble=True)
    if kind == "random":
        return samplers.RandomSampler(seed=own)
    if kind == "nsga2":
        return samplers.NSGAIISampler(seed=own, population_size=20)
    return _Tpe(
        rows,
        seed=own,
        multivariate=True,
        group=True,
        constant_liar=job.search.workers > 1,
    )


def _points(parameter: Parameter) -> list[str | int | float | bool | None]:
    ranged = parameter.distribution
    if isinstance(ranged, CategoricalDistribution):
        return list(ranged.choices)
    if ranged.step is None:  # type: ignore[attr-defined]
        raise BadInput(f"search.sampler=grid needs choices or steps. Received: {parameter.name} from {parameter}.")
    count = round((ranged.high - ranged.low) / ranged.step) + 1  # type: ignore[attr-defined]
    kind = int if isinstance(ranged, IntDistribution) else float
    return [kind(ranged.low + n * ranged.step) for n in range(count)]  # type: ignore[attr-defined]
