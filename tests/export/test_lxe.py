"""Tests of `.lxe` files: they decode to the same bytes, are small, and damaged or forged ones are refused."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from lightexp.backend.flatbuffer import read_constant_spans, read_graph
from lightexp.core.errors import BadInput, RunFailed
from lightexp.export import lxe, packing
from lightexp.export.lxe import HEADER, read_header
from lightexp.export.parameters import serialize_number
from lightexp.runner.compose import compose_settings
from tests.export.encoded_files import (
    MODELS,
    build_flatbuffer,
    compute_bound,
    encode_and_decode,
    make_span,
    measure_constants,
    measure_frame,
    pack_model,
    prune_weights,
    round_weights,
)
from tests.metrics import tiny_models


@pytest.mark.parametrize("net", ["dense", "conv", "depthwise", "steps", "matmul"])
@pytest.mark.parametrize("scheme", ["float", "dynamic", "float16", "int8", "int16x8"])
def test_converted_files_stay_within_their_bound(net: str, scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    content = tiny_models.make_tflite(net, scheme, zeroed=True)
    path.write_bytes(content)
    spans = read_constant_spans(path, quantization=True)
    assert measure_constants(content, encode_and_decode(content, spans), spans) <= compute_bound(content, spans)


@pytest.fixture(scope="module")
def normal_weights() -> bytes:
    """A float `.tflite` with LeNet-300-100's kernels and normally distributed weights, as training gives."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((300, 784), (100, 300), (10, 100))]
    return build_flatbuffer([(kernel, schema.TensorType.FLOAT32) for kernel in kernels])


@pytest.mark.parametrize(
    ("change", "ratio"),
    [(lambda w: w, 1.15), (prune_weights, 18), (lambda w: round_weights(prune_weights(w)), 55)],
    ids=["float", "pruned", "rounded"],
)
def test_networks_take_no_more_than_their_entropy(
    change: Any, ratio: float, tmp_path: Path, normal_weights: bytes
) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(normal_weights)
    weights = [change(tensor.data) for tensor in read_graph(path).tensors]
    content = build_flatbuffer([(w, schema.TensorType.FLOAT32) for w in weights])
    path.write_bytes(content)
    spans = read_constant_spans(path, quantization=True)
    assert sorted(span.shape for span in spans) == [(10, 100), (100, 300), (300, 784)]
    encoded = encode_and_decode(content, spans)
    assert len(content) / len(encoded) > ratio
    assert measure_constants(content, encoded, spans) <= compute_bound(content, spans)
    assert len(encoded) < min(len(gzip.compress(content, 9)), len(lzma.compress(content, preset=9)))


def test_distant_repetitions_are_left_to_lzma(normal_weights: bytes) -> None:
    weights = np.frombuffer(normal_weights, np.float32, 100_000, 2000)
    content = weights.tobytes() * 2
    spans = [make_span(weights), make_span(weights, weights.nbytes)]
    assert len(encode_and_decode(content, spans)) < 0.55 * len(content)


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("overrides", ["model=small_cnn", "model=ds_cnn", "model=lenet_300_100 model.width=0.3"])
def test_shipped_models_are_smaller_than_by_gzip_and_xz(overrides: str, tmp_path: Path) -> None:
    import tensorflow as tf

    from lightexp.backend import session
    from lightexp.backend.converter import convert_to_float32, create_converter
    from lightexp.backend.stderr import silence_stderr

    session.reset_graph(0)
    shape = (49, 10, 1) if "ds_cnn" in overrides else (28, 28, 1)
    model = compose_settings(overrides.split()).model.build(shape, 10)
    assert model.count_params() > 10_000
    samples = np.random.default_rng(0).random((5, *shape), np.float32)
    path = tmp_path / "m.tflite"
    for change in (np.asarray, lambda w: round_weights(prune_weights(w, 0.8))):
        model.set_weights([change(w) if w.ndim > 1 else w for w in model.get_weights()])
        converter = create_converter(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        with silence_stderr(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
            quantised = bytes(converter.convert())
        for content in (convert_to_float32(model), quantised):
            path.write_bytes(content)
            spans = read_constant_spans(path, quantization=True)
            encoded = encode_and_decode(content, spans)
            assert len(encoded) < min(len(gzip.compress(content, 9)), len(lzma.compress(content, preset=9)))
            assert measure_constants(content, encoded, spans) <= compute_bound(content, spans)


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", ["article_mlp", "lenet_300_100", "lenet5"])
def test_frames_of_small_nets_take_200_bytes(name: str, tmp_path: Path) -> None:
    from lightexp.backend import session
    from lightexp.backend.converter import convert_default, convert_to_float32

    session.reset_graph(0)
    model = compose_settings([f"model={name}"]).model.build((28, 28, 1), 10)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=weight.shape) for weight in model.get_weights()]
    # Few values are other than zero: the frame is the same, and encoded sooner.
    model.set_weights([round_weights(prune_weights(w, 0.999)) if w.ndim > 1 else w for w in weights])
    path = tmp_path / "m.tflite"
    for convert in (convert_to_float32, convert_default):
        path.write_bytes(convert(model))
        assert measure_frame(lxe.encode(path.read_bytes(), read_constant_spans(path, quantization=True))) <= 200


@pytest.mark.parametrize(
    ("name", "deepcabac", "frame"), [("rate_lenet_300_100", 8992, 125), ("int8_ds_cnn", 21843, 330)]
)
def test_files_of_version_1_decode_and_become_smaller(name: str, deepcabac: int, frame: int, tmp_path: Path) -> None:
    """DeepCABAC's bytes are of the kernels alone, as its best settings code them."""
    before = (MODELS / f"{name}.lxe").read_bytes()
    assert before[:4] == b"LXE1"
    path = tmp_path / "m.tflite"
    path.write_bytes(lxe.decode(before))
    encoded = encode_and_decode(path.read_bytes(), read_constant_spans(path, quantization=True))
    assert len(encoded) < 0.885 * len(before)
    assert measure_frame(encoded) <= frame
    if name.startswith("rate"):
        assert len(encoded) - measure_frame(encoded) < 0.905 * deepcabac


def test_constants_behind_the_flatbuffer_are_encoded(tmp_path: Path) -> None:
    weights = round_weights(prune_weights(np.random.default_rng(0).normal(size=(50, 200))))
    path = tmp_path / "m.tflite"
    content = build_flatbuffer(
        [(weights, schema.TensorType.FLOAT32), (weights[:9], schema.TensorType.FLOAT32)], external=True
    )
    path.write_bytes(content)
    spans = read_constant_spans(path, quantization=True)
    assert [span.length for span in spans] == [weights.nbytes, weights[:9].nbytes]
    assert spans[0].start + spans[0].length + spans[1].length == len(content)
    np.testing.assert_array_equal(read_graph(path).tensors[0].data, weights)
    assert len(encode_and_decode(content, spans)) < len(content) / 20


def test_shared_and_empty_constants_are_encoded_once(tmp_path: Path) -> None:
    content = build_flatbuffer([(np.ones((8, 9), np.float32), schema.TensorType.FLOAT32)])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    second, empty = (schema.TensorT.InitFromObj(schema.Model.GetRootAs(content).Subgraphs(0).Tensors(0)) for _ in "ab")
    empty.buffer = 0
    model.subgraphs[0].tensors += [second, empty]
    path = tmp_path / "m.tflite"
    path.write_bytes(pack_model(model))
    assert [span.shape for span in read_constant_spans(path, quantization=True)] == [(8, 9)]
    encode_and_decode(path.read_bytes(), read_constant_spans(path, quantization=True))


@pytest.fixture(scope="module")
def encoded() -> bytes:
    weights = round_weights(prune_weights(np.random.default_rng(0).normal(size=(60, 80))))
    floats = np.random.default_rng(1).normal(size=300).astype(np.float32)
    ints = np.random.default_rng(2).integers(-90, 90, 3000).astype(np.int8)
    parts = [weights, floats, ints]
    spans, content = [], b"TFL3"
    for part in parts:
        spans.append(make_span(part, len(content)))
        content += part.tobytes()
    return encode_and_decode(content, spans)


@pytest.fixture(scope="module")
def content(encoded: bytes) -> bytes:
    return lxe.decode(encoded)


@pytest.fixture(scope="module")
def parameters(encoded: bytes) -> bytes:
    _, sizes, start = read_header(encoded)
    return packing.decompress(encoded[start : start + sizes[-1]], sizes[1])


class TestRefusedFiles:
    """Files that are no encoded model, or no longer."""

    @staticmethod
    def add_checksum(encoded: bytes) -> bytes:
        """Return the file with a correct checksum."""
        return encoded[:4] + struct.pack("<I", zlib.crc32(encoded[8:])) + encoded[8:]

    @staticmethod
    def make_head(encoded: bytes, sizes: list[int]) -> bytes:
        """Return the file's header with other sizes."""
        return encoded[: HEADER.size] + b"".join(map(serialize_number, sizes))

    @given(st.data())
    def test_truncated_or_altered_files_are_refused(self, encoded: bytes, data: st.DataObject) -> None:
        cut = data.draw(st.integers(0, len(encoded) - 1))
        altered = bytearray(encoded)
        altered[cut] ^= data.draw(st.integers(1, 255))
        for broken in (encoded[:cut], bytes(altered), encoded + b"\0"):
            with pytest.raises(BadInput, match=r"no encoded model|cut off or altered"):
                lxe.decode(broken)

    @given(st.data())
    def test_forged_parameters_raise_nothing_but_bad_input(
        self, encoded: bytes, content: bytes, parameters: bytes, data: st.DataObject
    ) -> None:
        _, sizes, start = read_header(encoded)
        plain = bytearray(parameters)
        for _ in range(data.draw(st.integers(1, 3))):  # among the parameters, which the decoder trusts most
            plain[data.draw(st.integers(0, sizes[2] - 1))] = data.draw(st.integers(0, 255))
        packed = packing.compress(bytes(plain))
        body = self.make_head(encoded, [*sizes[:-1], len(packed)]) + packed + encoded[start + sizes[-1] :]
        with suppress(BadInput):  # a change without effect may decode
            assert lxe.decode(self.add_checksum(body)) == content

    @given(st.data())
    def test_forged_copies_raise_nothing_but_bad_input(
        self, encoded: bytes, content: bytes, data: st.DataObject
    ) -> None:
        _, sizes, start = read_header(encoded)
        assert encoded[start] == packing.WITH_DICTIONARY
        forged = bytearray(encoded)
        for _ in range(data.draw(st.integers(1, 3))):
            forged[data.draw(st.integers(start + 3, start + sizes[-1] - 1))] = data.draw(st.integers(0, 255))
        with suppress(BadInput):  # a change without effect may decode
            assert lxe.decode(self.add_checksum(bytes(forged))) == content

    @pytest.mark.parametrize("field", [0, 1, 2, 3])
    @pytest.mark.parametrize("claim", [0, 1, 1 << 20, 1 << 24, (1 << 32) - 1])
    def test_false_sizes_are_refused(self, encoded: bytes, field: int, claim: int) -> None:
        _, sizes, start = read_header(encoded)
        sizes[field] = claim
        with pytest.raises(BadInput, match="cut off or altered"):
            lxe.decode(self.add_checksum(self.make_head(encoded, sizes) + encoded[start:]))

    def test_decompression_bombs_are_refused(self) -> None:
        filters = packing.build_filters(packing.LZMA_BYTES, 40_000_000, preset=1)
        packed = b"\0" + lzma.compress(bytes(40_000_000), lzma.FORMAT_RAW, filters=filters)
        for size in (40_000_000, 1000):
            head = self.make_head(HEADER.pack(b"LXE2", 0, bytes(8)), [size, size, 0, len(packed)])
            with pytest.raises(BadInput, match=r"claims 40,000,000 bytes|not of the sizes"):
                lxe.decode(self.add_checksum(head + packed))

    def test_newer_versions_and_other_dictionaries_are_named(self, encoded: bytes) -> None:
        with pytest.raises(BadInput, match=r"has format 3, and this lightexp reads up to 2\. Update lightexp"):
            lxe.decode(b"LXE3" + encoded[4:])
        _, sizes, start = read_header(encoded)
        for version, number in ((9, 0), (1, 250)):
            packed = bytes([packing.WITH_DICTIONARY, version, number])
            body = self.make_head(encoded, [*sizes[:-1], 3]) + packed + encoded[start + sizes[-1] :]
            with pytest.raises(BadInput, match=rf"needs dictionary {number} of version {version}, .*Update lightexp"):
                lxe.decode(self.add_checksum(body))

    def test_random_bytes_are_refused(self) -> None:
        for content in (b"", b"LXE1", b"LXE1" + bytes(40), b"LXE2" + bytes(9), os.urandom(1000), b"TFL3" * 9):
            with pytest.raises(BadInput):
                lxe.decode(content)

    def test_files_that_would_look_like_bombs_are_not_encoded(self) -> None:
        blank = np.zeros(4_400_000, np.float32)
        with pytest.raises(RunFailed, match="say next to nothing"):
            lxe.encode(blank.tobytes(), [make_span(blank)])
