"""Tests of running flatbuffers with LiteRT, against Keras."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from lightexp.backend import litert
from lightexp.backend.litert import compute_logits, compute_spread, time_single_example
from lightexp.core import memmap
from lightexp.core.errors import BadInput
from lightexp.core.streamed_array import StreamedArray
from tests.metrics import tiny_models


def write_file(tmp_path: Path, net: str, scheme: str = "float", batch: int | None = None) -> Path:
    path = tmp_path / f"{net}-{scheme}-{batch}.tflite"
    path.write_bytes(tiny_models.make_tflite(net, scheme, batch=batch))
    return path


def predict_with_keras(net: str) -> np.ndarray:
    data = tiny_models.make_data(net)
    return tiny_models.make_keras(net).predict(data.inputs(data.test.x), verbose=0)


@pytest.mark.parametrize("net", list(tiny_models.SHAPES))
def test_float_logits_equal_keras(net: str, tmp_path: Path) -> None:
    data = tiny_models.make_data(net)
    folder = tmp_path / os.fsdecode(b"caf\xe9")  # a name that is no text in UTF-8
    folder.mkdir()
    logits = compute_logits(write_file(folder, net), data.test.x, data, 2)
    assert logits.dtype == np.float32 and logits.shape == (len(data.test), data.classes)
    np.testing.assert_allclose(logits, predict_with_keras(net), atol=1e-5)


@pytest.mark.parametrize("scheme", ["float", "dynamic", "float16", "int8", "int16x8"])
def test_logits_do_not_depend_on_the_batch(scheme: str, tmp_path: Path) -> None:
    data = tiny_models.make_data("conv")
    path = write_file(tmp_path, "conv", scheme)
    expected = compute_logits(path, data.test.x, data, 1)
    for batch in (7, 1):
        np.testing.assert_allclose(compute_logits(path, data.test.x, data, 1, batch), expected, atol=1e-6)
    np.testing.assert_allclose(compute_logits(path, data.test.x[:3], data, 1), expected[:3], atol=1e-6)
    assert compute_logits(path, data.test.x[:0], data, 1).shape == (0, data.classes)


@pytest.mark.parametrize("foreign", [False, True])
def test_examples_that_are_read_in_chunks_give_the_same_logits(
    foreign: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_models.make_data("conv")
    path, x = write_file(tmp_path, "conv", "int8"), data.test.x
    expected = compute_logits(path, x, data, 1, 7)
    monkeypatch.setattr(memmap, "CHUNK_BYTES", 15 * x[:1].nbytes)
    monkeypatch.setattr(litert, "EXAMPLES_PER_CALL", 7)
    monkeypatch.setattr(litert, "MAX_OUTPUT_BYTES", 0)
    stream = StreamedArray(x.__getitem__, np.arange(len(x)), x.shape[1:], x.dtype)
    logits = compute_logits(path, stream, data, 1, 7, foreign)
    assert isinstance(logits, np.memmap)
    assert np.array_equal(logits, expected)
    chunks = [chunk for chunk, _ in litert.iterate_logits(path, stream, data, 1, 7, foreign)]
    assert chunks == [slice(start, start + 14) for start in range(0, len(x), 14)]


@pytest.mark.parametrize(("net", "batch"), [("conv", 4), ("steps", 1)])
def test_fixed_batch_gives_the_same_logits(net: str, batch: int, tmp_path: Path) -> None:
    data = tiny_models.make_data(net)
    logits = compute_logits(write_file(tmp_path, net, batch=batch), data.test.x, data, 1)
    np.testing.assert_allclose(logits, predict_with_keras(net), atol=1e-5)


def test_false_open_batch_is_run_one_by_one(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    from tests.backend.test_flatbuffer import pack_model

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.make_tflite("dense")))
    graph = tree.subgraphs[0]
    target = graph.tensors[graph.operators[0].inputs[1]]  # the shape that RESHAPE computes
    tree.buffers[target.buffer].data = np.array([1, 36], np.int32).view(np.uint8)
    path = tmp_path / "m.tflite"
    path.write_bytes(pack_model(tree))
    data = tiny_models.make_data("dense")
    np.testing.assert_allclose(compute_logits(path, data.test.x, data, 1), predict_with_keras("dense"), atol=1e-5)


@pytest.mark.parametrize(
    ("net", "scheme"),
    [
        ("conv", "int8"),
        ("conv", "int16x8"),
        ("conv", "dynamic"),
        ("dense", "int8"),
        ("dense", "uint8"),
        ("depthwise", "int8"),
    ],
)
def test_quantised_logits_are_close_to_float(net: str, scheme: str, tmp_path: Path) -> None:
    data = tiny_models.make_data(net)
    logits = compute_logits(
        write_file(tmp_path, net, scheme), data.train.x, data, 1
    )  # the calibration examples, on which nothing saturates
    outputs = tiny_models.make_keras(net).predict(data.inputs(data.train.x), verbose=0)
    share = 0.01 if scheme == "int16x8" else 0.05
    assert 0 < np.abs(logits - outputs).max() < share * np.ptp(outputs)


def test_inputs_out_of_range_are_clipped(tmp_path: Path) -> None:
    data = tiny_models.make_data("dense")
    path = write_file(tmp_path, "dense", "int8")
    twice, often = (replace(data, scale=data.scale * k, offset=data.offset * k) for k in (2, 50))
    edges = np.where(data.test.x > 127, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(compute_logits(path, edges, often, 1), compute_logits(path, edges, twice, 1))


def test_mismatched_shapes_are_named(tmp_path: Path) -> None:
    path = write_file(tmp_path, "dense")
    with pytest.raises(BadInput, match=r"\(6, 6, 1\).*\(8, 8, 3\)"):
        compute_logits(path, tiny_models.make_data("conv").test.x, tiny_models.make_data("conv"), 1)
    with pytest.raises(BadInput, match=r"\(6, 6, 1\).*\(5, 4\)"):
        compute_logits(path, tiny_models.make_data("steps").test.x, tiny_models.make_data("steps"), 1)
    with pytest.raises(BadInput, match=r"\(4,\).*\(9,\)"):
        compute_logits(path, tiny_models.make_data("dense").test.x, tiny_models.make_data("dense", classes=9), 1)


def test_missing_file_is_reported_in_one_line(tmp_path: Path) -> None:
    data = tiny_models.make_data("dense")
    with pytest.raises(BadInput, match=r"none\.tflite") as caught:
        compute_logits(tmp_path / "none.tflite", data.test.x, data, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["float", "int8"])
def test_time_single_example_returns_five_batches(scheme: str, tmp_path: Path) -> None:
    data = tiny_models.make_data("conv")
    durations = time_single_example(write_file(tmp_path, "conv", scheme), data.inputs(data.val.x[:1])[0], 3, 30)
    assert len(durations) == 5 and durations.size >= 30 and durations.dtype == np.float64
    assert (durations > 0).all() and np.median(durations) < 1e5


def test_time_single_example_keeps_its_time_limit(tmp_path: Path) -> None:
    path, data = write_file(tmp_path, "conv"), tiny_models.make_data("conv")
    example = data.inputs(data.val.x[:1])[0]
    start = time.perf_counter()
    durations = time_single_example(path, example, 10**8, 10**8, seconds=0.2)
    assert time.perf_counter() - start < 20  # all runs would take minutes
    assert 20 <= durations.size < 10**6
    assert time_single_example(path, example, 0, 50, seconds=0).shape == (5, 4)


class DriftingModel:
    """A model whose runs take 1 ms at first, but every fourth 3 ms; after `noisy_runs`, all take 2 ms."""

    shape = (1, 4)
    source = SimpleNamespace(encode=lambda values: values)

    def __init__(self, noisy_runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.now, self.noisy_runs = 0, 0, noisy_runs
        monkeypatch.setattr(litert.LoadedModel, "open", lambda *_, **__: self)
        clock = SimpleNamespace(perf_counter_ns=lambda: self.now, perf_counter=lambda: self.now / 1e9)
        monkeypatch.setattr(litert, "time", clock)

    def set_input(self, values: NDArray[np.float32]) -> None:
        pass

    def invoke(self) -> None:
        is_noisy = self.runs < self.noisy_runs
        self.now += (1_000_000 if self.runs // 4 % 2 else 3_000_000) if is_noisy else 2_000_000
        self.runs += 1


def test_time_single_example_repeats_until_batches_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DriftingModel(60, monkeypatch)
    times = time_single_example(Path("unused"), np.zeros(4, np.float32), 4, 20, seconds=1)
    assert (times == 2_000).all() and compute_spread(times) == 0
    assert model.runs == 60 + 20  # no batch more than it takes
    model = DriftingModel(10**6, monkeypatch)
    times = time_single_example(Path("unused"), np.zeros(4, np.float32), 4, 20, seconds=0.5)
    assert compute_spread(times) == pytest.approx(2 / 3, rel=1e-3)  # the quietest five, not the last
    assert 0.5 <= model.now / 1e9 < 0.55


def test_compute_spread_ignores_ticks_of_the_clock() -> None:
    assert compute_spread(np.array([[0.50], [0.51], [0.52]])) < 1e-9
    assert compute_spread(np.array([[50.0, 51.0, 90.0], [52.0, 53.0, 54.0]])) == pytest.approx(1.98 / 52)


TIMING_SCRIPT = """
import sys, os
import numpy as np
from pathlib import Path
from lightexp.backend.litert import time_single_example
for _ in range(2):
    time_single_example(Path(sys.argv[1]), np.zeros((8, 8, 3), np.float32), 1, 1)
os.write(2, b"still here")
"""


def test_litert_prints_nothing(tmp_path: Path) -> None:
    completed = subprocess.run(
        [sys.executable, "-c", TIMING_SCRIPT, write_file(tmp_path, "conv")], capture_output=True, check=True
    )
    assert completed.stderr == b"still here" and completed.stdout == b""
