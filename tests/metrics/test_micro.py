"""Tests of TFLite Micro; each test that runs a file needs the package tflite-micro."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from lightexp.backend import edge_quantizer, litert, micro, sandbox
from lightexp.backend.flatbuffer import read_graph
from lightexp.core.errors import BadInput
from lightexp.core.memory_plan import find_peak, plan_memory
from lightexp.core.protocols import MeasurementContext, Metric, Note
from lightexp.metrics.micro import Board, Micro, explain_misfit
from tests.core.test_memory_plan import make_graph
from tests.metrics import tiny_models

needs_micro = pytest.mark.skipif(
    micro.find_unavailable_reason() is not None, reason=micro.find_unavailable_reason() or ""
)
BOARDS: dict[str, Board] = {
    "roomy": {"flash": 1024, "ram": 256, "flash_taken": 96, "ram_taken": 16},
    "tiny": {"flash": 100, "ram": 17, "flash_taken": 98, "ram_taken": 16},
}


def measure(path: Path) -> tuple[dict[str, Metric], dict[str, str]]:
    """Return metrics and notes by name."""
    results = Micro(BOARDS).measure(MeasurementContext(path, path, tiny_models.make_data("conv"), 1))
    metrics = {metric.name: metric for metric in results if isinstance(metric, Metric)}
    return metrics, {note.name: note.text for note in results if isinstance(note, Note)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.tflite"


@needs_micro
@pytest.mark.parametrize(("net", "scheme"), [("conv", "float"), ("dense", "int8"), ("depthwise", "int16x8")])
def test_arena_is_the_smallest_that_runs(net: str, scheme: str, path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite(net, scheme))
    metrics, notes = measure(path)
    values = {name: metric.value for name, metric in metrics.items()}
    smallest = int(values["micro/arena_bytes"])
    counted = values["micro/arena_head_bytes"] + values["micro/arena_tail_bytes"]
    assert (values["micro/runs"], metrics["micro/runs"].direction) == (1, "max")
    assert (metrics["micro/arena_bytes"].unit, metrics["micro/arena_bytes"].direction) == ("bytes", "min")
    assert smallest >= counted > 0
    assert (smallest - counted) % 64 == 0
    empty = np.empty(0, np.float32)
    sandbox.run_sandboxed("run_in_arena", path, empty, arena=smallest)
    with pytest.raises(BadInput, match=r"^[^\n]+$"):
        sandbox.run_sandboxed("run_in_arena", path, empty, arena=smallest - 64)
    assert values["fits/roomy"] == 1
    assert values["fits/tiny"] == 0
    assert set(notes) == {"fits/tiny"}


@needs_micro
def test_arena_exceeds_head_plus_tail(path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("dense", "int8"))
    arena = micro.measure_arena(path)
    assert arena.minimum > arena.head + arena.tail


@needs_micro
@pytest.mark.parametrize(
    ("net", "scheme", "reason"),
    [("conv", "float16", "DEQUANTIZE"), ("volume", "float", "Didn't find op for builtin opcode 'CONV_3D'")],
)
def test_unsupported_file_gives_reason(net: str, scheme: str, reason: str, path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite(net, scheme))
    metrics, notes = measure(path)
    assert {name: metric.value for name, metric in metrics.items()} == {
        "micro/runs": 0,
        "fits/roomy": 0,
        "fits/tiny": 0,
    }
    assert reason in notes["micro/runs"]
    assert notes["fits/roomy"] == notes["fits/tiny"] == "it does not run on TFLite Micro"
    assert not any("\n" in message or ".cc" in message for message in notes.values())


@needs_micro
@pytest.mark.parametrize(
    ("scheme", "bits", "note"),
    [
        ("int8", 4, "layers={LAYER: 8} of the stage that quantises keeps it at 8 bits"),
        ("dynamic", 8, "It needs 8-bit weights with 8-bit activations: quantize.scheme=int8"),
    ],
)
def test_refused_layer_is_named(scheme: str, bits: int, note: str, path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite("dense"))
    data = tiny_models.make_data("dense")
    ranges = litert.collect_ranges(path, data.inputs(data.train.x), 1)
    path.write_bytes(edge_quantizer.quantize(path, ranges, scheme, 8, [(bits, 0), (8, 0)], "float").tobytes())
    reason = measure(path)[1]["micro/runs"]
    graph = read_graph(path)
    layer = graph.name_layer(next(op for op in graph.ops if op.kind == "FULLY_CONNECTED"))
    assert reason.startswith(f"TFLite Micro refuses layer '{layer}' (FULLY_CONNECTED): ")
    assert reason.endswith(note.replace("LAYER", layer))
    assert layer.startswith("dense")


@needs_micro
def test_crash_of_interpreter_is_a_note(path: Path) -> None:
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.make_tflite("dense")))
    first = model.subgraphs[0].operators[0]
    first.inputs = [1_000_000, *first.inputs[1:]]  # a tensor that does not exist, which TFLite Micro does not check
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    metrics, notes = measure(path)
    assert metrics["micro/runs"].value == 0
    assert "killed the process that read it (SIG" in notes["micro/runs"]
    path.write_bytes(tiny_models.make_tflite("dense"))
    assert measure(path)[0]["micro/runs"].value == 1  # in a new process


@needs_micro
def test_damaged_file_runs_or_gives_one_line(path: Path) -> None:
    content, rng, messages = tiny_models.make_tflite("conv", "int8"), random.Random(1), list[str]()
    for _ in range(40):
        altered = bytearray(content)
        for _ in range(rng.choice([1, 1, 8])):
            altered[rng.randrange(len(content))] ^= rng.randrange(1, 256)
        path.write_bytes(altered if rng.random() > 0.1 else altered[: rng.randrange(len(altered))])
        messages += [measure(path)[1].get("micro/runs", "")]
    assert any(messages) and not all(messages)
    assert not any("\n" in message for message in messages)


def test_explain_misfit_gives_sizes_and_advice(path: Path) -> None:
    graph = make_graph()
    path.write_bytes(bytes(2048))
    assert explain_misfit(BOARDS["tiny"], path, 1024, graph) is None
    assert explain_misfit(BOARDS["tiny"], path, 1025, None) == "it takes 2 KiB of RAM where 1 are free"
    assert explain_misfit(BOARDS["tiny"], path, 1025, graph) == (
        "it takes 2 KiB of RAM where 1 are free. "
        "RAM: io=integer of the stage that quantises saves 384 B, which is enough"
    )
    path.write_bytes(bytes(5 * 2**20))
    assert explain_misfit(BOARDS["tiny"], path, 2**20, graph) == (
        "it takes 5,120 KiB of flash where 2 are free and 1,024 KiB of RAM where 1 are free. "
        "flash: layer 'dense' has most weights (INT8): narrow it (prune_channels, factorize); "
        "RAM: io=integer of the stage that quantises saves 384 B of 1023 KiB that are missing; "
        "most is TFLite Micro's own data of 3 operators: take fewer layers"
    )


@needs_micro
@pytest.mark.parametrize(("net", "scheme"), [("conv", "float"), ("dense", "int8"), ("depthwise", "int16x8")])
def test_planned_memory_is_the_head_of_the_arena(net: str, scheme: str, path: Path) -> None:
    path.write_bytes(tiny_models.make_tflite(net, scheme))
    peak = find_peak(plan_memory(read_graph(path)))
    assert peak is not None
    assert peak.size == measure(path)[0]["micro/arena_head_bytes"].value


def test_missing_package_gives_a_note(path: Path) -> None:
    script = (
        "import sys\nsys.modules['tflite_micro'] = None\n"
        "from pathlib import Path\n"
        "from lightexp.metrics.micro import Micro\nfrom lightexp.core.protocols import MeasurementContext\n"
        "print(*Micro({}).measure(MeasurementContext(Path('no'), Path('no'), None, 1)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Note(name='micro/runs', text='the package tflite-micro is ")
