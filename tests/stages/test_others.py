from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.core.config import construct
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import hash_file
from lightexp.core.protocols import Artifact, Context
from lightexp.models.file_stages import ModelFile
from lightexp.models.lenet5 import LeNet5
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distillation as Soft
from lightexp.runner.progress import SilentReporter
from lightexp.stages.distill import Distill
from lightexp.stages.train import Train
from tests.tiny_runs import TinyRuns


def context(out: Any) -> Context:
    x = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    split = Split(x, (np.arange(10) % 2).astype(np.int32))
    with SilentReporter().stage("w", 1, 1) as progress:
        return Context(Data("d", split, split, split, 2), SmallCnn(), 0, 1, out, progress)


class TestModelFile:
    def test_it_is_taken_as_it_is(self, tiny_runs: TinyRuns, tmp_path: Path) -> None:
        plan, data = tiny_runs.plan("pipeline=control")
        source = tiny_runs.file(tiny_runs.run("pipeline=control"))
        stage = ModelFile(str(source), hash_file(source))
        assert not stage.needs_parent
        assert not stage.needs_tensorflow
        with SilentReporter().stage("w", 1, 1) as progress:
            assert stage.apply(None, Context(data, plan.nodes[0].model, 0, 1, tmp_path, progress)) == {}
        assert Artifact(stage.produces, tmp_path, {}, "k").tflite.read_bytes() == source.read_bytes()


class TestDistill:
    def test_the_student_takes_the_model_s_place(self) -> None:
        assert Distill(objective=Soft()).replaces(LeNet5()) == LeNet5(1 / 3)
        assert Distill(objective=Soft(), width=0.5).replaces(LeNet5(0.5)) == LeNet5(0.25)
        assert Distill(objective=Soft(), student=SmallCnn()).replaces(LeNet5()) == SmallCnn()

    def test_labels_alone_are_no_teacher(self) -> None:
        with pytest.raises(
            BadInput, match=r"^d: distill needs an objective with a teacher\. Received: objective=Cross"
        ):
            construct(Distill, {"objective": CrossEntropy()}, "d")

    def test_another_architecture_ships(self, tiny_runs: TinyRuns) -> None:
        record = tiny_runs.run("pipeline=distill", "model@pipeline.stages.distill.student=lenet_300_100")
        assert [op.kind for op, _ in tiny_runs.flat(record).kernels] == ["FULLY_CONNECTED"] * 3
        assert record.metrics["model/params"] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 4 + 4

    def test_the_teacher_is_an_input_and_what_it_knows_changes_the_student(self, tiny_runs: TinyRuns) -> None:
        at = "pipeline.stages.distill.objective"
        taught = tiny_runs.run("pipeline=distill", f"{at}.alpha=1.0")
        alone = tiny_runs.run("pipeline=distill", f"{at}.alpha=0.0")
        assert tiny_runs.file(taught).read_bytes() != tiny_runs.file(alone).read_bytes()


def test_training_goes_on_from_what_stands_before_it(tiny_runs: TinyRuns) -> None:
    assert Train(objective=CrossEntropy()).needs_parent
    words = ["pipeline=control", "+stage@pipeline.stages.more=train", "pipeline.order=[train,more]"]
    record = tiny_runs.run(*words)
    first, second = (s.facts["history"] for s in record.stages)
    assert second["loss"][0] < first["loss"][0]  # new weights would begin where the first did
    assert record.control == "more"
