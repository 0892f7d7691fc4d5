"""Tests of the distillation stage."""

from __future__ import annotations

import pytest

from lightexp.core.config import construct
from lightexp.core.errors import BadInput
from lightexp.models.lenet5 import LeNet5
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distillation
from lightexp.stages.distill import Distill
from tests.tiny_runs import TinyRuns

OBJECTIVE = "pipeline.stages.distill.objective"


def test_replaces_gives_the_student() -> None:
    assert Distill(objective=Distillation()).replaces(LeNet5()) == LeNet5(1 / 3)
    assert Distill(objective=Distillation(), width=0.5).replaces(LeNet5(0.5)) == LeNet5(0.25)
    assert Distill(objective=Distillation(), student=SmallCnn()).replaces(LeNet5()) == SmallCnn()


def test_objective_without_teacher_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^d: distill needs an objective with a teacher\. Received: objective=Cross"):
        construct(Distill, {"objective": CrossEntropy()}, "d")


def test_student_of_other_architecture_is_shipped(tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run("pipeline=distill", "model@pipeline.stages.distill.student=lenet_300_100")
    assert [op.kind for op, _ in tiny_runs.read_graph(record).kernels] == ["FULLY_CONNECTED"] * 3
    assert record.metrics["model/params"] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 4 + 4


def test_teacher_changes_the_student(tiny_runs: TinyRuns) -> None:
    with_teacher = tiny_runs.run("pipeline=distill", f"{OBJECTIVE}.alpha=1.0")
    without_teacher = tiny_runs.run("pipeline=distill", f"{OBJECTIVE}.alpha=0.0")
    assert tiny_runs.get_file(with_teacher).read_bytes() != tiny_runs.get_file(without_teacher).read_bytes()
