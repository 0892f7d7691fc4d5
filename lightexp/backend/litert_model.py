"""A `.tflite` file loaded by LiteRT: its input and output, their quantisation, and errors in one line."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from lightexp.backend.embedded_format import has_open_batch
from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import BadInput
from lightexp.core.layout import InputLayout, LayoutChoice, find_layout, has_outputs
from lightexp.core.preprocessing import Factor

_INTEGER_TYPES = (np.int8, np.uint8, np.int16)
BLOCK_BYTES = 1 << 22
"""Bytes of inputs that are computed at once; threads that decode images can take the interpreter's lock in between."""


@dataclass(frozen=True)
class TensorPort:
    """A model's input or output tensor.

    Attributes:
        index: The tensor's index in the file.
        dtype: Its NumPy type: float32, int8, uint8 or int16.
        scale: Quantisation scale; unused for float32.
        zero_point: Quantisation zero point; unused for float32.
    """

    index: int
    dtype: type[np.generic]
    scale: float
    zero_point: int

    @classmethod
    def from_details(cls, details: dict[str, Any], tflite: Path) -> TensorPort:
        """Read a port from LiteRT's tensor details.

        Raises:
            BadInput: If the type is not supported, or integers have no scale.
        """
        scale, zero_point = details["quantization"]
        dtype = details["dtype"]
        if dtype is not np.float32 and (dtype not in _INTEGER_TYPES or not scale):
            suffix = "" if scale else " without a scale"
            raise BadInput(
                f"{tflite}: input and output must be float32 or quantised int8, uint8 or int16. "
                f"Received: {np.dtype(dtype).name}{suffix}. Convert the model again."
            )
        return cls(int(details["index"]), dtype, float(scale), int(zero_point))

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.generic]:
        """Quantise real values: round to the nearest integer and clip to the type's range."""
        if self.dtype is np.float32:
            return values
        limits = np.iinfo(self.dtype)  # type: ignore[type-var]
        scaled = np.rint(values / np.float32(self.scale)) + np.float32(self.zero_point)
        encoded: NDArray[np.generic] = np.clip(scaled, limits.min, limits.max).astype(self.dtype)
        return encoded

    def decode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return the real values that quantised ones stand for."""
        if self.dtype is np.float32:
            return values
        return (values.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class LoadedModel:
    """A LiteRT interpreter with allocated tensors for inputs of one shape.

    Attributes:
        tflite: The model's file.
        interpreter: LiteRT's interpreter.
        source: The model's one input.
        sink: The model's one output.
        shape: Shape of the examples, batch first.
        layout: How examples become inputs.
    """

    tflite: Path
    interpreter: Any
    source: TensorPort
    sink: TensorPort
    shape: tuple[int, ...]
    layout: InputLayout

    @classmethod
    def open(
        cls,
        tflite: Path,
        shape: tuple[int, ...],
        threads: int,
        preserve_tensors: bool = False,
        layout: LayoutChoice = "auto",
    ) -> LoadedModel:
        """Open a file for examples of `shape`; a batch size fixed by the file takes precedence over `shape[0]`.

        Args:
            tflite: The model's file.
            shape: Shape of the examples, batch first.
            threads: Number of LiteRT threads.
            preserve_tensors: Whether intermediate tensors can be read after `invoke`. Defaults to False.
            layout: Order of the axes of the file's inputs; see `find_layout`. Defaults to `auto`.

        Raises:
            BadInput: If LiteRT cannot load the file, or its inputs and outputs are not as requested.
        """
        with silence_stderr(), _as_bad_input(tflite), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LiteRT warns that preserving all tensors takes memory
            interpreter = Interpreter(
                os.fsencode(tflite), num_threads=threads, experimental_preserve_all_tensors=preserve_tensors
            )
            inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise BadInput(
                f"{tflite} must have one input and one output. Received: {len(inputs)} and {len(outputs)}. "
                "Use a classifier of single examples."
            )
        batch, *rest = map(int, inputs[0]["shape_signature"]) or (0,)
        if batch == 1 and has_open_batch(tflite):
            batch = -1
        arrangement = _arrange(tflite, rest, shape[1:], layout)
        source, sink = TensorPort.from_details(inputs[0], tflite), TensorPort.from_details(outputs[0], tflite)
        shape = (shape[0] if batch == -1 else batch, *shape[1:])
        with silence_stderr(), _as_bad_input(tflite):
            interpreter.resize_tensor_input(source.index, (shape[0], *arrangement.shape))
            try:
                interpreter.allocate_tensors()
            except RuntimeError:
                if batch != -1:
                    raise
                # Some files declare an open batch size that their operators do not support.
                shape = (1, *shape[1:])
                interpreter.resize_tensor_input(source.index, (1, *arrangement.shape))
                interpreter.allocate_tensors()
        return cls(tflite, interpreter, source, sink, shape, arrangement)

    def set_input(self, values: NDArray[np.generic]) -> None:
        """Copy `values`, of `shape` and the input's type, to the input."""
        self.interpreter.set_tensor(self.source.index, self.layout.arrange(values))

    def write_input(self, raw: NDArray[np.generic], scale: Factor, offset: Factor) -> None:
        """Write `scale_inputs(raw, scale, offset)`, quantised, to the first rows of the input, and zeros to others.

        Integers are computed block by block, and floats in the input itself.

        Args:
            raw: At most as many raw examples as `shape` has.
            scale: See `scale_inputs`.
            offset: See `scale_inputs`.
        """
        inputs = self.layout.view(self.interpreter.tensor(self.source.index)(), self.shape[1:])
        inputs[len(raw) :] = 0  # LiteRT reuses the input's memory, so that nothing is left of the last examples
        rows = max(1, BLOCK_BYTES // (4 * math.prod(self.shape[1:])))
        factor, constant = np.asarray(scale, np.float32), np.asarray(offset, np.float32)
        is_float = self.source.dtype is np.float32
        for start in range(0, len(raw), rows):
            part = raw[start : start + rows]
            target = inputs[start : start + len(part)]
            scaled = target if is_float else np.empty(part.shape, np.float32)
            np.multiply(part, factor, out=scaled, dtype=np.float32, casting="unsafe")
            np.add(scaled, constant, out=scaled)
            if not is_float:
                target[:] = self.source.encode(scaled)

    def invoke(self) -> None:
        """Compute the output of the present input.

        Raises:
            BadInput: If LiteRT fails.
        """
        try:
            self.interpreter.invoke()
        except RuntimeError as error:
            raise _explain_unsupported_model(self.tflite, error) from None

    def get_output(self) -> NDArray[Any]:
        """Return a copy of the output, `(batch, outputs)` if it lies along one axis or has the shape of the input."""
        output: NDArray[Any] = self.interpreter.get_tensor(self.sink.index)
        count = output.size // max(len(output), 1) if output.ndim else 0
        if not count or not has_outputs(output.shape[1:], count, self.layout.shape):
            return output
        return self.layout.restore(output, self.shape[1:])


def _arrange(tflite: Path, expected: Sequence[int], example: tuple[int, ...], choice: LayoutChoice) -> InputLayout:
    """Return how examples become inputs.

    Args:
        tflite: The model's file, for messages.
        expected: Lengths of an input's axes; -1 where the file leaves one open.
        example: Shape of an example.
        choice: See `find_layout`.

    Raises:
        BadInput: If the file takes other inputs.
    """
    if len(expected) == len(example):
        expected = [size if n == -1 else n for n, size in zip(expected, example, strict=True)]
    if (layout := find_layout(example, tuple(expected), choice)) is not None:
        return layout
    raise BadInput(
        f"{tflite} takes inputs of shape {tuple(expected)}, but the data set's are {example}. "
        "Use the data set that the model was made for."
    )


@contextmanager
def _as_bad_input(tflite: Path) -> Iterator[None]:
    """Turn LiteRT's exceptions into one line for the user."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise _explain_unsupported_model(tflite, error) from None


def _explain_unsupported_model(tflite: Path, error: Exception) -> BadInput:
    message = " ".join(str(error).split()).rstrip(".")
    if "custom op: ethos-u" in message:
        return BadInput(f"{tflite} is compiled for an Ethos-U NPU, and runs there alone. Give the file before Vela.")
    return BadInput(f"LiteRT cannot run {tflite}: {message}. Convert it with LiteRT's built-in operators.")
