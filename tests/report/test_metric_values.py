"""Tests of mappings of metrics that share their names."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.report.metric_values import MetricValues


@given(st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False)), st.text(max_size=4))
def test_values_behave_as_a_dictionary(metrics: dict[str, float], other: str) -> None:
    places = {name: place for place, name in enumerate(metrics)}
    values = MetricValues(places, array("d", metrics.values()))
    assert values == metrics
    assert list(values.items()) == list(metrics.items())
    assert len(values) == len(metrics)
    for name in (*metrics, other):
        assert (name in values) == (name in metrics)
        assert values.get(name) == metrics.get(name)
        assert values.get(name, "absent") == metrics.get(name, "absent")
    if other not in metrics:
        with pytest.raises(KeyError):
            values[other]
