"""Statistics compared with scipy on data whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lightexp.report.statistics import (
    adjust_holm,
    bootstrap_interval,
    compare_paired,
    compare_samples,
    compute_interquartile_mean,
    compute_mean_interval,
    correct_p_values,
    summarize,
    summarize_samples,
)

ROW = {0: 0.901, 1: 0.897, 2: 0.905, 3: 0.893, 4: 0.9}
CONTROL = {0: 0.912, 1: 0.905, 2: 0.911, 3: 0.899, 4: 0.912, 7: 0.5}


def test_summarize_a_sample_and_ratios() -> None:
    summary = summarize([2.0, 4.0, 9.0])
    assert (summary.n, summary.mean, summary.std) == (3, 5.0, pytest.approx(math.sqrt(13)))
    assert (summary.low, summary.high, summary.iqm) == (None, None, None)
    assert summarize([2.0]).std is None
    ratio = summarize([2.0, 8.0], ratio=True)
    assert ratio.mean == pytest.approx(stats.gmean([2.0, 8.0])) == pytest.approx(4.0)
    assert ratio.std == pytest.approx(stats.gstd([2.0, 8.0]))


def test_compare_paired_equals_scipys_t_test() -> None:
    difference = compare_paired(ROW, CONTROL)
    a, b = list(ROW.values()), [CONTROL[seed] for seed in ROW]
    expected = stats.ttest_rel(a, b)
    low, high = expected.confidence_interval(0.95)
    assert difference is not None
    assert difference.n == 5  # the seed that the row lacks is no pair
    assert difference.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))
    assert difference.p == pytest.approx(expected.pvalue)
    assert difference.within is None


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02])
def test_compare_paired_with_a_margin_is_one_sided(margin) -> None:
    difference = compare_paired(ROW, CONTROL, margin=margin)
    b = [CONTROL[seed] - margin for seed in ROW]
    expected = stats.ttest_rel(list(ROW.values()), b, alternative="greater")
    assert difference is not None
    assert difference.p == pytest.approx(expected.pvalue)
    [corrected] = correct_p_values([difference], margin=True)
    assert corrected is not None
    assert corrected.within is bool(expected.pvalue < 0.05)


def test_compare_paired_takes_logarithms_of_ratios() -> None:
    row, control = {0: 4.0, 1: 6.0, 2: 5.0}, {0: 2.0, 1: 2.5, 2: 2.0}
    difference = compare_paired(row, control, ratio=True)
    expected = stats.ttest_rel(np.log(list(row.values())), np.log(list(control.values())))
    low, high = expected.confidence_interval(0.95)
    assert difference is not None
    assert difference.mean == pytest.approx(stats.gmean([2.0, 2.4, 2.5]))
    assert (difference.low, difference.high) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    assert difference.p == pytest.approx(expected.pvalue)


def test_compare_paired_of_equal_differences() -> None:
    same = compare_paired({0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.4, 1: 0.5, 2: 0.6})
    assert same is not None
    assert same.low == same.high == same.mean == pytest.approx(0.1)
    assert same.p is None
    assert correct_p_values([same]) == [same]
    worse = compare_paired({0: 0.5, 1: 0.6}, {0: 0.6, 1: 0.7}, margin=0.05)
    better = compare_paired({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6}, margin=0.05)
    assert worse is not None
    assert better is not None
    assert (worse.within, better.within) == (False, True)


def test_compare_paired_of_one_pair_and_of_none() -> None:
    one = compare_paired({0: 1.0}, {0: 0.5})
    assert one is not None
    assert (one.mean, one.low, one.high, one.p) == (0.5, None, None, None)
    assert compare_paired({0: 1.0}, {1: 0.5}) is None


@given(st.lists(st.floats(0, 1), max_size=8))
def test_adjust_holm_is_at_most_bonferroni(p: list[float]) -> None:
    adjusted = adjust_holm(p)
    for before, after in zip(p, adjusted, strict=True):
        assert before <= after <= min(1.0, before * len(p)) or after == pytest.approx(min(1.0, before * len(p)))
    order = np.argsort(p, kind="stable")
    assert list(np.asarray(adjusted)[order]) == sorted(adjusted)


def test_adjust_holm_on_known_values() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    differences = [compare_paired(ROW, CONTROL), None, compare_paired({0: 1.0}, {0: 1.0})]
    corrected = correct_p_values(differences)
    assert corrected[0] is not None
    assert differences[0] is not None
    assert corrected[0].adjusted == differences[0].p  # the only one that was tested
    assert corrected[1:] == differences[1:]


def test_summarize_many_seeds_adds_a_bootstrap_interval() -> None:
    x = np.random.default_rng(1).normal(0.9, 0.01, 20)
    summary = summarize(x.tolist())
    assert summary.iqm == pytest.approx(stats.trim_mean(x, 0.25))
    expected = stats.bootstrap((x,), lambda v, axis: stats.trim_mean(v, 0.25, axis=axis), method="percentile", rng=3)
    assert summary.low == pytest.approx(expected.confidence_interval.low, abs=1e-3)
    assert summary.high == pytest.approx(expected.confidence_interval.high, abs=1e-3)
    tied = np.repeat([0.5, 0.6], 6)  # BCa gives NaN here
    assert bootstrap_interval(tied[None])[0] == pytest.approx([0.5], abs=0.05)
    assert float(compute_interquartile_mean(np.arange(12.0))) == stats.trim_mean(np.arange(12.0), 0.25)


@pytest.mark.parametrize("ratio", [False, True])
def test_summary_does_not_depend_on_other_samples(ratio: bool) -> None:
    rng = np.random.default_rng(2)
    sizes = [20] * 60 + [10, 3, 20, 1, 12, 10]  # more of one size than one call resamples
    samples = [rng.normal(0.9, 0.01, size).tolist() for size in sizes] + [[0.5] * 20]
    together = summarize_samples(samples, ratio)
    assert together == [summarize(sample, ratio) for sample in samples]
    assert summarize_samples([]) == []


def test_bootstrap_interval_equals_scipys_of_each_sample() -> None:
    x = np.random.default_rng(3).normal(0.9, 0.01, (5, 20))
    for sample, low, high in zip(x, *bootstrap_interval(x), strict=True):
        expected = stats.bootstrap(
            (sample,),
            lambda v, axis: stats.trim_mean(v, 0.25, axis=axis),
            n_resamples=2000,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert (low, high) == (expected.low, expected.high)  # to the bit


def test_summarize_equal_values_of_many_seeds() -> None:
    summary = summarize([0.3] * 12)
    assert (summary.low, summary.high, summary.iqm) == (0.3, 0.3, 0.3)
    assert summary.std == pytest.approx(0, abs=1e-15)
    assert summarize([0.3] * 9).iqm is None


def test_compute_mean_interval_equals_scipys() -> None:
    x = [0.1, 0.4, 0.35]
    mean, low, high = compute_mean_interval(x)
    expected = stats.t.interval(0.95, 2, loc=np.mean(x), scale=stats.sem(x))
    assert (mean, low, high) == (pytest.approx(np.mean(x)), pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert compute_mean_interval([0.5]) == (0.5, 0.5, 0.5)


def test_margin_of_an_error_allows_higher_values() -> None:
    lower = compare_paired(ROW, CONTROL, margin=0.01)
    negated = [{seed: -value for seed, value in values.items()} for values in (ROW, CONTROL)]
    higher = compare_paired(*negated, margin=0.01, worse="higher")
    assert lower is not None and higher is not None
    assert (higher.p, higher.mean) == (pytest.approx(lower.p), pytest.approx(-lower.mean))
    constant = compare_paired({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0}, margin=1.0, worse="higher")
    assert constant is not None and constant.within is True


@pytest.mark.parametrize("margin", [None, 0.01])
def test_compare_samples_equals_comparing_each(margin: float | None) -> None:
    rng = np.random.default_rng(0)
    pairs = [
        (dict(enumerate(rng.normal(1, 0.1, n).tolist())), dict(enumerate(rng.normal(1, 0.1, n).tolist())))
        for n in (1, 5, 20, 5, 20, 1, 3)
    ]
    pairs += [({0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25}), ({0: 1.0}, {1: 1.0})]
    for ratio in (False, True):
        compared = compare_samples(pairs, ratio, margin)
        assert compared == [compare_paired(*pair, ratio, margin) for pair in pairs]
        assert compared[-1] is None
