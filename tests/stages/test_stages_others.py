from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import TinyRuns

from lightexp.core.config import check
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import file_digest
from lightexp.core.protocols import Artifact, Context, Invariant, Layer
from lightexp.models.lenet5 import LeNet5
from lightexp.models.small_cnn import SmallCnn
from lightexp.objectives.cross_entropy import CrossEntropy
from lightexp.objectives.distill import Distill as Soft
from lightexp.runner.watch import Silent
from lightexp.stages.calibration import SAMPLES, CalibrationSet
from lightexp.stages.distill import Distill
from lightexp.stages.model_file import ModelFile
from lightexp.stages.quantize import Quantize
from lightexp.stages.train import Train


class TestQuantize:
    @pytest.mark.parametrize(
        ("scheme", "io", "kernels", "ends"),
        [
            ("default", "float", {"INT8", "FLOAT32"}, "FLOAT32"),
            ("float16", "float", {"FLOAT16"}, "FLOAT32"),
            ("int8", "float", {"INT8"}, "FLOAT32"),
            ("int8", "integer", {"INT8"}, "INT8"),
            ("int16x8", "float", {"INT8"}, "FLOAT32"),
            ("int16x8", "integer", {"INT8"}, "INT16"),
        ],
    )
    def test_each_scheme_stores_what_it_says(
        self, tiny_runs: TinyRuns, scheme: str, io: str, kernels: set[str], ends: str
    ) -> None:
        words = [f"pipeline.stages.quantize.scheme={scheme}", f"pipeline.stages.quantize.io={io}"]
        record = tiny_runs.run("pipeline=quantize", *words)
        flat = tiny_runs.flat(record)
        assert {t.dtype for _, t in flat.kernels} == kernels
        assert {flat.tensors[i].dtype for i in (*flat.inputs, *flat.outputs)} == {ends}
        control, shipped = record.stages[0], record.stages[-1]
        accuracy = [s.figure("accuracy/val") for s in (control, shipped)]
        assert accuracy[0] == pytest.approx(accuracy[1], abs=0.1)
        assert (shipped.figure("size/file_bytes") or 0) < (control.figure("size/file_bytes") or 0)

    def test_the_plan_s_words_are_the_file_s_types(self) -> None:
        layers = [
            Layer("conv1", "Conv2D", (3, 3, 1, 8), 80),
            Layer("norm1", "BatchNormalization", None, 32),
            Layer("dense1", "Dense", (64, 16), 1040),
        ]
        assert Quantize().touches(layers) == [
            ("conv1", "Conv2D: float32, fewer than 1024 weights"),
            ("norm1", "BatchNormalization: folded into its neighbours"),
            ("dense1", "Dense: int8 weights"),
        ]
        assert dict(Quantize(scheme="int8").touches(layers))["conv1"] == "Conv2D: int8 weights"
        assert dict(Quantize(scheme="float16").touches(layers))["conv1"] == "Conv2D: float16 weights"

    def test_verify_names_the_kernel_that_is_not_quantised(self, tiny_runs: TinyRuns) -> None:
        control = tiny_runs.flat(tiny_runs.run("pipeline=control"))
        assert "CONV_2D kernel '" in (Quantize(scheme="int8").verify("dtype", {}, control) or "")
        assert "was to be FLOAT16" in (Quantize(scheme="float16").verify("dtype", {}, control) or "")

    def test_calibration_is_an_input_where_it_is_needed(self) -> None:
        assert Quantize().inputs() == Quantize(scheme="float16").inputs() == {}
        calibrated = Quantize(scheme="int8", calibration_samples=7)
        assert calibrated.inputs() == {"calibration": CalibrationSet(7)}
        assert calibrated.preserves(Invariant("sparsity", 0.5))
        assert not calibrated.preserves(Invariant("dtype"))

    @pytest.mark.parametrize("scheme", ["default", "float16"])
    def test_integer_io_needs_integers(self, scheme: str) -> None:
        with pytest.raises(BadInput, match=f"^q: io=integer needs scheme=int8 or int16x8. Received: scheme={scheme}"):
            check(Quantize, {"scheme": scheme, "io": "integer"}, "q")

    def test_the_number_of_samples_counts(self, tiny_runs: TinyRuns) -> None:
        words = ["pipeline=quantize", "pipeline.stages.quantize.scheme=int8"]
        at = "pipeline.stages.quantize.calibration_samples"
        keys = {tiny_runs.plan(*words, f"{at}={n}")[0].nodes[-1].inputs["calibration"].key for n in (5, 6)}
        assert len(keys) == 2


def context(out: Any) -> Context:
    x = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
    split = Split(x, (np.arange(10) % 2).astype(np.int32))
    with Silent().working("w", 1, 1) as progress:
        return Context(Data("d", split, split, split, 2), SmallCnn(), 0, 1, out, progress)


def test_a_calibration_set_is_raw_examples_of_the_train_split(tmp_path: Any) -> None:
    assert CalibrationSet(4).apply(None, context(tmp_path)) == {}
    samples = np.load(tmp_path / SAMPLES, allow_pickle=False)
    assert samples.shape == (4, 2, 2, 1)
    assert samples.dtype == np.uint8
    assert {s.tobytes() for s in samples} <= {s.tobytes() for s in context(tmp_path).data.train.x}


class TestModelFile:
    def test_it_is_taken_as_it_is(self, tiny_runs: TinyRuns, tmp_path: Path) -> None:
        plan, data = tiny_runs.plan("pipeline=control")
        source = tiny_runs.file(tiny_runs.run("pipeline=control"))
        stage = ModelFile(str(source), file_digest(source))
        assert not stage.needs_parent
        assert not stage.needs_tensorflow
        with Silent().working("w", 1, 1) as progress:
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
            check(Distill, {"objective": CrossEntropy()}, "d")

    def test_another_architecture_ships(self, tiny_runs: TinyRuns) -> None:
        record = tiny_runs.run("pipeline=distill", "model@pipeline.stages.distill.student=lenet_300_100")
        assert [op.kind for op, _ in tiny_runs.flat(record).kernels] == ["FULLY_CONNECTED"] * 3
        assert record.figures["model/params"] == 64 * 300 + 300 + 300 * 100 + 100 + 100 * 4 + 4

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
