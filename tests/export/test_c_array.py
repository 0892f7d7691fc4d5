"""Tests of the C source of a model: compilers accept it, and its bytes and operators are the file's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lightexp.backend.flatbuffer import read_graph
from lightexp.core.errors import BadInput
from lightexp.export.c_array import name_resolver_method, render_c_array
from tests.metrics import tiny_models
from tests.system_packages import require_program

C_MAIN = """
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


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c11"), ("gcc", "c17"), ("g++", "c++11"), ("g++", "c++20")])
def test_compiled_array_holds_the_files_bytes(compiler: str, standard: str, tmp_path: Path) -> None:
    file = tmp_path / "net.tflite"
    file.write_bytes(tiny_models.make_tflite("conv"))
    operators = [op.kind for op in read_graph(file).ops]
    header, source = render_c_array(file.read_bytes(), "net", operators, UNSAFE_COMMENTS)
    (tmp_path / "net.h").write_text(header)
    (tmp_path / "net.cc").write_text(source)
    program = compile_program(tmp_path, compiler, standard, C_MAIN)
    assert subprocess.run([program, file], check=False).returncode == 0
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert subprocess.run([program, file], check=False).returncode == 1  # the program does compare
    if compiler == "g++":
        program = compile_program(tmp_path, compiler, standard, CXX_MAIN)
        completed = subprocess.run([program], capture_output=True, text=True, check=False)
        assert completed.returncode == 0
        added = sorted(set(completed.stdout.splitlines()))
        assert added == sorted({name_resolver_method(kind).removeprefix("Add") for kind in operators})


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
        render_c_array(b"", name, [], [])


@pytest.mark.parametrize("name", ["int", "class", "constexpr", "xor"])
def test_render_c_array_refuses_keywords(name: str) -> None:
    with pytest.raises(BadInput, match=f"^'{name}' is a keyword of C or C\\+\\+. Give another name, such as --name"):
        render_c_array(b"", name, [], [])
