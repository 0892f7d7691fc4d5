"""The statistics against scipy's, on data whose answers are known."""

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
    compute_interquartile_mean,
    compute_mean_interval,
    correct_p_values,
    summarize,
)

ROW = {0: 0.901, 1: 0.897, 2: 0.905, 3: 0.893, 4: 0.9}
CONTROL = {0: 0.912, 1: 0.905, 2: 0.911, 3: 0.899, 4: 0.912, 7: 0.5}


def test_a_sample() -> None:
    found = summarize([2.0, 4.0, 9.0])
    assert (found.n, found.mean, found.std) == (3, 5.0, pytest.approx(math.sqrt(13)))
    assert (found.low, found.high, found.iqm) == (None, None, None)
    assert summarize([2.0]).std is None
    ratio = summarize([2.0, 8.0], ratio=True)
    assert ratio.mean == pytest.approx(stats.gmean([2.0, 8.0])) == pytest.approx(4.0)
    assert ratio.std == pytest.approx(stats.gstd([2.0, 8.0]))


def test_paired_differences_are_scipys() -> None:
    found = compare_paired(ROW, CONTROL)
    a, b = list(ROW.values()), [CONTROL[seed] for seed in ROW]
    theirs = stats.ttest_rel(a, b)
    low, high = theirs.confidence_interval(0.95)
    assert found is not None
    assert found.n == 5  # the seed that the row lacks is no pair
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.within is None


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02])
def test_non_inferiority_is_a_one_sided_paired_test(margin) -> None:
    found = compare_paired(ROW, CONTROL, margin=margin)
    b = [CONTROL[seed] - margin for seed in ROW]
    theirs = stats.ttest_rel(list(ROW.values()), b, alternative="greater")
    assert found is not None
    assert found.p == pytest.approx(theirs.pvalue)
    [judged] = correct_p_values([found], margin=True)
    assert judged is not None
    assert judged.within is bool(theirs.pvalue < 0.05)


def test_ratios_are_compared_on_the_logarithms_scale() -> None:
    row, control = {0: 4.0, 1: 6.0, 2: 5.0}, {0: 2.0, 1: 2.5, 2: 2.0}
    found = compare_paired(row, control, ratio=True)
    theirs = stats.ttest_rel(np.log(list(row.values())), np.log(list(control.values())))
    low, high = theirs.confidence_interval(0.95)
    assert found is not None
    assert found.mean == pytest.approx(stats.gmean([2.0, 2.4, 2.5]))
    assert (found.low, found.high) == (pytest.approx(math.exp(low)), pytest.approx(math.exp(high)))
    assert found.p == pytest.approx(theirs.pvalue)


def test_equal_differences_have_an_exact_interval_and_no_p() -> None:
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


def test_one_pair_has_no_interval_and_none_no_difference() -> None:
    one = compare_paired({0: 1.0}, {0: 0.5})
    assert one is not None
    assert (one.mean, one.low, one.high, one.p) == (0.5, None, None, None)
    assert compare_paired({0: 1.0}, {1: 0.5}) is None


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_between_nothing_and_bonferroni(p: list[float]) -> None:
    adjusted = adjust_holm(p)
    for before, after in zip(p, adjusted, strict=True):
        assert before <= after <= min(1.0, before * len(p)) or after == pytest.approx(min(1.0, before * len(p)))
    order = np.argsort(p, kind="stable")
    assert list(np.asarray(adjusted)[order]) == sorted(adjusted)


def test_holm_on_known_values() -> None:
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = [compare_paired(ROW, CONTROL), None, compare_paired({0: 1.0}, {0: 1.0})]
    judged = correct_p_values(found)
    assert judged[0] is not None
    assert found[0] is not None
    assert judged[0].adjusted == found[0].p  # the only one that was tested
    assert judged[1:] == found[1:]


def test_ten_seeds_give_a_bootstrap_and_the_interquartile_mean() -> None:
    x = np.random.default_rng(1).normal(0.9, 0.01, 20)
    found = summarize(x.tolist())
    assert found.iqm == pytest.approx(stats.trim_mean(x, 0.25))
    theirs = stats.bootstrap((x,), lambda v, axis: stats.trim_mean(v, 0.25, axis=axis), method="percentile", rng=3)
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=1e-3)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=1e-3)
    tied = np.repeat([0.5, 0.6], 6)  # BCa gives NaN here
    assert bootstrap_interval(tied)[0] == pytest.approx(0.5, abs=0.05)
    assert float(compute_interquartile_mean(np.arange(12.0))) == stats.trim_mean(np.arange(12.0), 0.25)


def test_the_interval_of_a_mean() -> None:
    x = [0.1, 0.4, 0.35]
    mean, low, high = compute_mean_interval(x)
    theirs = stats.t.interval(0.95, 2, loc=np.mean(x), scale=stats.sem(x))
    assert (mean, low, high) == (pytest.approx(np.mean(x)), pytest.approx(theirs[0]), pytest.approx(theirs[1]))
    assert compute_mean_interval([0.5]) == (0.5, 0.5, 0.5)
