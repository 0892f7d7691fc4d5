"""MLflow's loader of `.tflite` models gives what lightexp measures."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.backend import edge_quantizer, flatbuffer, litert, tflite_pyfunc
from lightexp.core.layout import find_layout

FILES = Path(__file__).parent / "tflite_files"
TINY = Path(__file__).parents[1] / "search" / "plugin" / "tiny.tflite"


def load(folder: Path, model: Path, **facts: Any) -> tflite_pyfunc.TFLiteModel:
    shutil.copyfile(model, folder / "model.tflite")
    defaults = {"shape": [8, 8, 2], "scale": 1.0, "offset": 0.0, "layout": "auto", "labels": list("abcd")}
    (folder / "model.json").write_text(json.dumps({**defaults, **facts}))
    return tflite_pyfunc.TFLiteModel(str(folder))


def draw_examples(count: int, channels: int) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 8, channels), np.uint8)


@pytest.mark.parametrize(
    ("name", "scale", "offset"),
    [("onnx2tf_mlp", 1 / 255, 0.0), ("litert_torch_mlp", [1 / 255, 1 / 128], [0.0, -1.0]), ("tiny", 1 / 16, -0.5)],
)
def test_predict_gives_what_is_measured(tmp_path: Path, name: str, scale: Any, offset: Any) -> None:
    path = TINY if name == "tiny" else FILES / f"{name}.tflite"
    examples = draw_examples(73, 1 if name == "tiny" else 2)  # more than a batch
    model = load(tmp_path, path, shape=list(examples.shape[1:]), scale=scale, offset=offset)
    spec = litert.ExampleSpec("data", examples.shape[1:], 4, "4 classes", scale, offset)
    expected = litert.run_model(path, examples, spec, 1, 50)
    outputs = model.predict(examples.astype(np.float32))
    assert np.array_equal(outputs, expected)
    assert outputs.std() > 0
    assert np.array_equal(model.predict(examples[:1].tolist()), model.predict(examples[:1]))
    labels = model.predict(examples, {"labels": True})
    assert labels.tolist() == ["abcd"[index] for index in expected.argmax(axis=1)]
    assert model.predict(examples[:0]).shape == (0, 4)


def test_predict_encodes_integers_and_decodes_them(tmp_path: Path) -> None:
    examples = draw_examples(5, 1)
    scaled = examples.astype(np.float32) / 16
    ranges = litert.collect_ranges(TINY, scaled, 1)
    count = len(flatbuffer.read_graph(TINY).kernels)
    content = edge_quantizer.quantize(TINY, ranges, "int8", 8, [(8, 0)] * count, "integer").tobytes()
    (tmp_path / "int8.tflite").write_bytes(content)
    model = load(tmp_path, tmp_path / "int8.tflite", shape=[8, 8, 1], scale=1 / 16)
    spec = litert.ExampleSpec("data", (8, 8, 1), 4, "4 classes", 1 / 16, 0.0)
    outputs = model.predict(examples)
    assert outputs.dtype == np.float32
    assert np.array_equal(outputs, litert.run_model(tmp_path / "int8.tflite", examples, spec, 1, 50))
    assert np.allclose(outputs, litert.run_model(TINY, examples, spec, 1, 50), atol=np.ptp(outputs) / 20)


def test_predict_gives_numbers_in_their_own_unit(tmp_path: Path) -> None:
    examples = draw_examples(2, 1)
    plain = load(tmp_path, TINY, shape=[8, 8, 1], labels=[]).predict(examples)
    targets = {"mean": [1.0, 2.0, 3.0, 4.0], "std": [2.0] * 4}
    own = load(tmp_path, TINY, shape=[8, 8, 1], labels=[], targets=targets).predict(examples)
    assert np.allclose(own, plain * 2 + [1, 2, 3, 4])


def test_predict_refuses_another_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"examples of shape \(8, 8, 1\)\. Received: an array of shape \(8, 8, 1\)"):
        load(tmp_path, TINY, shape=[8, 8, 1]).predict(draw_examples(1, 1)[0])


sizes = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@given(sizes, st.permutations(range(3)), st.booleans(), st.sampled_from(["auto", "nhwc", "nchw"]))
def test_takes_channels_first_decides_as_lightexp(
    shape: list[int], order: list[int], is_flat: bool, layout: Any
) -> None:
    expected = [shape[axis] for axis in order if axis < len(shape)]
    if is_flat:
        expected = [int(np.prod(shape))]
    if (found := find_layout(tuple(shape), tuple(expected), layout)) is not None:
        assert tflite_pyfunc.takes_channels_first(tuple(shape), tuple(expected), layout) == found.channels_first


def test_loader_imports_no_lightexp() -> None:
    tree = ast.parse(Path(tflite_pyfunc.__file__).read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in nodes}
    assert not [module for module in modules if module.startswith("lightexp")]
    assert {"ai_edge_litert.interpreter", "numpy"} <= modules
