"""Tests of the C source of a model: compilers accept it, and its bytes and operators are the file's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lightexp.backend.flatbuffer import read_graph
from lightexp.core.errors import BadInput
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.export.c_array import name_resolver_method, render_c_array
from lightexp.export.c_model import CModel
from tests.metrics import tiny_models
from tests.system_packages import require_program

C_MAIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include "net.h"
int main(int count, char** words) {
  net_input_t value = (net_input_t)(1 / NET_INPUT_SCALE) + NET_INPUT_ZERO_POINT;
  printf("%d %d %d %.9g %d %.9g %d %d\n", NET_ARENA_BYTES, NET_INPUT_SIZE, net_input_shape[3], NET_INPUT_SCALE,
         NET_INPUT_ZERO_POINT, NET_OUTPUT_SCALE, NET_OUTPUT_ZERO_POINT, (int)(sizeof value + sizeof(net_output_t)));
  for (int i = 0; i < NET_LABELS; ++i) puts(net_labels[i]);
  static unsigned char buffer[1 << 20];
  FILE* file = fopen(words[count - 1], "rb");
  size_t size = fread(buffer, 1, sizeof buffer, file);
  return (uintptr_t)net_tflite % 16 || size != net_tflite_len || memcmp(buffer, net_tflite, size);
}
"""
CXX_MAIN = """
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
  Status AddQuantize() { return add("Quantize"); }
  Status AddDequantize() { return add("Dequantize"); }
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
LABELS = ("cat", 'a "dog"', "ends in \\", "??/", "ümlaut 7")
UNSAFE_COMMENTS = ["a run */ with\nlines", "ends in \\", "ends in ??/", "ümlaut \x00"]


def compile_program(folder: Path, compiler: str, standard: str, main: str) -> Path:
    """Compile `main` with the array of the folder, all warnings being errors."""
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-Werror", "-pedantic"]
    language = ["-x", "c"] if compiler == "gcc" else []
    source = folder / "main.cc"
    source.write_text(main)
    out = folder / compiler
    command = [require_program(compiler), *flags, *language, str(source), str(folder / "net.cc"), "-o", str(out)]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return out


def make_model() -> CModel:
    return CModel(TFLiteGraph((), (), (), ()), LABELS, 1234)


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c11"), ("gcc", "c17"), ("g++", "c++11"), ("g++", "c++20")])
def test_compiled_array_holds_the_model(compiler: str, standard: str, tmp_path: Path) -> None:
    file = tmp_path / "net.tflite"
    file.write_bytes(tiny_models.make_tflite("conv", "int8"))
    graph = read_graph(file)
    header, source = render_c_array(file.read_bytes(), "net", CModel(graph, LABELS, 1234), UNSAFE_COMMENTS)
    (tmp_path / "net.h").write_text(header)
    (tmp_path / "net.cc").write_text(source)
    program = compile_program(tmp_path, compiler, standard, C_MAIN)
    completed = subprocess.run([program, file], capture_output=True, check=False)
    assert completed.returncode == 0
    facts, *labels = completed.stdout.decode().splitlines()
    assert labels == list(LABELS)
    sizes, scales = facts.split()[:3], facts.split()[3:]
    assert sizes == ["1234", "192", "3"]
    source_port, sink = (graph.tensors[ports[0]] for ports in (graph.inputs, graph.outputs))
    assert [float(scales[0]), float(scales[2])] == pytest.approx([source_port.scales[0], sink.scales[0]], rel=1e-8)
    assert [int(scales[1]), int(scales[3]), scales[4]] == [source_port.zero_points[0], sink.zero_points[0], "2"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert subprocess.run([program, file], capture_output=True, check=False).returncode == 1  # the program does compare
    if compiler == "g++":
        program = compile_program(tmp_path, compiler, standard, CXX_MAIN)
        completed = subprocess.run([program], capture_output=True, text=True, check=False)
        assert completed.returncode == 0
        added = sorted(set(completed.stdout.splitlines()))
        assert added == sorted(
            {name_resolver_method(kind).removeprefix("Add") for kind in CModel(graph, (), 0).operators}
        )


def test_header_of_a_float_model_without_labels(tmp_path: Path) -> None:
    file = tmp_path / "net.tflite"
    file.write_bytes(tiny_models.make_tflite("dense"))
    header, source = render_c_array(b"", "net", CModel(read_graph(file), (), "it */ does\nnot run??/"), [])
    assert "// The arena is not known: it */ does_not run__/\n" in header
    assert "typedef float net_input_t;" in header
    assert "#define NET_INPUT_SCALE 1.0f\n#define NET_INPUT_ZERO_POINT (0)" in header
    assert "LABELS" not in header + source


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
def test_name_resolver_method_spells_names_as_tflite_micro(kind: str, method: str) -> None:
    assert name_resolver_method(kind) == method


@pytest.mark.parametrize("name", ["", "9net", "my-net", "_net", "a" * 64, "net;int x", "nèt"])
def test_render_c_array_refuses_invalid_names(name: str) -> None:
    with pytest.raises(BadInput, match="C needs a name"):
        render_c_array(b"", name, make_model(), [])


@pytest.mark.parametrize("name", ["int", "class", "constexpr", "xor"])
def test_render_c_array_refuses_keywords(name: str) -> None:
    with pytest.raises(BadInput, match=f"^'{name}' is a keyword of C or C\\+\\+. Give another name, such as --name"):
        render_c_array(b"", name, make_model(), [])
