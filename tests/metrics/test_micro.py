"""What the embedded interpreter says of real files; each test that runs one needs its package."""

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

from lightexp.backend import micro, sandbox
from lightexp.core.errors import BadInput
from lightexp.core.protocols import MeasurementContext, Metric, Note
from lightexp.metrics.micro import Board, Micro, explain_misfit
from tests.metrics import tiny

needed = pytest.mark.skipif(micro.find_unavailable_reason() is not None, reason=micro.find_unavailable_reason() or "")
BOARDS: dict[str, Board] = {
    "roomy": {"flash": 1024, "ram": 256, "flash_taken": 96, "ram_taken": 16},
    "tiny": {"flash": 100, "ram": 17, "flash_taken": 98, "ram_taken": 16},
}


def measured(path: Path) -> tuple[dict[str, Metric], dict[str, str]]:
    """Figures and notes by name."""
    found = Micro(BOARDS).measure(MeasurementContext(path, path, tiny.data("conv"), 1))
    figures = {one.name: one for one in found if isinstance(one, Metric)}
    return figures, {one.name: one.words for one in found if isinstance(one, Note)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.tflite"


@needed
@pytest.mark.parametrize(("net", "scheme"), [("conv", "float"), ("dense", "int8"), ("depthwise", "int16x8")])
def test_the_arena_is_the_least_that_it_runs_in(net: str, scheme: str, path: Path) -> None:
    path.write_bytes(tiny.flat(net, scheme))
    figures, notes = measured(path)
    values = {name: figure.value for name, figure in figures.items()}
    least = int(values["micro/arena_bytes"])
    counted = values["micro/arena_head_bytes"] + values["micro/arena_tail_bytes"]
    assert (values["micro/runs"], figures["micro/runs"].direction) == (1, "max")
    assert (figures["micro/arena_bytes"].unit, figures["micro/arena_bytes"].direction) == ("bytes", "min")
    assert least >= counted > 0
    assert (least - counted) % 64 == 0
    nothing = np.empty(0, np.float32)
    sandbox.run_sandboxed("run_in_arena", path, nothing, arena=least)
    with pytest.raises(BadInput, match=r"^[^\n]+$"):
        sandbox.run_sandboxed("run_in_arena", path, nothing, arena=least - 64)
    assert values["fits/roomy"] == 1
    assert values["fits/tiny"] == 0
    assert set(notes) == {"fits/tiny"}


@needed
def test_what_is_counted_is_not_always_enough(path: Path) -> None:
    path.write_bytes(tiny.flat("dense", "int8"))
    arena = micro.measure_arena(path)
    assert arena.minimum > arena.head + arena.tail


@needed
@pytest.mark.parametrize(
    ("net", "scheme", "why"),
    [("conv", "float16", "DEQUANTIZE"), ("volume", "float", "Didn't find op for builtin opcode 'CONV_3D'")],
)
def test_what_does_not_run_says_why(net: str, scheme: str, why: str, path: Path) -> None:
    path.write_bytes(tiny.flat(net, scheme))
    figures, notes = measured(path)
    assert {name: figure.value for name, figure in figures.items()} == {
        "micro/runs": 0,
        "fits/roomy": 0,
        "fits/tiny": 0,
    }
    assert why in notes["micro/runs"]
    assert notes["fits/roomy"] == notes["fits/tiny"] == "it does not run on TFLite Micro"
    assert not any("\n" in words or ".cc" in words for words in notes.values())


@needed
def test_a_file_that_kills_the_interpreter_is_a_note(path: Path) -> None:
    model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny.flat("dense")))
    first = model.subgraphs[0].operators[0]
    first.inputs = [1_000_000, *first.inputs[1:]]  # a tensor that is not there, which nobody checks
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    figures, notes = measured(path)
    assert figures["micro/runs"].value == 0
    assert "killed the process that read it (SIG" in notes["micro/runs"]
    path.write_bytes(tiny.flat("dense"))
    assert measured(path)[0]["micro/runs"].value == 1  # in a new process


@needed
def test_damaged_files_run_or_are_told_in_one_line(path: Path) -> None:
    content, draw, told = tiny.flat("conv", "int8"), random.Random(1), list[str]()
    for _ in range(40):
        altered = bytearray(content)
        for _ in range(draw.choice([1, 1, 8])):
            altered[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(altered if draw.random() > 0.1 else altered[: draw.randrange(len(altered))])
        told += [measured(path)[1].get("micro/runs", "")]
    assert any(told) and not all(told)
    assert not any("\n" in words for words in told)


def test_what_is_too_large_for_a_board_is_told_in_numbers(path: Path) -> None:
    path.write_bytes(bytes(2048))
    assert explain_misfit(BOARDS["tiny"], path, 1024) is None
    assert explain_misfit(BOARDS["tiny"], path, 1025) == "it takes 2 KiB of RAM where 1 are free"
    path.write_bytes(bytes(5 * 2**20))
    assert explain_misfit(BOARDS["tiny"], path, 2**20) == (
        "it takes 5,120 KiB of flash where 2 are free and 1,024 KiB of RAM where 1 are free"
    )


def test_without_its_package_the_figures_are_empty_and_say_why(path: Path) -> None:
    words = (
        "import sys\nsys.modules['tflite_micro'] = None\n"
        "from pathlib import Path\n"
        "from lightexp.metrics.micro import Micro\nfrom lightexp.core.protocols import MeasurementContext\n"
        "print(*Micro({}).measure(MeasurementContext(Path('no'), Path('no'), None, 1)))"
    )
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Note(name='micro/runs', words='the package tflite-micro is ")
