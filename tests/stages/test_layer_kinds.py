"""Contract of stages and kinds of layers: what a plan says of a layer is true of the file that ships.

`experiments/layer_support.py` runs every stage on every kind and writes the guide; here each kind goes through the
stages that change weights, all kinds of one sort of data in one net.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend.flatbuffer import read_graph
from lightexp.core.errors import BadInput
from lightexp.core.patterns import count_distinct_values, measure_kernels, read_kernel
from lightexp.core.tflite_graph import TFLiteGraph, extract_layer_names
from lightexp.runner.compose import compose_settings
from lightexp.runner.preview import preview_plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner

GUIDE = Path(__file__).resolve().parents[2] / "lightexp/guides/layers.md"
PROGRAM = Path(__file__).resolve().parents[2] / "experiments/layer_support.py"
STAGES = {"prune": [], "cluster": ["k=6"], "qat": [], "quantize": ["scheme=dynamic"]}
LEFT_OUT = (
    *("Normalization", "PReLU", "LayerNormalization", "UpSampling2D"),
    *("GRU", "GRU, reset_after=False", "SimpleRNN", "Bidirectional", "SeparableConv1D", "Rescaling by channel"),
)
"""Kinds that the program runs, and the tests do not, to save time."""


@pytest.fixture(scope="module")
def table(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the program's table, whose nets and data are in a folder."""
    spec = importlib.util.spec_from_file_location("layer_support", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["layer_support"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module.SupportTable(tmp_path_factory.mktemp("layers"))
    del sys.modules["layer_support"]


def run(table: Any, sort: str, *stages: str, scaled: bool = False) -> tuple[Any, list[dict[str, str]], TFLiteGraph]:
    """Run stages on the net of all kinds; return the facts and what the plan says of each stage, and the file."""
    file = table.folder / f"all_{sort}.keras"
    if not file.exists():
        kinds = [kind for kind in table.kinds[sort] if kind not in LEFT_OUT]
        table.write_net(sort, kinds).rename(file)
    overrides = [text for text in table.list_overrides("prune", sort, file) if "pipeline" not in text]
    overrides += ["pipeline=control", "~stage@pipeline.stages.train", f"pipeline.order=[{','.join(stages)}]"]
    for stage in stages:
        overrides.append(f"+stage@pipeline.stages.{stage}={stage}")
        small = [] if stage == "quantize" else ["epochs=1", "batch_size=16"]
        overrides += [f"pipeline.stages.{stage}.{value}" for value in (*small, *STAGES[stage])]
    if scaled:
        overrides.append("dataset.scaling.range=null")
    settings, runner = compose_settings(overrides), Runner(SilentReporter())
    plan, data = runner.plan(settings)
    described = [dict(pairs) for pairs in preview_plan(plan, settings, data)]
    record = runner.run(settings, overrides)
    return record, described, read_graph(table.folder / "outputs/runs" / record.id / "model.tflite")


@pytest.mark.parametrize(
    ("sort", "stages", "pruned"),
    [
        ("image", ["prune", "qat"], 9),
        ("series", ["prune", "qat"], 5),
        ("tokens", ["prune", "cluster", "quantize"], 3),
    ],
)
def test_file_holds_what_plan_says_of_layers(table: Any, sort: str, stages: list[str], pruned: int) -> None:
    record, described, graph = run(table, sort, *stages)
    facts = record.stages[1].facts
    assert set(facts["zeros"]) == {name for name, text in described[1].items() if "sparsity 0.8" in text}
    assert len(facts["zeros"]) == pruned
    for name, zeros in facts["zeros"].items():
        assert zeros == pytest.approx(0.8 * facts["sizes"][name], abs=1), name
    kernels = measure_kernels(graph, lambda kernel: float(np.mean(read_kernel(kernel) == 0)))
    assert {round(zeros, 1) for _, size, zeros in kernels if size > 40} == {0.8}
    for op, kernel in graph.kernels:
        if op.kind != "DEPTHWISE_CONV_2D" and "cluster" in stages:
            assert count_distinct_values(read_kernel(kernel), per_channel=True) <= 6
    floats = {name for name, text in described[-1].items() if ": float32" in text}
    expected = {
        "image": {"conv2d_dilated", "depthwiseconv2d_dilated", "dense_on_a_feature_map"},
        "series": {"lstm"},
        "tokens": {"embedding"},
    }[sort]
    assert floats >= expected
    assert all(name in record.stages[-1].facts.get("note", "") for name in floats)
    for op, kernel in graph.kernels:
        names = [name.removeprefix("quant_") for name in extract_layer_names(graph.title(op, kernel))]
        assert (kernel.dtype == "FLOAT32") == (not floats.isdisjoint(names)), names


def test_recurrent_nets_are_teacher_and_student(table: Any) -> None:
    teacher, student = (table.write_net("series", kinds) for kinds in (["LSTM", "Conv1D"], ["GRU, reset_after=False"]))
    overrides = table.list_overrides("distill", "series", teacher)
    overrides.append(f"pipeline.stages.it.student.path={student}")
    record = Runner(SilentReporter()).run(compose_settings(overrides), overrides)
    assert len(record.stages[-1].facts["history"]["loss"]) == 1
    graph = read_graph(table.folder / "outputs/runs" / record.id / "model.tflite")
    names = {name for op, kernel in graph.kernels for name in extract_layer_names(graph.title(op, kernel))}
    assert any("gru" in name for name in names)
    assert not any("lstm" in name or "conv1d" in name for name in names)


def test_plan_names_kernel_that_is_left_alone(table: Any) -> None:
    file = table.write_net("series", ["GRU, reset_after=False"])
    settings, runner = compose_settings(table.list_overrides("prune", "series", file)), Runner(SilentReporter())
    plan, data = runner.plan(settings)
    described = dict(preview_plan(plan, settings, data)[-1])
    assert described["gru_reset_after_false.kernel"].endswith("sparsity 0.8")
    reason = "GRU: left alone, the file holds it in two pieces"
    assert described["gru_reset_after_false.recurrent_kernel"] == reason


def test_embedding_needs_whole_numbers(table: Any) -> None:
    with pytest.raises(BadInput, match=r"embedding looks rows up .* Set dataset.scaling.range=\[0,255\]"):
        run(table, "tokens", "prune", scaled=True)


def test_guide_has_every_kind(table: Any) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    for kinds in table.kinds.values():
        for kind in kinds:
            assert f"| {kind} |" in text
    assert "**fails**" not in text
