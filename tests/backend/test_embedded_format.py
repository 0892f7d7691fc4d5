"""Tests of files for embedded devices: what importers read, and that LiteRT computes the same in any batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from lightexp.backend import edge_quantizer, litert
from lightexp.backend.embedded_format import has_open_batch, make_embeddable, pack, read_model
from lightexp.backend.flatbuffer import read_graph
from lightexp.backend.litert_model import LoadedModel
from tests.metrics import tiny_models

_KINDS = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}


def quantize(folder: Path, net: str, scheme: str, io: str = "float") -> Path:
    """Quantise a tiny network's float file with litert-quantizer."""
    path, data = folder / "m.tflite", tiny_models.make_data(net)
    path.write_bytes(tiny_models.make_tflite(net))
    ranges = litert.collect_ranges(path, data.inputs(data.train.x), 1)
    kernels = [(8, 0)] * len(read_graph(path).kernels)
    path.write_bytes(edge_quantizer.quantize(path, ranges, scheme, 8, kernels, io).tobytes())
    return path


def read_versions(content: bytes) -> dict[str, int]:
    return {_KINDS[code.builtinCode]: code.version for code in read_model(content).operatorCodes}


def list_signatures(model: Any) -> list[Any]:
    return [t.shapeSignature for graph in model.subgraphs for t in graph.tensors if t.shapeSignature is not None]


@pytest.mark.parametrize(
    ("net", "scheme"),
    [("conv", "int8"), ("dense", "int8"), ("conv", "float16"), ("dense", "dynamic")],
)
def test_versions_are_those_of_the_converter(net: str, scheme: str) -> None:
    content = tiny_models.make_tflite(net, scheme)
    model = read_model(content)
    for code in model.operatorCodes:
        code.version = 1
    assert read_versions(make_embeddable(pack(model))) == read_versions(content)


@pytest.mark.parametrize(
    ("scheme", "versions"),
    [
        ("int8", {"DEPTHWISE_CONV_2D": 3, "MEAN": 2, "FULLY_CONNECTED": 4, "QUANTIZE": 1, "DEQUANTIZE": 2}),
        ("dynamic", {"DEPTHWISE_CONV_2D": 6, "MEAN": 1, "FULLY_CONNECTED": 12}),
        ("weight_only", {"DEPTHWISE_CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 5}),
    ],
)
def test_quantizer_declares_versions_of_kernels(scheme: str, versions: dict[str, int], tmp_path: Path) -> None:
    assert read_versions(quantize(tmp_path, "depthwise", scheme).read_bytes()) == versions


@pytest.mark.parametrize("io", ["float", "uint8"])
def test_file_is_static_and_runs_in_batches(io: str, tmp_path: Path) -> None:
    path, data = quantize(tmp_path, "dense", "int8", io), tiny_models.make_data("dense")
    model = read_model(path.read_bytes())
    assert not list_signatures(model)
    assert model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape[0] == 1
    reshape = next(op for op in model.subgraphs[0].operators if op.builtinOptionsType == 17)
    assert list(reshape.builtinOptions.newShape) == [-1, 36]
    samples = data.inputs(data.train.x)
    together, single = (LoadedModel.open(path, (batch, *samples.shape[1:]), 1) for batch in (len(samples), 1))
    assert together.shape[0] == len(samples)
    together.set_input(together.source.encode(samples))
    together.invoke()
    for sample, output in zip(samples, together.get_output(), strict=True):
        single.set_input(single.source.encode(sample[None]))
        single.invoke()
        np.testing.assert_array_equal(single.get_output()[0], output)


def test_other_files_keep_their_batch(tmp_path: Path) -> None:
    computed = quantize(tmp_path, "steps", "int8")
    model = read_model(computed.read_bytes())
    assert list_signatures(model)  # the shapes of its tensors are computed from the batch
    assert not has_open_batch(computed)
    fixed = make_embeddable(tiny_models.make_tflite("conv", batch=1))
    computed.write_bytes(fixed)
    assert not has_open_batch(computed)
    assert LoadedModel.open(computed, (5, *tiny_models.SHAPES["conv"]), 1).shape[0] == 1


def test_constants_are_aligned_and_nothing_changes_twice(tmp_path: Path) -> None:
    content = quantize(tmp_path, "dense", "int8").read_bytes()
    assert make_embeddable(content) == content
    flat = schema.Model.GetRootAs(content)
    base = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    buffers = [flat.Buffers(i).DataAsNumpy() for i in range(flat.BuffersLength())]
    starts = [b.__array_interface__["data"][0] - base for b in buffers if np.size(b) > 1]
    assert starts
    assert not any(start % 16 for start in starts)


def test_broken_metadata_states_no_batch(tmp_path: Path) -> None:
    path = quantize(tmp_path, "dense", "int8")
    content = path.read_bytes()
    assert has_open_batch(path)
    path.write_bytes(content[:10])
    assert not has_open_batch(path)
