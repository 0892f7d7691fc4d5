"""Tests of the primary metric that records name."""

from __future__ import annotations

import pytest

from lightexp.core.primary_metric import PRIMARY, PrimaryMetric, read_primary


def test_record_without_a_task_is_judged_by_accuracy() -> None:
    assert read_primary({"classes": 4}) == PrimaryMetric("accuracy", "max", 0.25)
    assert read_primary({}).reference_error is None


def test_error_of_a_metric_to_minimise_is_relative_to_guessing() -> None:
    stored = {"name": "rmse", "direction": "min", "reference": 80.0, "unit": "mm", "is_share": False}
    primary = read_primary({"classes": 0, PRIMARY: stored})
    assert (primary.to_error(20.0), primary.reference_error) == (0.25, 1.0)
    assert (primary.factor, primary.difference_unit) == (1, "mm")


def test_unknown_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="direction is 'up'"):
        read_primary({PRIMARY: {"name": "auc", "direction": "up"}})
