"""Tests of the accuracy by class."""

from __future__ import annotations

from lightexp.core.protocols import Metric, Note
from lightexp.metrics.per_class import PerClass
from tests.metrics.contexts import CORRECT, HALF_CORRECT, make_context


def test_metrics_have_class_names() -> None:
    results = PerClass().measure(make_context(HALF_CORRECT, CORRECT, ("cat", "dog", "emu")))
    assert [(metric.name, metric.value) for metric in results if isinstance(metric, Metric)] == [
        ("accuracy/class/cat", 0.5),
        ("accuracy/class/dog", 1.0),
        ("accuracy/class/emu", 0.0),
    ]


def test_class_without_examples_gives_a_note() -> None:
    context = make_context(HALF_CORRECT, CORRECT)
    context.data.val.y[2] = 1
    notes = [note for note in PerClass().measure(context) if isinstance(note, Note)]
    assert notes == [Note("accuracy/class/2", "the val split has no example of it")]
