"""Tests of reading flatbuffers, and that broken files give one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightexp.backend.flatbuffer import read_graph, unpack_integers
from lightexp.core.errors import BadInput
from lightexp.core.tflite_graph import TFLiteGraph
from tests.metrics import tiny_models
from tests.special_files import deadline


def read_net(path: Path, net: str, scheme: str = "float") -> TFLiteGraph:
    path.write_bytes(tiny_models.make_tflite(net, scheme))
    return read_graph(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.tflite"


def find_kernel(net: TFLiteGraph, kind: str) -> tuple[np.ndarray, tuple[float, ...], str]:
    tensor = next(tensor for op, tensor in net.kernels if op.kind == kind)
    return tensor.data, tensor.scales, tensor.dtype


def test_float_kernels_equal_keras(path: Path) -> None:
    data, scales, dtype = find_kernel(read_net(path, "conv"), "CONV_2D")
    expected = tiny_models.make_keras("conv").get_weights()[0].transpose(3, 0, 1, 2)
    assert (dtype, scales) == ("FLOAT32", ())
    np.testing.assert_array_equal(data, expected)


def test_float16_kernels_are_followed_through_dequantisation(path: Path) -> None:
    data, _, dtype = find_kernel(read_net(path, "conv", "float16"), "CONV_2D")
    assert dtype == "FLOAT16" and data.dtype == np.float16
    np.testing.assert_array_equal(
        data, tiny_models.make_keras("conv").get_weights()[0].transpose(3, 0, 1, 2).astype(np.float16)
    )


@pytest.mark.parametrize("scheme", ["int8", "int16x8"])
def test_int8_kernels_have_one_scale_per_channel(path: Path, scheme: str) -> None:
    data, scales, dtype = find_kernel(read_net(path, "conv", scheme), "CONV_2D")
    assert dtype == "INT8" and data.dtype == np.int8 and len(scales) == 5
    back = data * np.array(scales)[:, None, None, None]
    expected = tiny_models.make_keras("conv").get_weights()[0].transpose(3, 0, 1, 2)
    assert np.abs(back - expected).max() <= max(scales) / 2 * 1.01


def test_operator_names_below_and_above_code_127(path: Path) -> None:
    assert [op.kind for op in read_net(path, "dense").ops] == ["RESHAPE", "FULLY_CONNECTED", "FULLY_CONNECTED"]
    assert read_net(path, "volume").ops[0].kind == "CONV_3D"  # 132


def test_inputs_and_outputs_are_read(path: Path) -> None:
    graph = read_net(path, "depthwise", "int8")
    (source,), (sink,) = graph.inputs, graph.outputs
    assert graph.tensors[source].shape == (1, 8, 8, 3) and graph.tensors[sink].shape == (1, 4)
    assert graph.tensors[source].dtype == "INT8" and graph.tensors[source].data is None
    assert len(graph.tensors[source].scales) == len(graph.tensors[source].zero_points) == 1


@pytest.mark.parametrize(("bits", "signed"), [(4, True), (4, False), (2, True)])
def test_unpack_integers_takes_the_lowest_bits_first(bits: int, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.random.default_rng(0).integers(low, low + 2**bits, 64)
    per_byte = 8 // bits
    raw = sum((values[i::per_byte] & (2**bits - 1)) << (bits * i) for i in range(per_byte)).astype(np.uint8)
    np.testing.assert_array_equal(unpack_integers(raw, bits, signed), values)


def test_int4_kernels_are_unpacked(path: Path) -> None:
    """The kernel of a converted file is rewritten in four bits, with an odd number of values."""
    rng = np.random.default_rng(1)
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.make_tflite("depthwise", "int8")))
    graph = tree.subgraphs[0]
    tensor = graph.tensors[graph.operators[0].inputs[1]]
    tensor.shape, tensor.type = [1, 3, 3, 5], schema.TensorType.INT4
    values = rng.integers(-8, 8, 45)
    nibbles = np.append(values, 0) & 15
    tree.buffers[tensor.buffer].data = (nibbles[::2] | nibbles[1::2] << 4).astype(np.uint8)
    path.write_bytes(pack_model(tree))
    data, scales, dtype = find_kernel(read_graph(path), "DEPTHWISE_CONV_2D")
    assert dtype == "INT4" and len(scales) == 6
    np.testing.assert_array_equal(data.reshape(-1), values)


def pack_model(tree: schema.ModelT) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "0 bytes"), (b"TFL3", "not a .tflite"), (b"\x1c\0\0\0TFL3", "broken"), (b"PK\3\4" * 99, "not a .tflite")],
)
def test_other_files_are_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_graph(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.tflite"):
        with pytest.raises(BadInput, match="cannot be read"):
            read_graph(path)


many_examples = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many_examples
@given(content=st.binary(max_size=400))
def test_random_bytes_are_refused(path: Path, content: bytes) -> None:
    for head in (b"", b"\x10\0\0\0TFL3"):
        path.write_bytes(head + content)
        with pytest.raises(BadInput):
            read_graph(path)


@many_examples
@given(share=st.floats(0, 1, exclude_max=True), scheme=st.sampled_from(["float", "float16", "int8"]))
def test_truncated_files_are_refused(path: Path, share: float, scheme: str) -> None:
    content = tiny_models.make_tflite("conv", scheme)
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadInput) as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)


@many_examples
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_altered_files_are_read_or_refused(path: Path, places: list[tuple[float, int]]) -> None:
    content = bytearray(tiny_models.make_tflite("depthwise", "int8"))
    for share, value in places:
        content[int(share * len(content))] = value
    path.write_bytes(content)
    try:
        graph = read_graph(path)
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017 - either may happen
    else:
        assert sum(t.zeros for _, t in graph.kernels) >= 0


def test_circular_operators_are_refused(path: Path) -> None:
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.make_tflite("dense")))
    reshape = tree.subgraphs[0].operators[0]
    reshape.inputs = np.array([reshape.outputs[0], reshape.inputs[1]], np.int32)
    path.write_bytes(pack_model(tree))
    with pytest.raises(BadInput, match="has not been made"):
        read_graph(path)


def build_blockwise(scales: int) -> schema.ModelT:
    """Return a converted file whose dense kernel, (10, 36), has a scale for each 12 weights of a row."""
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.make_tflite("dense", "int8")))
    graph = tree.subgraphs[0]
    values = np.linspace(0.5, 1, scales, dtype=np.float16)
    tree.buffers.append(schema.BufferT(data=values.view(np.uint8)))
    held = schema.TensorT(shape=[10, 3], type=schema.TensorType.FLOAT16, buffer=len(tree.buffers) - 1, name=b"s")
    graph.tensors.append(held)
    quantization = graph.tensors[graph.operators[1].inputs[1]].quantization
    quantization.scale = quantization.zeroPoint = None
    quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    quantization.details = schema.BlockwiseQuantizationT(scales=len(graph.tensors) - 1, blockSize=12)
    return tree


def test_blockwise_weights_have_one_scale_per_block(path: Path) -> None:
    original = read_net(path, "dense", "int8")
    path.write_bytes(pack_model(build_blockwise(30)))
    graph = read_graph(path)
    _, kernel = graph.kernels[0]
    assert kernel.shape == (10, 36) and kernel.block == 12 and kernel.zero_points == ()
    np.testing.assert_array_equal(kernel.scales, np.linspace(0.5, 1, 30, dtype=np.float16).astype(float))
    np.testing.assert_array_equal(kernel.data, original.kernels[0][1].data)
    assert sum(t.is_weight for t in graph.tensors) == sum(
        t.is_weight for t in original.tensors
    )  # scales are no weights


def test_blocks_that_do_not_cover_the_weights_are_refused(path: Path) -> None:
    path.write_bytes(pack_model(build_blockwise(29)))
    with pytest.raises(BadInput, match="29 blocks of 12"):
        read_graph(path)


def test_custom_quantisation_is_refused(path: Path) -> None:
    tree = build_blockwise(30)
    graph = tree.subgraphs[0]
    quantization = graph.tensors[graph.operators[1].inputs[1]].quantization
    quantization.detailsType = schema.QuantizationDetails.CustomQuantization
    quantization.details = schema.CustomQuantizationT()
    path.write_bytes(pack_model(tree))
    with pytest.raises(BadInput, match="custom scheme"):
        read_graph(path)


@pytest.mark.parametrize("cut", [0, 1])
def test_weights_behind_the_flatbuffer_are_read(path: Path, cut: int) -> None:
    """litert-quantizer writes files of 256 KiB or more so; `quantize` moves the weights inside."""
    original = read_net(path, "dense")
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_models.make_tflite("dense")))
    graph = tree.subgraphs[0]
    buffer = tree.buffers[graph.tensors[graph.operators[1].inputs[1]].buffer]
    data, buffer.data = bytes(buffer.data), None
    buffer.offset = buffer.size = 2**40  # so that packing keeps the fields at their full width
    start = len(pack_model(tree))
    buffer.offset, buffer.size = start, len(data)
    head = pack_model(tree)
    assert len(head) == start
    path.write_bytes(head + data[: len(data) - cut])
    if cut:
        with pytest.raises(BadInput, match="cut off or broken: buffer is smaller"):
            read_graph(path)
    else:
        np.testing.assert_array_equal(read_graph(path).kernels[0][1].data, original.kernels[0][1].data)


def build_shared(count: int) -> bytes:
    """Return a file whose tensors are one table, with a long name and many scales."""
    builder = flatbuffers.Builder()
    name = builder.CreateString("n" * count)
    scales = builder.CreateNumpyVector(np.ones(count, np.float32))
    schema.QuantizationParametersStart(builder)
    schema.QuantizationParametersAddScale(builder, scales)
    quantization = schema.QuantizationParametersEnd(builder)
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    schema.TensorAddQuantization(builder, quantization)
    tensor = schema.TensorEnd(builder)
    schema.BufferStart(builder)
    buffers = build_vector(builder, [schema.BufferEnd(builder)])
    tensors = build_vector(builder, [tensor] * count)
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graphs = build_vector(builder, [schema.SubGraphEnd(builder)])
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def build_vector(builder: Any, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in offsets:
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def test_tables_that_share_too_much_are_refused(path: Path) -> None:
    path.write_bytes(build_shared(10))
    assert len(read_graph(path).tensors) == 10
    path.write_bytes(build_shared(100_000))  # a megabyte that would take terabytes
    with deadline(), pytest.raises(BadInput, match="its tensors share more than a file can hold"):
        read_graph(path)
