"""How configurations are proposed."""

from __future__ import annotations

import hashlib

from optuna import samplers
from optuna.distributions import CategoricalDistribution, IntDistribution

from lightexp.core.errors import BadInput
from lightexp.search.job import Job
from lightexp.search.ranges import Parameter
from lightexp.search.space import STRUCTURE, Space


def sampler(job: Job, space: Space, count: int) -> samplers.BaseSampler:
    """The sampler that proposes the next trial.

    Each trial has one of its own, seeded by the study's seed and the number of trials before it, so that going on with
    a study repeats nothing. QMC and grid instead number their points in the storage, and share one seed.

    Args:
        job: The study.
        space: What is searched.
        count: Trials before this one.

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
    return samplers.TPESampler(
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
