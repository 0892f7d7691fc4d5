"""Tests of `.tflite` files that cannot be rebuilt: unknown operators, quantised ones, and broken ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from lightexp.backend import flatbuffer
from lightexp.backend.tflite_import import describe_model
from lightexp.core.errors import BadInput
from lightexp.models.from_file import FromFile
from lightexp.models.trainable_tflite import TrainableTFLite
from lightexp.stages.encode import Encode
from lightexp.stages.qat import Qat
from lightexp.stages.quantize import Quantize

FILES = Path(__file__).parent / "tflite_files"
NAMES = sorted(path.name for path in FILES.glob("*.tflite"))
SHAPE, CLASSES = (8, 8, 2), 4


def refuse(path: Path, shape: tuple[int, ...] = SHAPE, classes: int = CLASSES) -> str:
    """Return the line with which a file is refused."""
    with pytest.raises(BadInput) as caught:
        describe_model(path, shape, classes)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message


def rewrite(source: str, folder: Path, change: Callable[[Any, Any], None]) -> Path:
    """Write a file after a change of its model and its main graph, as objects of the schema."""
    model = schema.ModelT.InitFromPackedBuf((FILES / source).read_bytes())
    change(model, model.subgraphs[0])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    path = folder / "changed.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def find_operator(model: Any, graph: Any, kind: str) -> Any:
    """Return the first operator of a kind."""
    code = getattr(schema.BuiltinOperator, kind)
    return next(op for op in graph.operators if model.operatorCodes[op.opcodeIndex].builtinCode == code)


def replace_kind(old: str, new: str) -> Callable[[Any, Any], None]:
    """Return a change of all operators of a kind."""

    def change(model: Any, graph: Any) -> None:
        index = find_operator(model, graph, old).opcodeIndex
        model.operatorCodes[index].builtinCode = getattr(schema.BuiltinOperator, new)
        model.operatorCodes[index].deprecatedBuiltinCode = getattr(schema.BuiltinOperator, new)

    return change


def test_unknown_operator_is_named_with_its_output(tmp_path: Path) -> None:
    message = refuse(rewrite("litert_torch_mlp.tflite", tmp_path, replace_kind("TANH", "SIN")))
    assert "cannot be trained: its SIN '__main__.Mlp/torch.nn.modules.container.Sequential_net/" in message
    assert "has no equivalent among the layers that lightexp trains" in message
    assert message.endswith(
        "pipeline=quantize, encode or sensitivity; or take it as a teacher (objective.teacher=FILE)."
    )


def test_other_shapes_of_the_data_are_refused() -> None:
    path = FILES / "litert_torch_residual.tflite"
    assert "takes inputs of shape (1, 2, 8, 8), the data have examples of (9, 9, 2)" in refuse(path, (9, 9, 2))
    assert "has outputs of shape (1, 4), the data need 10 numbers" in refuse(path, classes=10)


def change_kernel_shape(model: Any, graph: Any) -> None:
    op = find_operator(model, graph, "CONV_2D")
    graph.tensors[op.inputs[1]].shape = graph.tensors[op.inputs[1]].shape[[0, 2, 3, 1]]


def change_dense_shape(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find_operator(model, graph, "FULLY_CONNECTED").inputs[1]]
    tensor.shape = tensor.shape[::-1]


def change_bias_shape(model: Any, graph: Any) -> None:
    graph.tensors[find_operator(model, graph, "CONV_2D").inputs[2]].shape = np.array([2, 2], np.int32)


def change_stride(model: Any, graph: Any) -> None:
    find_operator(model, graph, "CONV_2D").builtinOptions.strideW = 0


def change_output_shape(model: Any, graph: Any) -> None:
    graph.tensors[find_operator(model, graph, "CONV_2D").outputs[0]].shape = np.array([1, 8, 8, 5], np.int32)


def change_batch(model: Any, graph: Any) -> None:
    graph.tensors[graph.inputs[0]].shape = np.array([5, 8, 8, 2], np.int32)


def change_options(model: Any, graph: Any) -> None:
    find_operator(model, graph, "ADD").builtinOptionsType = schema.BuiltinOptions.SoftmaxOptions
    find_operator(model, graph, "ADD").builtinOptions = schema.SoftmaxOptionsT()


def remove_weights(model: Any, graph: Any) -> None:
    model.buffers[graph.tensors[find_operator(model, graph, "CONV_2D").inputs[1]].buffer].data = None


def change_axes(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find_operator(model, graph, "MEAN").inputs[1]]
    model.buffers[tensor.buffer].data = np.array([7, 9], "<i4").view(np.uint8)


def grow_padding(model: Any, graph: Any) -> None:
    tensor = graph.tensors[find_operator(model, graph, "PAD").inputs[1]]
    table = np.zeros((4, 2), "<i4")
    table[1:3] = 2**30
    model.buffers[tensor.buffer].data = table.view(np.uint8).reshape(-1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_kernel_shape, "is broken: its CONV_2D '"),
        (change_dense_shape, "is broken: its FULLY_CONNECTED '"),
        (change_bias_shape, "has a bias of shape (2, 2) for 4 outputs"),
        (change_stride, "has strides (1, 0) and padding 0"),
        (change_output_shape, "makes (1, 8, 8, 4), and the file states (1, 8, 8, 5)"),
        (change_batch, "takes inputs of shape (5, 8, 8, 2), the data have examples of (8, 8, 2)"),
        (change_options, "is cut off or broken: a ADD has the options of another operator"),
        (remove_weights, "is broken: nothing computes '"),
        (change_axes, "has axis 7 of a tensor of rank 4"),
        (grow_padding, "is broken: its PAD '"),
    ],
)
def test_constants_that_disagree_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    assert message in refuse(rewrite("onnx2tf_residual.tflite", tmp_path, change))


@pytest.mark.parametrize("index", [-1, 0])
def test_decoding_of_what_is_no_constant_is_refused(index: int, tmp_path: Path) -> None:
    def change(model: Any, graph: Any) -> None:
        op = find_operator(model, graph, "DEQUANTIZE")
        if index == 0:  # a constant that another operator makes
            model.buffers[graph.tensors[op.inputs[0]].buffer].data = None
        else:
            op.inputs = np.array([-1], np.int32)

    message = refuse(rewrite("onnx2tf_mlp.tflite", tmp_path, change))
    assert "is broken: its DEQUANTIZE '" in message or "nothing computes" in message


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return the content with some bytes altered, or truncated."""
    if rng.random() < 0.1:
        return content[: rng.randrange(len(content))]
    altered = bytearray(content)
    for _ in range(rng.choice([1, 2, 8])):
        altered[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    return bytes(altered)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_file_is_translated_or_refused(name: str, tmp_path: Path, mutants: int) -> None:
    """No file may raise another error than BadInput, or state a layer that is far larger than the file."""
    content, rng = (FILES / name).read_bytes(), random.Random(name)
    path, messages = tmp_path / name, []
    for _ in range(mutants):
        path.write_bytes(damage(content, rng))
        try:
            TrainableTFLite(str(path)).check(SHAPE, CLASSES)
        except BadInput as error:
            messages.append(str(error))
    assert messages
    wrong = [line for line in messages if "\n" in line or not line.startswith(str(path)) or len(line) > 900]
    assert wrong == []


def test_only_training_stages_need_layers(tmp_path: Path) -> None:
    from lightexp.objectives.cross_entropy import CrossEntropy

    path = FILES / "onnx2tf_residual.tflite"
    model = FromFile(str(path))
    assert model.adapt([Quantize(), Encode()]) is model
    adapted = model.adapt([Qat(objective=CrossEntropy())])
    assert isinstance(adapted, TrainableTFLite)
    assert adapted.digest == model.digest
    assert flatbuffer.read_graph(FILES / "onnx2tf_mlp.tflite").computes_in_float  # float16 behind DEQUANTIZE
