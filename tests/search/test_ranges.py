"""Ranges: how sweeps are parsed into Optuna's distributions, and which are refused."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from lightexp.core.errors import BadInput
from lightexp.search.ranges import parse_parameter


@pytest.mark.parametrize(
    ("text", "current", "expected"),
    [
        ("interval(0.5, 0.98)", 0.8, FloatDistribution(0.5, 0.98)),
        ("interval(1, 8)", 0.8, FloatDistribution(1, 8)),
        ("interval(1, 8)", 3, IntDistribution(1, 8)),
        ("int(interval(1, 8))", None, IntDistribution(1, 8)),
        ("tag(int, interval(1, 8))", None, IntDistribution(1, 8)),
        ("tag(log, interval(1e-4, 1e-2))", 1e-3, FloatDistribution(1e-4, 1e-2, log=True)),
        ("tag(log, interval(1, 64))", 8, IntDistribution(1, 64, log=True)),
        ("range(1, 10, 3)", 1, IntDistribution(1, 7, step=3)),  # the end is excluded, as in Hydra's sweeps
        ("range(1, 9)", 1, IntDistribution(1, 8)),
        ("range(0.5, 0.9, 0.1)", 0.5, FloatDistribution(0.5, 0.8, step=0.1)),
        ("choice(int8, float16)", "int8", CategoricalDistribution(("int8", "float16"))),
        ("choice(null, 32)", None, CategoricalDistribution((None, 32))),
        ("a,b", "a", CategoricalDistribution(("a", "b"))),
    ],
)
def test_parse_parameter_reads_sweeps(text: str, current: object, expected: object) -> None:
    distribution = parse_parameter(("a", "b"), text, current).distribution
    if isinstance(expected, FloatDistribution):
        assert isinstance(distribution, FloatDistribution)
        assert (distribution.low, distribution.log, distribution.step) == (expected.low, expected.log, expected.step)
        assert distribution.high == pytest.approx(expected.high)
    else:
        assert distribution == expected


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=2, unique=True), st.booleans(), st.integers(0, 99))
def test_suggested_value_lies_in_the_interval(ends: list[float], log: bool, seed: int) -> None:
    low, high = sorted(ends)
    interval = f"interval({low!r}, {high!r})"
    parameter = parse_parameter(("a",), f"tag(log, {interval})" if log else interval, 1.0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert low <= parameter.suggest(study.ask()) <= high
    assert low <= parameter.to_optuna(seed) <= high


@given(st.floats(0.01, 100), st.booleans())
def test_interval_without_width_is_refused(end: float, log: bool) -> None:
    interval = f"interval({end!r}, {end!r})"
    with pytest.raises(BadInput, match="empty or reversed"):
        parse_parameter(("a",), f"tag(log, {interval})" if log else interval, 1.0)


CHOICES = st.sampled_from(["a", "b", "[1,2]", "true"])


@given(st.lists(st.one_of(st.integers(2, 9), CHOICES), min_size=2, unique=True))
def test_choices_keep_their_values(values: list[object]) -> None:
    parameter = parse_parameter(("a",), f"choice({','.join(map(str, values))})", None)
    for choice, value in zip(parameter.distribution.choices, parameter.list_end_values(), strict=True):
        assert parameter.suggest(FixedTrial({"a": choice})) == value == parameter.from_optuna(choice)
        assert parameter.to_optuna(value) == choice


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.9, 0.5)", "is empty or reversed"),
        ("range(5, 1)", "is empty or reversed"),
        ("range(5, 6)", "is empty or reversed"),
        ("range(0, 1, 0)", "the step must be above 0"),
        ("range(1, 0, -0.1)", "the step must be above 0"),
        ("choice()", "is no range"),
        ("0.5", "is no range"),
        ("glob(*)", "is no range"),
        ("interval(a, b)", "is no range"),
        ("tag(log, interval(0, 1))", "is an interval above 0"),
        ("tag(lug, interval(1, 2))", "tag 'lug' means nothing here"),
        ("choice(1, 1)", "names a value twice"),
        ("tag(int, interval(0.5, 2))", "whole numbers"),
    ],
)
def test_parse_parameter_refuses_what_is_no_range(text: str, expected: str) -> None:
    with pytest.raises(BadInput, match=r"search\.space: a\.b=") as refused:
        parse_parameter(("a", "b"), text, 1.0)
    assert expected in str(refused.value)
