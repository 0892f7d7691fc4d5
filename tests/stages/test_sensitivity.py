"""`sensitivity` in real runs: its table against files made another way, and what is taken from it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightexp.backend import edge_quantizer, flatbuffer, keras_files, litert
from lightexp.backend.converter import convert_to_float32
from lightexp.cli.terminal import Terminal
from lightexp.core.data import Split
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Artifact, Context, Invariant
from lightexp.core.record import Record
from lightexp.core.sensitivity import SensitivityTable, allocate, round_kernel
from lightexp.core.store import Store
from lightexp.core.tflite_graph import Operator
from lightexp.runner.compose import compose_settings
from lightexp.runner.order import check_order
from lightexp.runner.preview import preview_plan
from lightexp.runner.progress import _NoProgress
from lightexp.stages.sensitivity import Sensitivity
from tests.tiny_runs import TinyRuns

FEW = [f"pipeline.stages.sensitivity.{name}" for name in ("sparsities=[0.5,0.9]", "ranks=[0.5]", "bits=[8,4,2]")]
ADDED = ["+stage@pipeline.stages.sensitivity=sensitivity", *FEW]
NET = [  # no batch normalisation, which the file folds into its kernels; and it has learnt something after one epoch
    "model=tutorial_cnn",
    *(f"pipeline.stages.train.{words}" for words in ("learning_rate=0.01", "batch_size=4")),
]
ORDER = "pipeline.order=[train,sensitivity,quantize]"
BY_BITS = ["pipeline=quantize", *ADDED, ORDER, "pipeline.stages.quantize.scheme=dynamic"]


@pytest.fixture(scope="module")
def record(tiny_runs: TinyRuns) -> Record:
    return tiny_runs.run("pipeline=control", *NET, *ADDED, "pipeline.order=[train,sensitivity]")


@pytest.fixture(scope="module")
def parent(tiny_runs: TinyRuns, record: Record) -> Path:
    return Store(tiny_runs.outputs / "store").folder(record.stages[0].key)


def table(record: Record) -> SensitivityTable:
    found = SensitivityTable.of(record.stages[1].facts)
    assert found
    return found


def accuracy(runs: TinyRuns, file: Path) -> float:
    data = runs.plan()[1]
    return float(np.mean(litert.compute_logits(file, data.val.x, data, 1).argmax(1) == data.val.y))


def test_it_changes_nothing_and_says_how_good_the_model_is(tiny_runs: TinyRuns, record: Record, parent: Path) -> None:
    before, after = record.stages
    assert record.control == "train"
    assert {f.name: f.value for f in after.metrics} == {f.name: f.value for f in before.metrics}
    assert tiny_runs.file(record).read_bytes() == (parent / "model.tflite").read_bytes()
    assert table(record).accuracy == before.metric("accuracy/val")
    assert table(record).examples == 32
    assert list(table(record).layers) == ["conv", "logits"]
    assert Sensitivity().preserves(Invariant("sparsity", 0.9))


@pytest.mark.parametrize("name", ["conv", "logits"])
def test_a_pruned_layer_costs_what_a_keras_model_pruned_so_costs(
    name: str, tiny_runs: TinyRuns, record: Record, parent: Path, tmp_path: Path
) -> None:
    model = keras_files.load_model(parent)
    layer = model.get_layer(name)
    kernel, *bias = layer.get_weights()
    threshold = np.quantile(np.abs(kernel), 0.9)
    layer.set_weights([np.where(np.abs(kernel) < threshold, 0, kernel), *bias])
    (tmp_path / "pruned.tflite").write_bytes(convert_to_float32(model))
    found = table(record).row([name]).levels["sparsity"][0.9]
    assert found == accuracy(tiny_runs, tmp_path / "pruned.tflite")
    assert found < table(record).accuracy  # else it would say nothing


@pytest.mark.parametrize("bits", [8, 4])
def test_a_rounded_layer_costs_what_the_quantiser_s_costs(
    bits: int, tiny_runs: TinyRuns, record: Record, parent: Path, tmp_path: Path
) -> None:
    source, file = parent / "model.tflite", tmp_path / "quantized.tflite"
    nothing = np.empty(0, np.float32)
    content = edge_quantizer.quantize(source, nothing, "weight_only", 8, [(bits, 0), (32, 0)], integer_io=False)
    file.write_bytes(content.tobytes())
    assert table(record).row(["conv"]).levels["bits"][bits] == accuracy(tiny_runs, file)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.usefixtures("tensorflow")
def test_rounded_weights_are_the_quantiser_s(bits: int, parent: Path, tmp_path: Path) -> None:
    source, file = parent / "model.tflite", tmp_path / "quantized.tflite"
    kernels = [(max(bits, 4), 0), (bits, 0)]
    content = edge_quantizer.quantize(source, np.empty(0, np.float32), "dynamic", 8, kernels, integer_io=False)
    file.write_bytes(content.tobytes())
    pairs = zip(flatbuffer.read_graph(source).kernels, flatbuffer.read_graph(file).kernels, kernels, strict=True)
    for (_, kernel), (_, stored), (wide, _) in pairs:
        scales = np.reshape(np.float32(stored.scales), (-1, *[1] * (kernel.data.ndim - 1)))
        assert round_kernel(np.asarray(kernel.data), wide, 0) == pytest.approx(stored.data * scales, rel=1e-6, abs=0)


@pytest.mark.parametrize(("kind", "channel"), [("CONV_2D", 0), ("DEPTHWISE_CONV_2D", 3)])
def test_weights_are_rounded_channel_by_channel(kind: str, channel: int) -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    trials = Sensitivity()._trials(Operator(kind, (), ()))
    assert {of for of, *_ in trials} == ({"bits"} if channel else {"sparsity", "rank", "bits"})
    changed = next(change for of, bits, change in trials if (of, bits) == ("bits", 4))
    for before, after in zip(np.moveaxis(kernel, channel, 0), np.moveaxis(changed(kernel), channel, 0), strict=True):
        assert np.abs(after).max() == pytest.approx(np.abs(before).max())
        assert len(np.unique(after)) <= 15


def test_a_constant_is_replaced_and_nothing_else(parent: Path, tmp_path: Path) -> None:
    content = (parent / "model.tflite").read_bytes()
    source = flatbuffer.read_graph(parent / "model.tflite")
    index = next(i for i, t in enumerate(source.tensors) if t is source.kernels[0][1])
    values = np.arange(source.tensors[index].data.size, dtype=np.float32)
    (tmp_path / "other.tflite").write_bytes(flatbuffer.replace_constant(content, index, values))
    for old, new in zip(source.tensors, flatbuffer.read_graph(tmp_path / "other.tflite").tensors, strict=True):
        assert old.name == new.name
        expected = values.reshape(old.shape) if old is source.tensors[index] else old.data
        assert (old.data is None and new.data is None) or np.array_equal(expected, new.data)
    with pytest.raises(ValueError, match="cannot replace"):
        flatbuffer.replace_constant(content, index, values[1:])


def test_the_run_s_folder_has_the_table_and_the_heat_map(tiny_runs: TinyRuns, record: Record) -> None:
    folder = tiny_runs.file(record).parent
    lines = list(csv.DictReader((folder / record.files["sensitivity"]).read_text().splitlines()))
    assert len(lines) == 2 * 6
    found = table(record)
    assert all(
        float(line["accuracy/val"]) == found.row([line["layer"]]).levels[line["kind"]][float(line["level"])]
        and float(line["change"]) == float(line["accuracy/val"]) - found.accuracy
        for line in lines
    )
    assert b"<svg" in (folder / record.files["heat map"]).read_bytes()


def test_the_terminal_shows_the_table(tiny_runs: TinyRuns, record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.record(record, tiny_runs.outputs)
    terminal.close()
    shown = capsys.readouterr().out
    found = table(record).row(["conv"]).levels
    assert "0.5 zeros" in shown
    assert f"{found['rank'][0.5]:.2%}" in shown
    line = next(line for line in shown[shown.index("8 bits") :].splitlines() if "conv" in line)
    assert line.split() == ["conv", *(f"{found['bits'][bits]:.2%}" for bits in (8, 4, 2))]


def test_prune_shares_its_sparsity_out_by_the_table(tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run("pipeline=sensitivity_prune", *NET, *FEW)
    facts, found = record.stages[-1].facts, table(record)
    sizes = {name: float(size) for name, size in facts["sizes"].items()}
    assert sizes == {name: row.weights for name, row in found.layers.items()}
    wanted = allocate({name: found.costs([name], "sparsity") for name in sizes}, sizes, 0.8)
    for name, zeros in facts["zeros"].items():
        assert zeros == pytest.approx(wanted[name] * sizes[name], abs=1.5)
    assert wanted["conv"] < 0.8 < wanted["logits"]
    assert record.metrics["model/sparsity"] == pytest.approx(0.8, abs=0.005)
    alone = tiny_runs.run("pipeline=sensitivity_prune", *NET, *FEW, "+pipeline.stages.prune.layers={conv: 0.5}")
    assert alone.stages[-1].facts["zeros"]["conv"] == sizes["conv"] / 2
    assert alone.stages[-1].facts["zeros"]["logits"] == pytest.approx(0.8 * sizes["logits"], abs=1.5)


@pytest.mark.parametrize("method", ["factorize", "prune_channels"])
def test_other_stages_share_their_ratio_out_by_it(tiny_runs: TinyRuns, method: str) -> None:
    """Their plan shows what it comes to as soon as there is a table."""
    words = [f"pipeline={method}", "model=lenet_300_100", *ADDED, f"pipeline.stages.{method}.allocation=sensitivity"]
    words += [f"pipeline.order=[train,sensitivity,{method}]", "pipeline.stages.sensitivity.ranks=[0.05]"]

    def planned(*more: str) -> str:
        plan, data = tiny_runs.plan(*words, *more)
        return dict(preview_plan(plan, tiny_runs.settings(*words, *more), data)[1][-1])["dense1"]

    assert "by the table of sensitivity" in planned("seed=7")
    record = tiny_runs.run(*words)
    facts, found = record.stages[-1].facts, table(record)
    if method == "factorize":
        sizes = {name: float(row.weights) for name, row in found.layers.items()}
        left = 1 - allocate({n: found.costs([n], "rank") for n in sizes}, sizes, 0.6)["dense1"]
        assert facts["ranks"]["dense1"][1] == round(left * 64) != round(0.4 * 64)
        assert f"rank {facts['ranks']['dense1'][1]} of 64" in planned()
    else:
        sizes = {"dense1": 150.0, "dense2": 50.0}
        left = 1 - allocate({n: found.costs([n], "sparsity") for n in sizes}, sizes, 0.5)["dense1"]
        assert abs(facts["channels"]["dense1"][1] - left * 150) <= 4 < abs(left - 0.5) * 150  # a multiple of 8
        assert f"{facts['channels']['dense1'][1]} of 150 channels stay" in planned()


def test_quantize_gives_each_layer_the_bits_that_it_bears(tiny_runs: TinyRuns) -> None:
    def run(*words: str) -> tuple[Record, dict[str, str]]:
        record = tiny_runs.run(*BY_BITS, *NET, *words)
        return record, {name.split("/")[-2]: kind for name, kind in record.stages[-1].facts["kernels"].items()}

    found = table(run("pipeline.stages.quantize.tolerance=100")[0])
    drops = {name: {b: found.accuracy - a for b, a in row.levels["bits"].items()} for name, row in found.layers.items()}
    assert max(drops["conv"][2], drops["logits"][2]) > 0  # else there is nothing to choose
    for tolerance in (0.0, 5.0, 100.0):
        kinds = run(f"pipeline.stages.quantize.tolerance={tolerance}")[1]
        for name, kind in kinds.items():
            among = [b for b in (2, 4, 8) if all(drops[name][c] <= tolerance / 100 for c in (8, 4, 2) if c >= b)]
            fewest = min(among, default=32)
            fewest = 4 if fewest == 2 and name == "conv" else fewest  # LiteRT gets 2-bit convolutions wrong
            assert kind == ("FLOAT32" if fewest == 32 else f"INT{fewest}"), (name, tolerance)
    _, kinds = run("pipeline.stages.quantize.tolerance=100", "+pipeline.stages.quantize.layers={logits: 8}")
    assert kinds == {"conv": "INT4", "logits": "INT8"}


def test_a_file_of_others_is_tried_and_quantised_by_the_table(
    tiny_runs: TinyRuns, record: Record, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.tflite"
    path.write_bytes(tiny_runs.file(record).read_bytes())
    tolerance = "pipeline.stages.quantize.tolerance=100"
    theirs = tiny_runs.run("model=from_file", f"model.path={path}", *BY_BITS, tolerance)
    assert [stage.name for stage in theirs.stages] == ["file", "sensitivity", "quantize"]
    assert theirs.stages[1].facts == record.stages[1].facts
    assert sorted(theirs.stages[-1].facts["kernels"].values()) == ["INT2", "INT4"]


def test_what_is_taken_from_the_table_is_in_the_key(tiny_runs: TinyRuns) -> None:
    words = ["pipeline=sensitivity_prune", "+stage@pipeline.stages.quantize=quantize"]
    words += ["pipeline.stages.quantize.scheme=dynamic", "pipeline.stages.quantize.tolerance=1"]
    words += ["pipeline.order=[train,sensitivity,prune,quantize]"]
    plan, _ = tiny_runs.plan(*words)
    assert plan.control.name == "train"
    tested, prune, quantize = plan.nodes[1:]
    assert prune.inputs["sensitivity"] is prune.inputs["parent"] is tested
    assert quantize.inputs["sensitivity"] is tested is not quantize.inputs["parent"]
    other, _ = tiny_runs.plan(*words, "pipeline.stages.sensitivity.examples=20")
    assert all(a.key != b.key for a, b in zip(plan.nodes[1:], other.nodes[1:], strict=True))
    two = ["+stage@pipeline.stages.second=sensitivity", "pipeline.order=[train,sensitivity,prune,second,quantize]"]
    plan, _ = tiny_runs.plan(*words, *two)
    assert plan.nodes[-1].inputs["sensitivity"].name == "second"  # the last that comes before


@pytest.mark.parametrize("between", ["distill", "prune_channels"])
def test_a_table_of_other_layers_is_refused(between: str, tiny_runs: TinyRuns) -> None:
    words = ["pipeline=sensitivity_prune", f"+stage@pipeline.stages.other={between}"]
    with pytest.raises(BadInput, match=r"'other' makes them other layers\. Put 'sensitivity' behind 'other'"):
        tiny_runs.plan(*words, "pipeline.order=[train,sensitivity,other,prune]")
    tiny_runs.plan(*words, "pipeline.order=[train,other,sensitivity,prune]")


def test_without_a_table_it_is_refused_before_anything_else() -> None:
    order = r"'pipeline.order=\[train,sensitivity,prune\]'"
    added = r"\+stage@pipeline.stages.sensitivity=sensitivity "
    with pytest.raises(BadInput, match=f"'prune' takes .* none comes before it.*: {added}{order}"):
        check_order(compose_settings(["pipeline=prune", "pipeline.stages.prune.allocation=sensitivity"]))
    with pytest.raises(BadInput, match=f"Put one there: {order}"):
        check_order(compose_settings(["pipeline=sensitivity_prune", "pipeline.order=[train,prune,sensitivity]"]))
    quantize = compose_settings(
        ["pipeline=quantize", *(f"pipeline.stages.quantize.{w}" for w in ("tolerance=1", "scheme=int8"))]
    )
    with pytest.raises(BadInput, match="'quantize' takes"):
        check_order(quantize)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pipeline=quantize", "pipeline.stages.quantize.tolerance=1"], "tolerance need scheme=dynamic"),
        ([*BY_BITS, "pipeline.stages.quantize.tolerance=1", "pipeline.stages.quantize.bits=4"], "leave out bits"),
        ([*BY_BITS, "pipeline.stages.quantize.tolerance=-1"], "tolerance: Input should be greater"),
        (["pipeline=sensitivity_prune", "pipeline.stages.sensitivity.sparsities=[]"], "sparsities: List should have"),
        (["pipeline=sensitivity_prune", "pipeline.stages.sensitivity.sparsities=[1.0]"], "less than 1"),
        (["pipeline=sensitivity_prune", "pipeline.stages.sensitivity.ranks=[0.0]"], "greater than 0"),
        (["pipeline=sensitivity_prune", "pipeline.stages.sensitivity.bits=[3]"], "should be 2, 4 or 8"),
        (["pipeline=sensitivity_prune", "pipeline.stages.sensitivity.examples=0"], "greater than or equal to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(words: list[str], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        compose_settings(words)


class TestApply:
    """The stage alone, on the trained model."""

    @staticmethod
    def apply(runs: TinyRuns, folder: Path, out: Path, val: Split | None = None, **values: Any) -> dict[str, Any]:
        planned, data = runs.plan(*NET)
        if val is not None:
            data = type(data)(data.name, data.train, val, data.test, data.classes, data.scale)
        out.mkdir()
        parent = Artifact("keras", folder, {}, "key")
        context = Context(data, planned.nodes[0].model, 0, 1, out, _NoProgress())  # type: ignore[arg-type]
        return Sensitivity(sparsities=[0.5], ranks=[0.5], bits=[8], **values).apply(parent, context)

    def test_it_can_take_fewer_examples(self, tiny_runs: TinyRuns, parent: Path, tmp_path: Path) -> None:
        facts = self.apply(tiny_runs, parent, tmp_path / "out", examples=20)
        assert facts["sensitivity"]["examples"] == 20
        assert (facts["sensitivity"]["accuracy"] * 20) % 1 == pytest.approx(0, abs=1e-9)
        assert {p.name for p in (tmp_path / "out").iterdir()} == {"model.tflite", "architecture.json", "weights.npz"}

    def test_no_examples_are_refused(self, tiny_runs: TinyRuns, parent: Path, tmp_path: Path) -> None:
        empty = Split(np.empty((0, 8, 8, 1), np.uint8), np.empty(0, np.int32))
        with pytest.raises(BadInput, match="the validation split is empty"):
            self.apply(tiny_runs, parent, tmp_path / "out", val=empty)

    def test_weights_that_are_not_finite_are_refused(self, tiny_runs: TinyRuns, parent: Path, tmp_path: Path) -> None:
        model = keras_files.load_model(parent)
        weights = [w * np.nan for w in model.get_weights()]
        model.set_weights(weights)
        (tmp_path / "nan").mkdir()
        keras_files.save_model(model, tmp_path / "nan")
        with pytest.raises(BadInput, match="not finite"):
            self.apply(tiny_runs, tmp_path / "nan", tmp_path / "out")
