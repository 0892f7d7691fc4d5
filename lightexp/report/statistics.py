"""Statistics over few seeds: means, differences paired by seed, Holm's correction and intervals.

A row and its control start from the same weights and see the same batches for each seed, so the difference by seed
varies less than either. See Henderson et al. 2018 (arXiv 1709.06560) and Agarwal et al. 2021 (arXiv 2108.13264).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy  # its subpackages load at first use; scipy.stats takes most of a second
from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence level of all intervals; 1 - LEVEL is the level of significance."""
MIN_BOOTSTRAP_SEEDS = 10
"""Number of seeds from which the bootstrap interval is meaningful."""
_RESAMPLES = 2_000
_MAX_RESAMPLED_VALUES = 1 << 20  # of one call, which takes a few times 8 MB


@dataclass(frozen=True, slots=True)
class Summary:
    """Description of a sample.

    Attributes:
        n: Number of values.
        mean: Arithmetic mean, or geometric mean of ratios.
        std: Sample standard deviation (n - 1); for ratios the geometric one, a factor. None for one value.
        low: Lower end of the bootstrap interval of `iqm`; None for fewer than ten values.
        high: Upper end of that interval.
        iqm: Interquartile mean, the mean of the middle half; None for fewer than ten values.
    """

    n: int
    mean: float
    std: float | None
    low: float | None = None
    high: float | None = None
    iqm: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between a row and its control, paired by seed.

    Attributes:
        n: Number of pairs.
        mean: Mean of row minus control; for ratios the geometric mean of row / control.
        low: Lower end of the 95% t interval of `mean`; None for one pair.
        high: Upper end of that interval.
        p: p value of the paired t test, two-sided against no difference; with a margin one-sided against the row being
            worse by the margin or more. None where all differences are equal or there is one pair.
        adjusted: `p` after Holm's correction over the rows.
        within: With a margin, whether the row is shown to be no worse than the margin: `adjusted` is below 0.05, or all
            differences are equal and smaller than the margin. None without a margin.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    adjusted: float | None = None
    within: bool | None = None


def summarize(values: Sequence[float], ratio: bool = False) -> Summary:
    """Return the description of a sample.

    Args:
        values: At least one finite value; positive for ratios.
        ratio: Whether the values are quotients, which are described on the scale of their logarithm.

    Example:
        >>> summarize([2.0, 4.0, 6.0])
        Summary(n=3, mean=4.0, std=2.0, low=None, high=None, iqm=None)
    """
    return summarize_samples([values], ratio)[0]


def summarize_samples(samples: Sequence[Sequence[float]], ratio: bool = False) -> list[Summary]:
    """Return the description of each of several samples, which does not depend on the others.

    Args:
        samples: The samples; see `summarize`.
        ratio: As in `summarize`.
    """
    scaled = [_to_scale(values, ratio) for values in samples]
    robust = _compute_robust(scaled)
    summaries = []
    for index, x in enumerate(scaled):
        mean = float(x.mean())
        std = float(x.std(ddof=1)) if len(x) > 1 else None
        low, high, iqm = robust.get(index, (None, None, None))
        if ratio:
            mean, std, low, high, iqm = math.exp(mean), *map(_compute_exp, (std, low, high, iqm))
        summaries.append(Summary(len(x), mean, std, low, high, iqm))
    return summaries


def _compute_robust(samples: Sequence[NDArray[np.float64]]) -> dict[int, tuple[float, float, float]]:
    """Return the bootstrap interval and the interquartile mean of each sample with enough seeds, by its index.

    Samples of one size are resampled together, since a call of SciPy's bootstrap costs more than its work.
    """
    robust: dict[int, tuple[float, float, float]] = {}
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for index, x in enumerate(samples):
        if len(x) >= MIN_BOOTSTRAP_SEEDS and np.ptp(x) == 0:  # most sizes and counts, for which resampling is a waste
            robust[index] = (float(x[0]),) * 3
        elif len(x) >= MIN_BOOTSTRAP_SEEDS:
            by_size[len(x)].append(index)
    for size, indices in by_size.items():
        count = max(1, _MAX_RESAMPLED_VALUES // (size * _RESAMPLES))
        for start in range(0, len(indices), count):
            part = indices[start : start + count]
            x = np.stack([samples[index] for index in part])
            columns = (*bootstrap_interval(x), compute_interquartile_mean(x))
            robust |= zip(part, zip(*(column.tolist() for column in columns), strict=True), strict=True)
    return robust


def compare_paired(
    row: Mapping[int, float],
    control: Mapping[int, float],
    ratio: bool = False,
    margin: float | None = None,
    worse: Literal["lower", "higher"] = "lower",
) -> Difference | None:
    """Compare a row with its control over the seeds that both have.

    Args:
        row: Values of the row by seed.
        control: Values of the control by seed.
        ratio: As in `summarize`.
        margin: How much worse `row` may be, in its own unit, and still count as no worse. None tests for a difference.
        worse: Which way is worse. Defaults to `lower`.

    Returns:
        The difference, or None where no seed is in both.
    """
    return compare_samples([(row, control)], ratio, margin, worse)[0]


def compare_samples(
    pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]],
    ratio: bool = False,
    margin: float | None = None,
    worse: Literal["lower", "higher"] = "lower",
) -> list[Difference | None]:
    """Compare each of several rows with its control; the result of one does not depend on the others.

    Args:
        pairs: Row and control; see `compare_paired`, also for the other arguments.
        ratio: As in `summarize`.
        margin: As in `compare_paired`.
        worse: As in `compare_paired`.
    """
    compared: list[Difference | None] = [None] * len(pairs)
    by_size: defaultdict[int, list[tuple[int, NDArray[np.float64], NDArray[np.float64]]]] = defaultdict(list)
    for index, (row, control) in enumerate(pairs):
        if seeds := sorted(set(row) & set(control)):
            a, b = (_to_scale([side[seed] for seed in seeds], ratio) for side in (row, control))
            by_size[len(seeds)].append((index, a, b))
    for n, group in by_size.items():  # a call of SciPy's test costs more than its work
        indices, rows, controls = zip(*group, strict=True)
        for index, (mean, low, high, p, within) in zip(
            indices, _test_pairs(np.stack(rows), np.stack(controls), margin, worse), strict=True
        ):
            ends = (_compute_exp(low), _compute_exp(high)) if ratio else (low, high)
            compared[index] = Difference(n, math.exp(mean) if ratio else mean, *ends, p, within=within)
    return compared


_Test = tuple[float, float | None, float | None, float | None, bool | None]
"""Mean, ends of its interval, p value, and whether it is within the margin."""


def _test_pairs(
    a: NDArray[np.float64], b: NDArray[np.float64], margin: float | None, worse: Literal["lower", "higher"]
) -> list[_Test]:
    """Return the paired test of each line of two arrays `(samples, n)`."""
    differences = a - b
    means = differences.mean(axis=1)
    tests: list[_Test] = [(mean, None, None, None, None) for mean in means.tolist()]
    if a.shape[1] == 1:
        return tests
    is_constant = _is_constant(differences)  # scipy's t test gives NaN there
    for index in np.flatnonzero(is_constant).tolist():
        mean = float(means[index])
        within = None if margin is None else (mean > -margin if worse == "lower" else mean < margin)
        tests[index] = mean, mean, mean, None, within
    varying = np.flatnonzero(~is_constant)
    if len(varying):
        paired = scipy.stats.ttest_rel(a[varying], b[varying], axis=1)
        low, high = paired.confidence_interval(LEVEL)
        p = paired.pvalue
        if margin is not None:
            limit, better = (-margin, "greater") if worse == "lower" else (margin, "less")
            p = scipy.stats.ttest_1samp(differences[varying], limit, axis=1, alternative=better).pvalue
        columns = (array.tolist() for array in (means[varying], low, high, p))
        for index, values in zip(varying.tolist(), zip(*columns, strict=True), strict=True):
            tests[index] = (*values, None)
    return tests


def correct_p_values(differences: Sequence[Difference | None], margin: bool = False) -> list[Difference | None]:
    """Return the differences with Holm's correction over all their p values.

    Args:
        differences: One for each row; those without a p value are returned unchanged.
        margin: Whether they were tested against a margin, so that `within` follows from the corrected p value.
    """
    adjusted = iter(adjust_holm([d.p for d in differences if d is not None and d.p is not None]))
    corrected: list[Difference | None] = []
    for difference in differences:
        if difference is None or difference.p is None:
            corrected.append(difference)
            continue
        p = next(adjusted)
        corrected.append(replace(difference, adjusted=p, within=p < 1 - LEVEL if margin else None))
    return corrected


def adjust_holm(p: Sequence[float]) -> list[float]:
    """Return p values after Holm's step-down correction (1979).

    The k-th smallest of m values is multiplied by m - k + 1; the results never fall and are at most 1.

    Example:
        >>> adjust_holm([0.01, 0.5])
        [0.02, 0.5]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = highest
    return adjusted


def compute_interquartile_mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over the last axis without its lowest and highest quarter, each rounded down."""
    return np.asarray(scipy.stats.trim_mean(x, 0.25, axis=-1))


def bootstrap_interval(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the 95% percentile interval of each sample's interquartile mean.

    Samples of one size have the same resamples, always. BCa intervals are NaN for tied seeds, hence percentiles.

    Args:
        x: `(samples, n)`.

    Returns:
        The lower and the upper ends, `(samples,)`.
    """
    result = scipy.stats.bootstrap(
        (x,),
        # In one order of memory, so that rounding does not depend on the number of samples.
        lambda resamples, axis: compute_interquartile_mean(np.ascontiguousarray(resamples)),
        axis=-1,
        n_resamples=_RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def compute_mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95% t interval; equal values, or a single one, give an interval of no width."""
    x = np.asarray(values, np.float64)
    mean = float(x.mean())
    if len(x) < 2 or _is_constant(x[np.newaxis])[0]:
        return mean, mean, mean
    low, high = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(LEVEL)
    return mean, float(low), float(high)


def _is_constant(x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return for each line whether all of its values are equal but for rounding."""
    return np.asarray(np.ptp(x, axis=1) <= 1e-12 * np.maximum(1.0, np.abs(x).max(axis=1)))


def _to_scale(values: Sequence[float], ratio: bool) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    return np.log(x) if ratio else x


def _compute_exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)
