"""The entropy-coded file: to the bit the same, within its bounds, and proof against what is not one."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.backend.flatbuffer import read_constant_spans, read_graph
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export import constants as one
from lightexp.export import lxe
from lightexp.runner.compose import compose_settings as compose
from tests.metrics import tiny_models

WIDTHS = {"u1": 8, "i1": 8, "i2": 16, "i4": 32, "i8": 64, "f2": 16, "f4": 32, "f8": 64}


def stored(array: np.ndarray, start: int = 0, width: int = 0) -> ConstantSpan:
    width = width or WIDTHS[array.dtype.str[1:]]
    return ConstantSpan(start, array.nbytes, width, array.dtype.kind == "f", array.shape)


def there_and_back(content: bytes, places: list[ConstantSpan]) -> bytes:
    encoded = lxe.encode(content, places)
    assert lxe.decode(encoded) == content
    return encoded


def entropy(values: np.ndarray) -> float:
    """Bytes that values take by their order-0 entropy."""
    _, counts = np.unique(values, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def bound(content: bytes, places: list[ConstantSpan]) -> float:
    """What the issue allows for the constants."""
    total = 512.0
    for place in places:
        values = one.unpack_values(content[place.start : place.start + place.length], place.width)
        distinct = len(np.unique(values))
        if place.floats and distinct > 256:
            zeros = values << values.dtype.type(1) == 0
            total += 1.01 * (entropy(zeros) + np.count_nonzero(~zeros) * place.width / 8) + 64
        else:
            total += 1.05 * entropy(values) + distinct * place.width / 8 + 64
    return total


def taken(content: bytes, encoded: bytes, places: list[ConstantSpan]) -> int:
    """What the constants take: all but the rest of the file, as a general coder alone packs it."""
    end, rest = 0, []
    for place in places:
        rest.append(content[end : place.start])
        end = place.start + place.length
    return len(encoded) - len(lxe._packed(b"".join([*rest, content[end:]])))


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """Constants as networks have them, and as they do not."""
    kind = draw(st.sampled_from(sorted(WIDTHS)))
    shape = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4).filter(lambda s: np.prod(s) < 20_000))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.normal(0, draw(st.sampled_from([0.1, 3, 30])), shape)
    if draw(st.booleans()):
        values = np.round(values * 2) / 2
    values = np.where(rng.random(shape) < draw(st.sampled_from([0, 0.5, 0.95, 1])), 0, values)
    if draw(st.booleans()):  # a class of inputs that matters to nobody
        values[..., : values.shape[-1] // 2] = 0
    return values.astype(np.dtype("<" + kind))


@given(st.lists(arrays(), max_size=4), st.binary(max_size=50))
def test_every_constant_comes_back_to_the_bit(given_arrays: list[np.ndarray], between: bytes) -> None:
    content, places = between, []
    for array in given_arrays:
        places.append(stored(array, len(content)))
        content += array.tobytes() + between
    encoded = there_and_back(content, places)
    assert taken(content, encoded, places) <= bound(content, places)


@given(st.binary(max_size=3000), st.sampled_from([2, 4, 8, 16, 32, 64]), st.booleans())
def test_any_bytes_are_bit_patterns(raw: bytes, width: int, floats: bool) -> None:
    raw = raw[: len(raw) // 8 * 8] * 3
    there_and_back(raw, [ConstantSpan(0, len(raw), width, floats, (7, 5))])
    assert one.pack_values(one.unpack_values(raw, width), width) == raw


def test_two_zeros_and_every_nan_are_kept_apart() -> None:
    values = np.zeros(4000, np.float32)
    values[::3] = -0.0
    values[::7] = np.frombuffer(struct.pack("<I", 0x7FC0_1234), np.float32)
    values[::11] = np.frombuffer(struct.pack("<I", 0xFF80_0001), np.float32)  # signalling, negative
    there_and_back(values.tobytes(), [stored(values)])


SPARSE = np.random.default_rng(0).random((100, 400)) < 0.05


def test_zeros_that_lie_where_neighbours_do_cost_less_than_their_entropy() -> None:
    rng = np.random.default_rng(1)
    alone = np.where(SPARSE, rng.integers(1, 8, SPARSE.shape), 0).astype(np.float32)
    image = np.repeat(alone[:, :100].reshape(100, 10, 10), 4, axis=2).reshape(100, 400)  # four pixels alike in a row
    sizes = [len(there_and_back(x.tobytes(), [stored(x)])) for x in (alone, image)]
    assert sizes[0] < 1.02 * entropy(alone) + 200
    assert sizes[1] < 0.75 * entropy(image)


def test_the_range_coder_writes_the_same_bytes_everywhere() -> None:
    """Of numbers by exact arithmetic, so that nothing but its models could make other bytes of them."""
    steps = np.arange(30_000, dtype=np.int64)
    noise = (steps * steps * 2654435761 >> 7) % 1009
    ints = (noise % 23 - 11).astype(np.int8).reshape(100, 300)
    shared = np.where(noise < 900, 0, noise % 7 - 3).astype(np.float32).reshape(30_000 // 50, 50)
    floats = (noise / 1024 + steps / 2**20).astype(np.float32)
    content = ints.tobytes() + shared.tobytes() + floats.tobytes()
    places = [stored(ints), stored(shared, ints.nbytes), stored(floats, ints.nbytes + shared.nbytes)]
    encoded = there_and_back(content, places)
    stream = encoded[lxe._HEAD.size + lxe._HEAD.unpack_from(encoded)[-1] :]  # before it, LZMA may find other ways
    assert hashlib.sha256(stream).hexdigest() == "875ba5f19d88c6dbdec74d9c4871976d1fd27bc8fe223953a7a88123ff428901"


@pytest.mark.parametrize("net", ["dense", "conv", "depthwise", "steps", "matmul"])
@pytest.mark.parametrize("scheme", ["float", "dynamic", "float16", "int8", "int16x8"])
def test_converted_files(net: str, scheme: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    content = tiny_models.make_tflite(net, scheme, zeroed=True)
    path.write_bytes(content)
    places = read_constant_spans(path)
    assert taken(content, there_and_back(content, places), places) <= bound(content, places)


@pytest.fixture(scope="module")
def trained() -> bytes:
    """LeNet-300-100's sizes with weights spread as training spreads them, as a float .tflite made here."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(0, 0.05, shape).astype(np.float32) for shape in ((300, 784), (100, 300), (10, 100))]
    return flatbuffer([(row, schema.TensorType.FLOAT32) for row in rows])


def flatbuffer(arrays: list[tuple[np.ndarray, int]], behind: bool = False) -> bytes:
    """A .tflite that holds constants and no operator; `behind` the flatbuffer or inside."""
    import flatbuffers

    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [schema.BufferT()], []
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [], [], []
    for number, (array, kind) in enumerate(arrays):
        tensor, buffer = schema.TensorT(), schema.BufferT()
        tensor.name, tensor.type, tensor.buffer = f"w{number}".encode(), kind, number + 1
        tensor.shape = list(array.shape)
        if behind:
            buffer.offset, buffer.size = 2, array.nbytes  # a default value would not be stored
        else:
            buffer.data = array.view(np.uint8).reshape(-1)
        graph.tensors.append(tensor)
        model.buffers.append(buffer)

    def packed() -> bytes:
        builder = flatbuffers.Builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    if not behind:
        return packed()
    content = b""
    start = len(packed())
    for buffer, (array, _) in zip(model.buffers[1:], arrays, strict=True):
        buffer.offset = start + len(content)
        content += array.tobytes()
    return packed() + content


def pruned(weights: np.ndarray, share: float = 0.95) -> np.ndarray:
    return np.where(np.abs(weights) < np.quantile(np.abs(weights), share), 0, weights).astype(np.float32)


def clustered(weights: np.ndarray, to: int = 15) -> np.ndarray:
    step = np.abs(weights).max() / (to // 2)
    return (np.round(weights / step) * step + 0.0).astype(np.float32)


@pytest.mark.parametrize(
    ("change", "at_least"),
    [(lambda w: w, 1.15), (pruned, 18), (lambda w: clustered(pruned(w)), 55)],
    ids=["float", "pruned", "clustered"],
)
def test_a_network_takes_no_more_than_its_entropy(change, at_least: float, tmp_path: Path, trained: bytes) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(trained)
    weights = [change(tensor.data) for tensor in read_graph(path).tensors]
    content = flatbuffer([(w, schema.TensorType.FLOAT32) for w in weights])
    path.write_bytes(content)
    places = read_constant_spans(path)
    assert sorted(place.shape for place in places) == [(10, 100), (100, 300), (300, 784)]
    encoded = there_and_back(content, places)
    assert len(content) / len(encoded) > at_least
    assert taken(content, encoded, places) <= bound(content, places)
    assert len(encoded) < min(len(gzip.compress(content, 9)), len(lzma.compress(content, preset=9)))


def test_what_repeats_itself_far_apart_is_left_to_the_general_coder(trained: bytes) -> None:
    weights = np.frombuffer(trained, np.float32, 100_000, 2000)
    content = weights.tobytes() * 2
    places = [stored(weights), stored(weights, weights.nbytes)]
    assert len(there_and_back(content, places)) < 0.55 * len(content)


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("name", ["small_cnn", "ds_cnn", "lenet_300_100"])
def test_shipped_models_are_smaller_than_gzip_and_xz_make_them(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    from lightexp.backend import session
    from lightexp.backend.converter import convert_to_float32, create_converter
    from lightexp.backend.stderr import silence_stderr

    session.reset_graph(0)
    shape = (49, 10, 1) if name == "ds_cnn" else (28, 28, 1)
    model = compose([f"model={name}"]).model.build(shape, 10)
    assert model.count_params() > 10_000
    samples = np.random.default_rng(0).random((5, *shape), np.float32)
    path = tmp_path / "m.tflite"
    for change in (np.asarray, lambda w: clustered(pruned(w, 0.8))):
        model.set_weights([change(w) if w.ndim > 1 else w for w in model.get_weights()])
        converter = create_converter(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample[None]] for sample in samples)
        with silence_stderr(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Statistics for quantized inputs were expected")
            quantised = bytes(converter.convert())
        for content in (convert_to_float32(model), quantised):
            path.write_bytes(content)
            places = read_constant_spans(path)
            encoded = there_and_back(content, places)
            assert len(encoded) < min(len(gzip.compress(content, 9)), len(lzma.compress(content, preset=9)))
            assert taken(content, encoded, places) <= bound(content, places)


def test_values_narrower_than_a_byte_are_modelled_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = np.clip(np.round(rng.normal(0, 2, 20_001)), -8, 7).astype(np.int8)
    nibbles = np.append(values, 0).astype(np.uint8) & 15
    raw = (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8)
    twos = rng.choice(4, 4096, p=[0.9, 0.05, 0.03, 0.02]).astype(np.uint8).reshape(-1, 4)
    pairs = np.bitwise_or.reduce(twos << np.array([0, 2, 4, 6], np.uint8), axis=1).astype(np.uint8)
    content = flatbuffer([(raw, schema.TensorType.INT4), (pairs, schema.TensorType.INT2)])
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    places = read_constant_spans(path)
    assert sorted(place.width for place in places) == [2, 4]
    encoded = there_and_back(content, places)
    assert len(encoded) < 1.02 * (entropy(values) + entropy(twos)) + 350


def test_constants_behind_the_flatbuffer_are_found(tmp_path: Path) -> None:
    weights = clustered(pruned(np.random.default_rng(0).normal(size=(50, 200))))
    path = tmp_path / "m.tflite"
    content = flatbuffer([(weights, schema.TensorType.FLOAT32), (weights[:9], schema.TensorType.FLOAT32)], behind=True)
    path.write_bytes(content)
    places = read_constant_spans(path)
    assert [place.length for place in places] == [weights.nbytes, weights[:9].nbytes]
    assert places[0].start + places[0].length + places[1].length == len(content)
    np.testing.assert_array_equal(read_graph(path).tensors[0].data, weights)
    assert len(there_and_back(content, places)) < len(content) / 20


def test_shared_and_empty_constants_are_taken_once(tmp_path: Path) -> None:
    content = flatbuffer([(np.ones((8, 9), np.float32), schema.TensorType.FLOAT32)])
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    second, empty = (schema.TensorT.InitFromObj(schema.Model.GetRootAs(content).Subgraphs(0).Tensors(0)) for _ in "ab")
    empty.buffer = 0
    model.subgraphs[0].tensors += [second, empty]
    import flatbuffers

    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path = tmp_path / "m.tflite"
    path.write_bytes(bytes(builder.Output()))
    assert [place.shape for place in read_constant_spans(path)] == [(8, 9)]
    there_and_back(path.read_bytes(), read_constant_spans(path))


@pytest.fixture(scope="module")
def encoded() -> bytes:
    weights = clustered(pruned(np.random.default_rng(0).normal(size=(60, 80))))
    floats = np.random.default_rng(1).normal(size=300).astype(np.float32)
    ints = np.random.default_rng(2).integers(-90, 90, 3000).astype(np.int8)
    parts = [weights, floats, ints]
    places, content = [], b"TFL3"
    for part in parts:
        places.append(stored(part, len(content)))
        content += part.tobytes()
    return there_and_back(content, places)


class TestNotOne:
    """Files that are no encoded model."""

    @staticmethod
    def signed(encoded: bytes) -> bytes:
        """The same with a checksum that is right."""
        return encoded[:4] + struct.pack("<I", zlib.crc32(encoded[8:])) + encoded[8:]

    @given(st.data())
    def test_truncated_or_altered(self, encoded: bytes, data: st.DataObject) -> None:
        cut = data.draw(st.integers(0, len(encoded) - 1))
        altered = bytearray(encoded)
        altered[cut] ^= data.draw(st.integers(1, 255))
        for broken in (encoded[:cut], bytes(altered), encoded + b"\0"):
            with pytest.raises(BadInput, match=r"no encoded model|cut off or altered"):
                lxe.decode(broken)

    @settings(max_examples=150)
    @given(st.data())
    def test_made_by_someone_who_knows_the_checksum(self, encoded: bytes, data: st.DataObject) -> None:
        head = lxe._HEAD.unpack_from(encoded)
        plain = bytearray(lxe._unpacked(encoded[lxe._HEAD.size : lxe._HEAD.size + head[-1]], head[4]))
        for _ in range(data.draw(st.integers(1, 3))):  # the notes above all
            plain[data.draw(st.integers(0, head[5] - 1))] = data.draw(st.integers(0, 255))
        packed = lxe._packed(bytes(plain))
        body = lxe._HEAD.pack(*head[:-1], len(packed)) + packed + encoded[lxe._HEAD.size + head[-1] :]
        with suppress(BadInput):  # and nothing else; a change that means nothing may decode
            assert lxe.decode(self.signed(body)) == lxe.decode(encoded)

    @pytest.mark.parametrize("place", [3, 4, 5, 6])
    @pytest.mark.parametrize("claim", [0, 1, 1 << 20, 1 << 24, (1 << 32) - 1])
    def test_false_claims_allocate_nothing(self, encoded: bytes, place: int, claim: int) -> None:
        head = list(lxe._HEAD.unpack_from(encoded))
        head[place] = claim
        with pytest.raises(BadInput, match="cut off or altered"):
            lxe.decode(self.signed(lxe._HEAD.pack(*head) + encoded[lxe._HEAD.size :]))

    def test_a_bomb(self) -> None:
        filters = lxe._filters(0, 40_000_000, preset=1)
        packed = b"\0" + lzma.compress(bytes(40_000_000), lzma.FORMAT_RAW, filters=filters)
        for size in (40_000_000, 1000):
            head = lxe._HEAD.pack(b"LXE1", 0, bytes(16), size, size, 0, len(packed))
            with pytest.raises(BadInput, match=r"claims 40,000,000 bytes|not of the sizes"):
                lxe.decode(self.signed(head + packed))

    def test_random_bytes(self) -> None:
        for content in (b"", b"LXE1", b"LXE1" + bytes(40), os.urandom(1000), b"TFL3" * 9):
            with pytest.raises(BadInput):
                lxe.decode(content)

    def test_what_could_not_be_told_from_a_bomb_is_not_encoded(self) -> None:
        blank = np.zeros(4_400_000, np.float32)
        with pytest.raises(RunFailed, match="say next to nothing"):
            lxe.encode(blank.tobytes(), [stored(blank)])
