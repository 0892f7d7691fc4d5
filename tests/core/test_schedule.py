"""Pruning schedules, compared with tfmot's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.core.schedule import Span

steps = st.none() | st.integers(0, 400)
spans = st.builds(
    Span,
    begin=st.floats(0, 1),
    end=st.floats(0, 1),
    begin_step=steps,
    end_step=steps,
    frequency=st.none() | st.integers(1, 150),
)


@pytest.fixture(scope="module")
def find_updates(tensorflow: None) -> Any:
    """Return a function that gives the steps, from 1, at which tfmot updates masks, and their sparsities."""
    import tensorflow as tf
    from tensorflow_model_optimization.sparsity import keras as sparsity

    def find(begin: int, end: int, frequency: int, total: int, constant: bool) -> tuple[Any, Any]:
        if constant:
            schedule = sparsity.ConstantSparsity(0.75, begin, end, frequency)
        else:
            schedule = sparsity.PolynomialDecay(0.25, 0.75, begin, end, frequency=frequency)
        is_update, sparsities = schedule(tf.range(1, total + 1, dtype=tf.int64))
        indices = np.flatnonzero(is_update.numpy())
        return indices + 1, np.broadcast_to(sparsities.numpy(), total)[indices]

    return find


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(span=spans, total=st.integers(1, 500), constant=st.booleans())
def test_steps_last_update_is_the_end(find_updates: Any, span: Span, total: int, constant: bool) -> None:
    try:
        begin, end, frequency = span.steps(total, constant)
    except BadInput as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert 0 <= begin <= end <= total
        assert frequency >= 1
        assert span.frequency in (None, frequency) or begin == end
        assert span.begin_step in (None, begin)
        assert span.end_step in (None, end)
        updates, sparsities = find_updates(begin, end, frequency, total, constant)
        assert len(updates) >= 1
        assert updates[-1] == end
        assert sparsities[-1] == pytest.approx(0.75)


@settings(deadline=None)
@given(total=st.integers(1, 5000), end=st.floats(0.01, 1))
def test_steps_refuses_an_empty_schedule_only(total: int, end: float) -> None:
    span = Span(0.0, end)
    if int(end * total) < 1:
        with pytest.raises(BadInput, match="is empty"):
            span.steps(total, constant=False)
    else:
        begin, last, frequency = span.steps(total, constant=False)
        assert begin == 0
        assert int(end * total) - last < frequency
        assert last // frequency >= min(10, int(end * total))  # enough updates to follow the curve


@given(total=st.integers(1, 5000), share=st.floats(0, 1), constant=st.booleans())
def test_steps_reaches_every_end_step(total: int, share: float, constant: bool) -> None:
    end = max(1, round(share * total))
    begin, last, frequency = Span(0, 1, end_step=end).steps(total, constant)
    assert (begin, last) == (0, end)
    assert end % frequency == 0


def test_steps_of_the_article() -> None:
    assert Span(0.0, 0.5, 0, 1000, 100).steps(15_630, constant=False) == (0, 1000, 100)
    assert Span(0.0, 0.5).steps(20_000, constant=False) == (0, 10_000, 100)


@pytest.mark.parametrize(
    ("span", "message"),
    [
        (Span(0, 1, end_step=101), "ends at step 101, but training has 100 steps"),
        (Span(0.5, 0.5), "is empty: it begins at step 50 and ends at step 50 of 100"),
        (Span(0.9, 0.1), "is empty: it begins at step 90 and ends at step 10 of 100"),
        (Span(0, 1, begin_step=100), "is empty"),
        (Span(0, 0.5, frequency=51), "frequency=51 is longer than the pruning schedule of 50 steps"),
        (Span(0, 0.5, end_step=50, frequency=20), "the last update falls on step 40, not on end_step=50"),
    ],
)
def test_steps_names_a_remedy(span: Span, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        span.steps(100, constant=False)
    assert message in str(caught.value)
    assert any(verb in str(caught.value) for verb in ("Set ", "Raise "))


def test_steps_of_constant_sparsity() -> None:
    assert Span(0.5, 0.5).steps(100, constant=True) == (50, 50, 1)
    with pytest.raises(BadInput, match="is empty"):
        Span(0, 0).steps(100, constant=True)
