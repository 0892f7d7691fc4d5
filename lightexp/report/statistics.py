"""What a table may say of a few seeds: means, paired differences, and intervals that hold for small numbers.

Seeds are paired: a row and its control start from the same weights and see the same batches, so differences by seed
vary less than either. Henderson et al. 2018 (arXiv 1709.06560), Agarwal et al. 2021 (arXiv 2108.13264).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

LEVEL = 0.95
MANY = 10
"""Seeds from which the bootstrap is of use."""
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Summary:
    """A sample's description.

    Attributes:
        n: Values.
        mean: Arithmetic, or of ratios geometric.
        std: Sample standard deviation (n - 1); of ratios a factor, the geometric one. None for one value.
        low: Lower end of the bootstrap's interval of `iqm`; None for fewer than ten values.
        high: Upper end.
        iqm: Mean of the middle half; None for fewer than ten values.
    """

    n: int
    mean: float
    std: float | None
    low: float | None = None
    high: float | None = None
    iqm: float | None = None


@dataclass(frozen=True)
class Difference:
    """A row against its control, paired by seed.

    Attributes:
        n: Pairs.
        mean: Row minus control; of ratios the geometric mean of row / control.
        low: Lower end of the 95% t interval of `mean`; None for one pair.
        high: Upper end.
        p: Two-sided, of no difference, or with a margin one-sided, of being worse by the margin or more. None where
            all differences are equal, so that there is nothing to test, or there is one pair.
        adjusted: `p` after Holm's correction over the rows.
        within: With a margin, whether the row is shown to be no worse by more than that: `adjusted` below 0.05, or,
            where all differences are equal, the difference itself. Else None.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None = None
    within: bool | None = None


def summarize(values: Sequence[float], ratio: bool = False) -> Summary:
    """Describes a sample.

    Args:
        values: At least one, finite; of ratios positive.
        ratio: Whether to describe on the logarithm's scale.
    """
    x = _scaled(values, ratio)
    mean, std = float(x.mean()), float(x.std(ddof=1)) if len(x) > 1 else None
    low = high = iqm = None
    if len(x) >= MANY:
        low, high = bootstrap(x)
        iqm = float(compute_interquartile_mean(x))
    found = Summary(len(x), mean, std, low, high, iqm)
    if not ratio:
        return found
    return Summary(len(x), math.exp(mean), *map(_exp, (std, low, high, iqm)))


def compare_paired(
    row: Mapping[int, float], control: Mapping[int, float], ratio: bool = False, margin: float | None = None
) -> Difference | None:
    """Compares a row with its control over the seeds that both have; None if there is none.

    Args:
        row: Values by seed.
        control: Likewise.
        ratio: As in `summary`.
        margin: What `row` may be lower by, in its own unit, and still count as no worse; None tests for a difference.
    """
    seeds = sorted(set(row) & set(control))
    if not seeds:
        return None
    d = _scaled([row[s] for s in seeds], ratio) - _scaled([control[s] for s in seeds], ratio)
    n, mean = len(d), float(d.mean())
    equal = bool(np.ptp(d) <= 1e-12 * max(1.0, float(np.abs(d).max())))
    low = high = p = None
    if equal and n > 1:
        low = high = mean
    elif n > 1:
        error = float(d.std(ddof=1)) / math.sqrt(n)
        half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
        low, high = mean - half, mean + half
        p = (
            2 * float(stdtr(n - 1, -abs(mean / error)))
            if margin is None
            else float(stdtr(n - 1, -(mean + margin) / error))
        )
    within = mean > -margin if margin is not None and equal and n > 1 else None
    if ratio:
        mean, low, high = math.exp(mean), _exp(low), _exp(high)
    return Difference(n, mean, low, high, p, within=within)


def correct_p_values(found: Sequence[Difference | None], margin: bool = False) -> list[Difference | None]:
    """Enters Holm's correction over all p values that there are; see `Difference.adjusted`."""
    adjusted = iter(adjust_holm([one.p for one in found if one is not None and one.p is not None]))
    corrected: list[Difference | None] = []
    for one in found:
        if one is not None and one.p is not None:
            value = next(adjusted)
            one = replace(one, adjusted=value, within=value < 1 - LEVEL if margin else None)
        corrected.append(one)
    return corrected


def adjust_holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): the k-th smallest of m times m - k + 1, never falling, at most 1."""
    order = np.argsort(p)
    adjusted, highest = [0.0] * len(p), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[index]))
        adjusted[index] = highest
    return adjusted


def compute_interquartile_mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the last axis without its lowest and its highest quarter, each rounded down to whole values."""
    cut = x.shape[-1] // 4
    return np.asarray(np.sort(x, axis=-1)[..., cut : x.shape[-1] - cut].mean(axis=-1))


def bootstrap(x: NDArray[np.float64]) -> tuple[float, float]:
    """95% percentile interval of the interquartile mean; always from the same resamples."""
    drawn = np.random.default_rng(0).integers(0, len(x), (_RESAMPLES, len(x)))
    low, high = np.quantile(compute_interquartile_mean(x[drawn]), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high)


def compute_mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and its 95% t interval; without a width where there is one value."""
    x = np.asarray(values, np.float64)
    half = float(stdtrit(len(x) - 1, 0.5 + LEVEL / 2)) * float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half


def _scaled(values: Sequence[float], ratio: bool) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    return np.log(x) if ratio else x


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
