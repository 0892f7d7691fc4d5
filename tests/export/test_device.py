"""What leaves for a device: C that compilers take, and a `.tflite` that says what it is."""

from __future__ import annotations

import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types
from flatbuffers.table import Table

from lightexp.backend.flatbuffer import read_constant_spans, read_graph
from lightexp.backend.litert import compute_logits
from lightexp.cli import export
from lightexp.core.errors import BadInput
from lightexp.core.record import read_record as read_record
from lightexp.export.c_array import name_resolver_method, render_c_array
from lightexp.export.metadata import add_metadata
from tests.metrics import tiny_models
from tests.system_packages import require_program
from tests.tiny_runs import TinyRuns

C = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "net.h"
int main(int count, char** words) {
  static unsigned char buffer[1 << 20];
  FILE* file = fopen(words[count - 1], "rb");
  size_t size = fread(buffer, 1, sizeof buffer, file);
  return (uintptr_t)net_tflite % 16 || size != net_tflite_len || memcmp(buffer, net_tflite, size);
}
"""
CXX = """
#include <cstdio>
#include "net.h"
enum Status { kOk = 0, kError = 1 };
struct Resolver {
  int left = NET_OPS;
  Status add(const char* name) { std::puts(name); return left-- > 0 ? kOk : kError; }
  Status AddConv2D() { return add("Conv2D"); }
  Status AddTransposeConv() { return add("TransposeConv"); }
  Status AddMaxPool2D() { return add("MaxPool2D"); }
  Status AddReshape() { return add("Reshape"); }
  Status AddFullyConnected() { return add("FullyConnected"); }
  Status AddPack() { return add("Pack"); }
  Status AddShape() { return add("Shape"); }
  Status AddStridedSlice() { return add("StridedSlice"); }
};
int main() {
  Resolver enough, few;
  few.left = 1;
  return !net_add_ops(enough) || enough.left != 0 || net_add_ops(few);
}
"""
NASTY = ["a run */ with\nlines", "ends in \\", "ends in ??/", "ümlaut \x00"]


def compiled(folder: Path, compiler: str, standard: str, main: str) -> Path:
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    kind = ["-x", "c"] if compiler == "gcc" else []
    source = folder / "main.cc"
    source.write_text(main)
    out = folder / compiler
    words = [require_program(compiler), *flags, *kind, str(source), str(folder / "net.cc"), "-o", str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c11"), ("gcc", "c17"), ("g++", "c++11"), ("g++", "c++20")])
def test_compilers_take_the_array_and_its_bytes_are_the_file_s(compiler: str, standard: str, tmp_path: Path) -> None:
    file = tmp_path / "net.tflite"
    file.write_bytes(tiny_models.make_tflite("conv"))
    operators = [op.kind for op in read_graph(file).ops]
    header, source = render_c_array(file.read_bytes(), "net", operators, NASTY)
    (tmp_path / "net.h").write_text(header)
    (tmp_path / "net.cc").write_text(source)
    program = compiled(tmp_path, compiler, standard, C)
    assert subprocess.run([program, file], check=False).returncode == 0
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert subprocess.run([program, file], check=False).returncode == 1  # the program does look
    if compiler == "g++":
        program = compiled(tmp_path, compiler, standard, CXX)
        done = subprocess.run([program], capture_output=True, text=True, check=False)
        assert done.returncode == 0
        ours = sorted(set(done.stdout.splitlines()))
        assert ours == sorted({name_resolver_method(kind).removeprefix("Add") for kind in operators})


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("CONV_2D", "AddConv2D"),
        ("DEPTHWISE_CONV_2D", "AddDepthwiseConv2D"),
        ("FULLY_CONNECTED", "AddFullyConnected"),
        ("L2_POOL_2D", "AddL2Pool2D"),
        ("RELU6", "AddRelu6"),
        ("SPACE_TO_BATCH_ND", "AddSpaceToBatchNd"),
        ("BATCH_MATMUL", "AddBatchMatMul"),
        ("CUMSUM", "AddCumSum"),
        ("PADV2", "AddPadV2"),
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "AddUnidirectionalSequenceLSTM"),
    ],
)
def test_operators_are_called_as_the_resolver_calls_them(kind: str, method: str) -> None:
    assert name_resolver_method(kind) == method


@pytest.mark.parametrize("name", ["", "9net", "my-net", "_net", "a" * 64, "net;int x", "nèt"])
def test_a_name_that_c_cannot_have_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="C needs a name"):
        render_c_array(b"", name, [], [])


def field(table: Table, slot: int) -> int | None:
    offset = table.Offset(4 + 2 * slot)
    return table.Pos + offset if offset else None


def follow(table: Table, slot: int) -> Table:
    place = field(table, slot)
    assert place is not None
    return Table(table.Bytes, table.Indirect(place))


def first(table: Table, slot: int) -> Table:
    offset = table.Offset(4 + 2 * slot)
    assert table.VectorLen(offset) == 1
    return Table(table.Bytes, table.Indirect(table.Vector(offset)))


def string(table: Table, slot: int) -> str:
    place = field(table, slot)
    assert place is not None
    return table.String(place).decode()


def number(table: Table, slot: int) -> int:
    place = field(table, slot)
    assert place is not None
    return int(table.Get(number_types.Uint8Flags, place))


def floats(table: Table, slot: int) -> list[float]:
    offset = table.Offset(4 + 2 * slot)
    start = table.Vector(offset)
    return [table.Get(number_types.Float32Flags, start + 4 * i) for i in range(table.VectorLen(offset))]


def entries(content: bytes) -> dict[str, bytes]:
    model = schema.Model.GetRootAs(content)
    found = [model.Metadata(i) for i in range(model.MetadataLength())]
    return {entry.Name().decode(): bytes(model.Buffers(entry.Buffer()).DataAsNumpy()) for entry in found}


DATASET: dict[str, Any] = {"labels": ["T-shirt/top", "a\nb", "Mäntel", "3"], "shape": [8, 8, 3]}
DATASET |= {"scale": [0.5, 0.25, 1.0], "offset": [-1.0, 0.0, 2.0]}


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    content = tiny_models.make_tflite("conv")
    named = add_metadata(content, "net", "run 1", "lightexp run", DATASET)
    assert flatbuffers.util.BufferHasIdentifier(named, 0, b"TFL3")
    assert set(entries(named)) == {*entries(content), "TFLITE_METADATA"}
    assert entries(named)["min_runtime_version"] == entries(content)["min_runtime_version"]
    with zipfile.ZipFile(io.BytesIO(named)) as archive:
        assert archive.namelist() == ["labels.txt"] and archive.testzip() is None
        assert archive.read("labels.txt").decode() == "T-shirt/top\na b\nMäntel\n3\n"
    raw = entries(named)["TFLITE_METADATA"]
    assert raw[4:8] == b"M001"
    root = Table(raw, int.from_bytes(raw[:4], "little"))
    assert [string(root, slot) for slot in (0, 1, 2, 7)] == ["net", "lightexp run", "run 1", "1.0.0"]
    graph = first(root, 3)
    image, scores = first(graph, 2), first(graph, 3)
    content_of = follow(image, 3)
    assert number(content_of, 0) == 2 and number(follow(content_of, 1), 0) == 1  # an image, in RGB
    unit = first(image, 4)
    assert number(unit, 0) == 1  # normalisation: (x - mean) / std
    mean, std = floats(follow(unit, 1), 0), floats(follow(unit, 1), 1)
    raw_pixels = np.array([10.0, 20.0, 30.0])
    expected = raw_pixels * DATASET["scale"] + DATASET["offset"]
    np.testing.assert_allclose((raw_pixels - mean) / std, expected)
    labels = first(scores, 6)
    assert (string(labels, 0), number(labels, 2)) == ("labels.txt", 2)


@pytest.mark.parametrize("scheme", ["float", "dynamic", "float16", "int8", "int16x8"])
def test_it_computes_as_it_did_and_its_constants_are_aligned(scheme: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.tflite", tmp_path / "after.tflite"
    before.write_bytes(tiny_models.make_tflite("conv", scheme))
    after.write_bytes(add_metadata(before.read_bytes(), "net", "1", "by hand", DATASET))
    data = tiny_models.make_data("conv")
    np.testing.assert_array_equal(*(compute_logits(file, data.test.x, data, 1) for file in (before, after)))
    assert read_constant_spans(after) and all(place.start % 16 == 0 for place in read_constant_spans(after))
    again = add_metadata(after.read_bytes(), "other", "2", "by hand", DATASET)
    assert list(entries(again)).count("TFLITE_METADATA") == 1 and b"other" in entries(again)["TFLITE_METADATA"]


def test_a_run_is_exported(tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tiny_runs.run("pipeline=quantize")
    folder = tiny_runs.file(record).parent
    assert export.run([str(folder)]) == 0
    out = folder / "export"
    assert sorted(path.name for path in out.iterdir()) == ["model.cc", "model.h", "model.tflite"]
    assert str(out / "model.h") in capsys.readouterr().out
    shipped = (folder / "model.tflite").read_bytes()
    hexes = (out / "model.cc").read_text().partition("{\n")[2].partition("};")[0]
    assert bytes(int(word, 16) for word in hexes.replace(",", " ").split()) == shipped
    assert record.command.split()[1] in (out / "model.h").read_text()
    with zipfile.ZipFile(out / "model.tflite") as archive:
        assert archive.read("labels.txt") == b"0\n1\n2\n3\n"
    with pytest.raises(BadInput, match=r"model.tflite exists\. Give --force"):
        export.run([str(folder)])
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\nthree\nfour\n")
    assert export.run([str(folder), "--name=net", f"--labels={names}", f"-o{tmp_path / 'to' / 'it'}"]) == 0
    with zipfile.ZipFile(tmp_path / "to" / "it" / "net.tflite") as archive:
        assert archive.read("labels.txt").decode() == names.read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["{tmp}"], "is not a record"),
        (["{run}", "--name=int x"], "C needs a name"),
        (["{run}", "--labels={tmp}/absent"], "cannot be read"),
        (["{run}", "--labels={tmp}/two.txt"], "names 2 classes; the model has 4"),
        (["{run}", "-o{tmp}/two.txt"], "cannot be made"),
        (["{failed}"], "is failed and ships no model"),
        ([], "required: RUN"),
    ],
)
def test_what_cannot_be_exported_is_told(words: list[str], told: str, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    folder = tiny_runs.file(tiny_runs.run("pipeline=control")).parent
    failed = tmp_path / "failed"
    failed.mkdir()
    record = read_record(folder)
    record.status = "failed"
    record.write(failed)
    words = [word.format(tmp=tmp_path, run=folder, failed=failed) for word in words]
    with pytest.raises(BadInput, match=told):
        export.run(words)
    assert not (folder / "export").exists()
