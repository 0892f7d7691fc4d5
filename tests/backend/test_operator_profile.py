"""Times of single operators, by LiteRT's own profiler."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.backend.flatbuffer import read_graph
from lightexp.backend.operator_profile import match_layers, profile_operators
from lightexp.core.errors import BadInput
from tests.metrics import tiny_models


def write_file(folder: Path, net: str, scheme: str = "float") -> Path:
    path = folder / f"{net}-{scheme}.tflite"
    path.write_bytes(tiny_models.make_tflite(net, scheme))
    return path


@pytest.mark.parametrize("scheme", ["float", "int8"])
def test_profile_lists_the_operators_that_run(scheme: str, tmp_path: Path) -> None:
    path = write_file(tmp_path, "conv", scheme)
    operators = profile_operators(path, seconds=0.05)
    names = [operator.name for operator in operators]
    assert any(name.startswith("Convolution (NHWC, ") for name in names), names
    assert any(name.startswith("Fully Connected (NC, ") for name in names)
    assert all(0 <= operator.us < 1e5 for operator in operators)
    assert max(operators, key=lambda operator: operator.us).us > 0
    kernels = [kernel.name for _, kernel in read_graph(path).kernels]
    layers = [operator.layer for operator in operators if operator.layer]
    assert len(layers) == len(kernels) and all(f"/{layer}" in name for layer, name in zip(layers, kernels, strict=True))


def test_match_layers_matches_all_or_none(tmp_path: Path) -> None:
    graph = read_graph(write_file(tmp_path, "dense"))
    count = len(graph.kernels)
    names = ["Static Reshape (NC)", *["Fully Connected (NC, F32) GEMM"] * count]
    layers = match_layers(graph, names)
    assert layers[0] == "" and all(layers[1:]) and len(set(layers[1:])) == count
    assert match_layers(graph, [*names, "Convolution (NHWC, F32) IGEMM"]) == [""] * (count + 2)
    assert match_layers(graph, names[:-1]) == [""] * count


def test_profile_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    path.write_bytes(b"no model")
    with pytest.raises(BadInput, match=r"LiteRT cannot profile .*x.tflite: LiteRtCreateModelFromFile fails"):
        profile_operators(path)
