"""Tests of the training stage."""

from __future__ import annotations

from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.stages.train import Train
from tests.tiny_runs import TinyRuns


def test_second_training_continues_from_the_first(tiny_runs: TinyRuns) -> None:
    assert Train(objective=CrossEntropy()).needs_parent
    overrides = ["pipeline=control", "+stage@pipeline.stages.more=train", "pipeline.order=[train,more]"]
    record = tiny_runs.run(*overrides)
    first, second = (stage.facts["history"] for stage in record.stages)
    assert second["loss"][0] < first["loss"][0]  # new weights would start where the first training did
    assert record.control == "more"
