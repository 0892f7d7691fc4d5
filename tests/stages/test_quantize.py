"""Tests of post-training quantisation: settings, plans, and the quantised file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from lightexp.backend import flatbuffer
from lightexp.core.config import construct
from lightexp.core.data import Data, Split
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import TFLITE, Artifact, Context, Invariant, Layer
from lightexp.core.tflite_graph import TFLiteGraph, extract_layer_names
from lightexp.models.small_cnn import SmallCnn
from lightexp.runner.progress import SilentReporter
from lightexp.stages.calibration import RANGES_FILE, Calibration
from lightexp.stages.kernel_format import KernelFormat
from lightexp.stages.quantize import Quantize
from tests.metrics import tiny_models
from tests.tiny_runs import TinyRuns

LAYERS = [
    Layer("conv1", "Conv2D", (3, 3, 1, 8), 80),
    Layer("norm1", "BatchNormalization", None, 32),
    Layer("depth1", "DepthwiseConv2D", (3, 3, 8, 1), 72),
    Layer("dense1", "Dense", (64, 16), 1040),
]


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"io": "integer"}, "io=integer needs scheme=int8 or int16x8. Received: scheme=default"),
            ({"scheme": "float16", "io": "integer"}, "io=integer needs scheme=int8 or int16x8"),
            ({"scheme": "int16x8", "io": "uint8"}, "io=uint8 needs scheme=int8. Received: scheme=int16x8"),
            ({"scheme": "dynamic", "io": "int8"}, "io=int8 needs scheme=int8. Received: scheme=dynamic"),
            ({"bits": 4}, "bits, block, layers and tolerance need scheme=dynamic, weight_only, int8 or int16x8"),
            ({"scheme": "float16", "layers": {"a": 8}}, "bits, block, layers and tolerance need"),
            ({"scheme": "int8", "bits": 2}, "2-bit weights with scheme=dynamic only. Received: scheme=int8"),
            ({"scheme": "weight_only", "layers": {"a": 2}}, "2-bit weights with scheme=dynamic only"),
            ({"scheme": "dynamic", "block": 32}, "blocks with scheme=dynamic and 4 bits only. Received: block=32"),
            ({"scheme": "weight_only", "bits": 4, "block": 64}, "blocks with scheme=dynamic and 4 bits only"),
            ({"scheme": "dynamic", "bits": 3}, r"bits: Input should be 2, 4 or 8. Received: 3"),
            ({"scheme": "dynamic", "layers": {"a": 16}}, r"layers.a: Input should be 2, 4, 8 or 32"),
            ({"scheme": "dynamic", "bits": 4, "block": 16}, r"block: Input should be 32 or 64"),
            ({"scheme": "int8", "calibration_samples": 0}, "calibration_samples: Input should be greater"),
        ],
    )
    def test_invalid_settings_are_refused(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(BadInput, match=r"^q[^\n]+$") as error:
            construct(Quantize, settings, "q")
        assert message in str(error.value)

    def test_layers_may_have_fewer_bits(self) -> None:
        stage = construct(Quantize, {"scheme": "dynamic", "block": 32, "layers": {"a": 4, "b": 2, "c": 32}}, "q")
        assert stage.layers == {"a": 4, "b": 2, "c": 32}

    def test_inputs_include_calibration_if_needed(self) -> None:
        assert Quantize().inputs() == Quantize(scheme="dynamic").inputs() == {}
        assert Quantize(scheme="int8", calibration_samples=7).inputs() == {"calibration": Calibration(7)}

    def test_preserves_zeros_and_shared_values(self) -> None:
        kinds = ["sparsity", "n_m", "blocks", "codebook"]
        assert all(Quantize(scheme="dynamic", bits=4).preserves(Invariant(kind)) for kind in kinds)
        assert not Quantize().preserves(Invariant("dtype"))
        assert not Quantize(scheme="dynamic", bits=4, block=32).preserves(Invariant("codebook", 16))

    def test_tensorflow_is_needed_for_default_only(self) -> None:
        assert Quantize().computes_with_tensorflow("keras")
        assert not Quantize().computes_with_tensorflow("tflite")
        for scheme in ("float16", "dynamic", "weight_only", "int8", "int16x8"):
            assert not Quantize(scheme=scheme).computes_with_tensorflow("keras")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("lenet5/conv1/Conv2D", ["conv1"]),
        ("net/d_norm/FusedBatchNormV3;net/d/depthwise;net/d/BiasAdd", ["d"]),
        ("net/n/batchnorm/mul_1;net/out/MatMul", ["out"]),
        ("net/inner/dense/MatMul", ["inner", "dense"]),
        ("arith.constant2", []),
        ("conv1", []),
        ("model/dense/Tensordot/MatMul", ["dense"]),
        ("model/Tensordot/MatMul", ["Tensordot"]),
    ],
)
def test_extract_layer_names(name: str, layers: list[str]) -> None:
    assert extract_layer_names(name) == [name, *layers]


class TestPlan:
    @pytest.mark.parametrize(
        ("settings", "descriptions"),
        [
            ({}, ["float32, fewer than 1024 weights", "float32, fewer than 1024 weights", "int8 weights"]),
            ({"scheme": "float16"}, ["float16 weights"] * 3),
            ({"scheme": "int8"}, ["int8 weights"] * 3),
            (
                {"scheme": "dynamic", "bits": 2},
                [
                    "int4 weights, LiteRT cannot compute a 2-bit CONV_2D",
                    "int8 weights, LiteRT cannot compute a 2-bit DepthwiseConv2D",
                    "int2 weights",
                ],
            ),
            (
                {"scheme": "dynamic", "bits": 4, "block": 64, "layers": {"depth*": 32}},
                [
                    "int4 weights, per channel: no blocks of 64 in 8 inputs of a CONV_2D",
                    "float32, as asked",
                    "int4 weights in blocks of 64",
                ],
            ),
        ],
    )
    def test_describe_layers_gives_types_and_reasons(self, settings: dict[str, Any], descriptions: list[str]) -> None:
        actual = dict(Quantize(**settings).describe_layers(LAYERS))
        assert actual.pop("norm1") == "BatchNormalization: folded into its neighbours"
        assert list(actual.values()) == [
            f"{kind}: {description}"
            for kind, description in zip(["Conv2D", "DepthwiseConv2D", "Dense"], descriptions, strict=True)
        ]

    @pytest.mark.parametrize(
        ("layers", "message"),
        [
            ({"nope*": 4}, "'nope*' matches no layer with a kernel. These are: conv1, depth1, dense1"),
            ({"norm1": 4}, "'norm1' matches no layer with a kernel"),
            ({"conv1": 4, "conv*": 8}, "conv1 is given several numbers of bits: {'conv1': 4, 'conv*': 8}"),
        ],
    )
    def test_invalid_patterns_are_refused(self, layers: dict[str, Any], message: str) -> None:
        with pytest.raises(BadInput) as error:
            Quantize(scheme="dynamic", layers=layers).describe_layers(LAYERS)
        assert message in str(error.value)

    def test_kernels_of_a_file_are_its_layers(self, tiny_runs: TinyRuns, tmp_path: Path) -> None:
        from lightexp.runner.preview import preview_plan

        source = tmp_path / "net.tflite"
        source.write_bytes(tiny_runs.get_file(tiny_runs.run("pipeline=control")).read_bytes())
        overrides = ["model=from_file", f"model.path={source}", "pipeline=quantize"]
        overrides += ["pipeline.stages.quantize.scheme=dynamic", "+pipeline.stages.quantize.layers={conv1: 4}"]
        plan, data = tiny_runs.plan(*overrides)
        stages = preview_plan(plan, tiny_runs.compose_settings(*overrides), data)
        assert [description for _, description in stages[-1]] == [
            "CONV_2D: int4 weights",
            "CONV_2D: int8 weights",
            "FULLY_CONNECTED: int8 weights",
        ]


class TestRuns:
    @pytest.mark.parametrize(
        ("settings", "kernels", "io_type"),
        [
            (["scheme=default"], ["FLOAT32", "INT8", "FLOAT32"], "FLOAT32"),
            (["scheme=float16"], ["FLOAT16"] * 3, "FLOAT32"),
            (["scheme=dynamic", "bits=4"], ["INT4"] * 3, "FLOAT32"),
            (["scheme=weight_only", "bits=4"], ["INT4"] * 3, "FLOAT32"),
            (["scheme=int8"], ["INT8"] * 3, "FLOAT32"),
            (["scheme=int8", "io=integer"], ["INT8"] * 3, "INT8"),
            (["scheme=int8", "io=uint8"], ["INT8"] * 3, "UINT8"),
            (["scheme=int16x8", "io=integer", "bits=4"], ["INT4"] * 3, "INT16"),
            (["scheme=int8", "layers={conv*: 4, logits: 32}"], ["INT4", "INT4", "FLOAT32"], "FLOAT32"),
        ],
    )
    def test_file_has_requested_types(
        self, tiny_runs: TinyRuns, settings: list[str], kernels: list[str], io_type: str
    ) -> None:
        at = "pipeline.stages.quantize"
        overrides = [f"+{at}.{item}" if item.startswith("layers") else f"{at}.{item}" for item in settings]
        record = tiny_runs.run("pipeline=quantize", "model.width=1.0", *overrides)
        graph = tiny_runs.read_graph(record)
        assert [kernel.dtype for _, kernel in graph.kernels] == kernels
        assert {graph.tensors[i].dtype for i in (*graph.inputs, *graph.outputs)} == {io_type}
        control, shipped = record.stages[0], record.stages[-1]
        assert list(shipped.facts["kernels"].values()) == kernels
        accuracy = [s.metric("accuracy/val") for s in (control, shipped)]
        assert accuracy[0] == pytest.approx(accuracy[1], abs=0.15)
        assert (shipped.metric("size/file_bytes") or 0) < (control.metric("size/file_bytes") or 0)

    def test_zeros_of_pruning_are_preserved(self, tiny_runs: TinyRuns) -> None:
        overrides = [f"pipeline.stages.quantize.{item}" for item in ("scheme=dynamic", "bits=4", "block=32")]
        record = tiny_runs.run("pipeline=prune_quantize", *overrides)
        assert record.metrics["model/sparsity"] >= 0.79
        assert "INT4 in blocks of 32" in record.stages[-1].facts["kernels"].values()
        assert any(tensor.block == 32 for tensor in tiny_runs.read_graph(record).tensors)

    def test_calibration_is_shared_by_schemes(self, tiny_runs: TinyRuns) -> None:
        at = "pipeline.stages.quantize"
        plans = [tiny_runs.plan("pipeline=quantize", f"{at}.scheme={s}")[0].nodes for s in ("int8", "int16x8")]
        ranges = plans[0][-1].inputs["calibration"]
        assert ranges.key == plans[1][-1].inputs["calibration"].key
        assert ranges.inputs == {"parent": plans[0][0]}
        assert not any(node.needs_tensorflow for node in (plans[0][-1], ranges))
        fewer = tiny_runs.plan("pipeline=quantize", f"{at}.scheme=int8", f"{at}.calibration_samples=5")[0].nodes[-1]
        assert fewer.inputs["calibration"].key != ranges.key


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Return the context of a stage that starts from the float file of the tiny model `conv`."""
    (tmp_path / "out").mkdir()
    with SilentReporter().stage("w", 1, 1) as progress:
        return Context(tiny_models.make_data("conv"), SmallCnn(), 0, 1, tmp_path / "out", progress)


def make_parent(folder: Path, *values: tuple[int, float]) -> Artifact:
    """Return the tiny model `conv` as an artifact, with the first weight of given kernels replaced."""
    path = folder / TFLITE
    path.write_bytes(tiny_models.make_tflite("conv"))
    tree = flatbuffer_utils.read_model(str(path))
    kernels = flatbuffer.read_graph(path).kernels
    for number, value in values:
        index = next(i for i, t in enumerate(flatbuffer.read_graph(path).tensors) if t.name == kernels[number][1].name)
        buffer = tree.buffers[tree.subgraphs[0].tensors[index].buffer]
        weights = np.frombuffer(bytes(buffer.data), "<f4").copy()
        weights[0] = value
        buffer.data = weights.view(np.uint8)
    path.write_bytes(bytes(flatbuffer_utils.convert_object_to_bytearray(tree)))
    return Artifact("tflite", folder, {}, "k")


def read_result(context: Context) -> TFLiteGraph:
    return flatbuffer.read_graph(context.out / TFLITE)


class TestApply:
    def test_facts_list_deviations(self, context: Context, tmp_path: Path) -> None:
        facts = Quantize(scheme="dynamic", bits=2).apply(make_parent(tmp_path), context)
        assert list(facts["kernels"].values()) == ["INT4", "INT8", "INT2"]
        assert [reason[-15:] for reason in facts["reasons"].values()] == [
            "a 2-bit CONV_2D",
            "-bit TRANSPOSE_CONV"[-15:],
        ]
        assert facts["float"] == []
        assert facts["note"].startswith("not as asked: conv2d (LiteRT cannot compute a 2-bit CONV_2D), ")
        assert [kernel.dtype for _, kernel in read_result(context).kernels] == ["INT4", "INT8", "INT2"]
        volume = Layer("volume", "Conv3D", (2, 2, 2, 2, 3), 51)
        description = dict(Quantize(scheme="dynamic").describe_layers([volume]))["volume"]
        assert description == "Conv3D: float32, no CONV_3D is quantised after training"

    def test_facts_list_float_operators(self, context: Context, tmp_path: Path) -> None:
        parent = make_parent(tmp_path)
        (tmp_path / "ranges").mkdir()
        context.out, out = tmp_path / "ranges", context.out
        assert Calibration(10).apply(parent, context) == {"samples": 10}
        context.out, context.inputs = out, {"calibration": Artifact("keras", tmp_path / "ranges", {}, "r")}
        layers = {
            extract_layer_names(kernel.name)[-1]: 32
            for op, kernel in flatbuffer.read_graph(parent.tflite).kernels
            if op.kind == "CONV_2D"
        }
        facts = Quantize(scheme="int8", layers=layers).apply(parent, context)  # type: ignore[arg-type]
        assert [entry.split()[0] for entry in facts["float"]] == ["CONV_2D"]
        assert facts["note"].startswith("in float: CONV_2D '")

    def test_pattern_without_match_is_refused(self, context: Context, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"'nope' matches no layer with a kernel\. These are: conv2d"):
            Quantize(scheme="dynamic", layers={"nope": 4}).apply(make_parent(tmp_path), context)

    def test_calibration_without_examples_is_refused(self, context: Context, tmp_path: Path) -> None:
        empty = Split(context.data.train.x[:0], context.data.train.y[:0])
        context.data = Data("d", empty, context.data.val, context.data.test, 4)
        with pytest.raises(BadInput, match="no example to calibrate on"):
            Calibration().apply(make_parent(tmp_path), context)

    def test_calibration_ranges_are_of_scaled_inputs(self, context: Context, tmp_path: Path) -> None:
        parent = make_parent(tmp_path)
        Calibration(20).apply(parent, context)
        ranges = np.load(context.out / RANGES_FILE)
        inputs = context.data.inputs(context.data.train.sample(20))
        graph = flatbuffer.read_graph(parent.tflite)
        np.testing.assert_array_equal(ranges[graph.inputs[0]], [inputs.min(), inputs.max()])

    def test_unexpected_kernel_type_is_refused(
        self, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """litert-quantizer silently skips operators that its policy does not support."""
        from lightexp.stages import quantize

        monkeypatch.setitem(quantize.NARROW_OPERATORS, 4, ("FULLY_CONNECTED", "CONV_2D", "TRANSPOSE_CONV"))
        with pytest.raises((RunFailed, BadInput), match=r"CONV_2D_TRANSPOSE|TRANSPOSE_CONV") as error:
            Quantize(scheme="dynamic", bits=4).apply(make_parent(tmp_path), context)
        assert "\n" not in str(error.value)

    def test_file_that_litert_cannot_run_is_refused(self, context: Context, tmp_path: Path) -> None:
        class Unsupported(Quantize):
            def choose_format(self, names: list[str], operator: str, *sizes: Any) -> KernelFormat:
                return KernelFormat("INT2", 32) if operator == "FULLY_CONNECTED" else KernelFormat("FLOAT32")

        with pytest.raises(BadInput, match=r"^scheme=dynamic: LiteRT cannot run the result: [^\n]*block[^\n]*$"):
            Unsupported(scheme="dynamic").apply(make_parent(tmp_path), context)

    def test_verify_finds_other_types(self, tmp_path: Path) -> None:
        graph = flatbuffer.read_graph(make_parent(tmp_path).tflite)
        facts = {"kernels": {kernel.name: "INT8" for _, kernel in graph.kernels}}
        assert "is FLOAT32, was to be INT8" in (Quantize(scheme="dynamic").verify("dtype", facts, graph) or "")
        facts = {"kernels": {kernel.name: "FLOAT32" for _, kernel in graph.kernels}}
        assert Quantize(scheme="dynamic").verify("dtype", facts, graph) is None
        message = Quantize(scheme="int8", io="integer").verify("dtype", facts, graph)
        assert message == "inputs and outputs are ['FLOAT32'], were to be INT8"

    @pytest.mark.parametrize("scheme", ["default", "dynamic"])
    def test_shared_and_separable_layers_match_by_name(
        self, tensorflow: None, scheme: str, context: Context, tmp_path: Path
    ) -> None:
        """The converter names the kernels of both in another way than those of other layers."""
        from lightexp.backend import keras_files
        from lightexp.backend.session import import_keras, reset_graph

        reset_graph(0)
        kl = import_keras().layers
        inputs, shared = kl.Input((8, 8, 3)), kl.Conv2D(3, 3, padding="same", name="twice")
        x = kl.SeparableConv2D(12, 3, name="split")(shared(shared(inputs)))
        keras_files.save_model(import_keras().Model(inputs, kl.Dense(4, name="out")(kl.Flatten()(x))), tmp_path)
        parent = Artifact("keras", tmp_path, {}, "k")
        if scheme == "default":
            Quantize().apply(parent, context)
            assert [k.dtype for _, k in read_result(context).kernels] == ["FLOAT32"] * 4 + ["INT8"]
        else:
            Quantize(scheme="dynamic", bits=4, layers={"twice": 32, "split": 8}).apply(parent, context)
            assert [k.dtype for _, k in read_result(context).kernels] == ["FLOAT32"] * 2 + ["INT8"] * 2 + ["INT4"]

    def test_result_does_not_depend_on_earlier_calls(self, context: Context, tmp_path: Path) -> None:
        parent, dynamic = make_parent(tmp_path), Quantize(scheme="dynamic", bits=4)
        contents = []
        for stage in (dynamic, Quantize(scheme="float16"), dynamic):
            stage.apply(parent, context)
            contents.append((context.out / TFLITE).read_bytes())
        assert contents[0] == contents[2] != contents[1]
