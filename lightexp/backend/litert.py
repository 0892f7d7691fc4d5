"""Runs `.tflite` files by LiteRT: the outputs of a data set, and the time of one example."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
from numpy.typing import NDArray

from lightexp.backend import flatbuffer, sandbox
from lightexp.backend.stderr import silence_stderr
from lightexp.core.data import Data, scale_inputs
from lightexp.core.errors import BadInput
from lightexp.core.preprocessing import Factor

LEAST_RUNS = 20
_A_CALL = 1000  # examples that a process apart is given at once
_INTEGERS = (np.int8, np.uint8, np.int16)


def compute_logits(
    tflite: Path,
    raw: NDArray[np.generic],
    data: Data,
    threads: int,
    batch: int = 50,
    foreign: bool = False,
) -> NDArray[np.float32]:
    """Runs a model over raw examples.

    Args:
        tflite: The model's file, of one input `(batch, *data.shape)` and one output `(batch, data.classes)`, in
            float32 or in quantised integers.
        raw: Examples as the data set stores them, `(n, *data.shape)`.
        data: The data set, for its shape, classes and input scaling, and for what the model gives.
        threads: How many threads compute.
        batch: How many examples go in at once; where the file fixes its batch, that counts.
        foreign: Whether somebody else made the file, so that it is run in a process of its own.

    Returns:
        Logits `(n, classes)`, dequantised where the file's outputs are integers; of a file that gives probabilities
        (see `Data.probabilities`) their logarithms.

    Raises:
        BadInput: If LiteRT cannot run the file, or its shapes are not the data set's.
    """
    found = np.empty((len(raw), data.classes), np.float32)
    if not len(raw):
        return found
    places = {"name": data.name, "shape": data.shape, "classes": data.classes}
    settings = {**places, "scale": data.scale, "offset": data.offset, "threads": threads, "batch": batch}
    for start in range(0, len(raw), _A_CALL if foreign else len(raw)):
        part = raw[start : start + _A_CALL] if foreign else raw
        found[start : start + len(part)] = (
            sandbox.run_sandboxed("run_model", tflite, part, **settings)
            if foreign
            else run_model(tflite, part, **settings)
        )
    gives = flatbuffer.read_graph(tflite).ends_in_softmax if data.probabilities is None else data.probabilities
    return np.log(np.clip(found, 1e-7, None)) if gives else found


def run_model(
    tflite: Path,
    raw: NDArray[np.generic],
    name: str,
    shape: Sequence[int],
    classes: int,
    scale: Factor,
    offset: Factor,
    threads: int,
    batch: int,
) -> NDArray[np.float32]:
    """What a model gives for one or more raw examples, `(n, classes)`; see `logits`."""
    found = np.empty((len(raw), classes), np.float32)
    model = _Model.open(tflite, (min(batch, len(raw)), *shape), threads)
    values = np.zeros(model.shape, model.source.dtype)
    for start in range(0, len(raw), len(values)):
        part = raw[start : start + len(values)]
        values[: len(part)] = model.source.encode(
            scale_inputs(part, scale, offset)
        )  # behind a shorter last one it is cut
        model.feed(values)
        model.invoke()
        out = model.read()
        if out.shape != (len(values), classes):
            raise BadInput(
                f"{tflite} gives outputs of shape {out.shape[1:]}, but {name} has {classes} classes: "
                f"({classes},). Take the data set that it was made for."
            )
        found[start : start + len(part)] = model.sink.decode(out[: len(part)])
    return found


def collect_ranges(tflite: Path, samples: NDArray[np.float32], threads: int, batch: int = 10) -> NDArray[np.float32]:
    """The least and the largest value that each float tensor of a model takes over all samples.

    Args:
        tflite: The float file.
        samples: Inputs as the model takes them, `(n, *shape)`.
        threads: How many threads compute.
        batch: How many go in at once: all tensors of so many are in memory together.

    Returns:
        `(tensors, 2)`, in the file's order; NaN for constants and for tensors that are not float.

    Raises:
        BadInput: As `logits`; or if a value is not finite.
    """
    tensors = flatbuffer.read_graph(tflite).tensors
    found = np.full((len(tensors), 2), np.nan, np.float32)
    wanted = [i for i, tensor in enumerate(tensors) if tensor.data is None and tensor.dtype == "FLOAT32"]
    model = _Model.open(tflite, (min(batch, len(samples)), *samples.shape[1:]), threads, keep=True)
    for start in range(0, len(samples), model.shape[0]):
        model.feed(np.resize(samples[start : start + model.shape[0]], model.shape))  # a last part is repeated
        model.invoke()
        for index in wanted:
            values = model.interpreter.get_tensor(index)
            if values.size:
                found[index] = np.fmin(found[index][0], values.min()), np.fmax(found[index][1], values.max())
            if not np.isfinite(values).all():
                raise BadInput(
                    f"{tflite} cannot be calibrated: '{tensors[index].name}' takes values that are not finite on "
                    "examples of the train split. Train the model again, with a smaller learning rate."
                )
    return found


def time_single_example(
    tflite: Path,
    example: NDArray[np.float32],
    warmup: int,
    runs: int,
    seconds: float = 1.0,
    foreign: bool = False,
) -> NDArray[np.float64]:
    """Times a model on one example and one thread.

    Args:
        tflite: The model's file.
        example: The example as the model's input, scaled, `(*shape)`.
        warmup: Runs that are not counted, over at most a quarter of `seconds`.
        runs: Runs that are counted; fewer, but not under 20, once `seconds` are over.
        seconds: See `runs`.
        foreign: As in `logits`.

    Returns:
        Microseconds of each run's `invoke`, `(runs,)`.

    Raises:
        BadInput: As `logits`.
    """
    if foreign:
        settings = {"warmup": warmup, "runs": runs, "seconds": seconds}
        return sandbox.run_sandboxed("time_single_example", tflite, example, **settings).astype(np.float64)
    model = _Model.open(tflite, (1, *example.shape), threads=1)
    model.feed(np.broadcast_to(model.source.encode(example), model.shape))
    _timed(model, warmup, 1, seconds / 4)
    return np.array(_timed(model, runs, LEAST_RUNS, seconds), np.float64) / 1e3


def _timed(model: _Model, runs: int, least: int, seconds: float) -> list[int]:
    taken: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    for _ in range(runs):
        start = time.perf_counter_ns()
        model.invoke()
        now = time.perf_counter_ns()
        taken.append(now - start)
        if now > end and len(taken) >= least:
            break
    return taken


@dataclass(frozen=True)
class _Port:
    """A model's input or output: its index, type and quantisation."""

    index: int
    dtype: type[np.generic]
    scale: float
    zero_point: int

    @classmethod
    def of(cls, details: dict[str, Any], tflite: Path) -> _Port:
        scale, zero_point = details["quantization"]
        dtype = details["dtype"]
        if dtype is not np.float32 and (dtype not in _INTEGERS or not scale):
            raise BadInput(
                f"{tflite}: input and output must be float32 or quantised int8, uint8 or int16. "
                f"Received: {np.dtype(dtype).name}{'' if scale else ' without a scale'}. Convert the model again."
            )
        return cls(int(details["index"]), dtype, float(scale), int(zero_point))

    def encode(self, values: NDArray[np.float32]) -> NDArray[np.generic]:
        if self.dtype is np.float32:
            return values
        limits = np.iinfo(self.dtype)  # type: ignore[type-var]
        scaled = np.rint(values / np.float32(self.scale)) + np.float32(self.zero_point)
        encoded: NDArray[np.generic] = np.clip(scaled, limits.min, limits.max).astype(self.dtype)
        return encoded

    def decode(self, values: NDArray[Any]) -> NDArray[np.float32]:
        if self.dtype is np.float32:
            return values
        return (values.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True)
class _Model:
    """An interpreter ready for inputs of one shape, `(batch, ...)`."""

    tflite: Path
    interpreter: Any
    source: _Port
    sink: _Port
    shape: tuple[int, ...]

    @classmethod
    def open(cls, tflite: Path, shape: tuple[int, ...], threads: int, keep: bool = False) -> _Model:
        """Opens a file for inputs of `shape`, or of the file's own batch where it has one; may `keep` all tensors."""
        with silence_stderr(), _plain_errors(tflite), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that keeping all tensors takes memory
            interpreter = Interpreter(str(tflite), num_threads=threads, experimental_preserve_all_tensors=keep)
            sources, sinks = interpreter.get_input_details(), interpreter.get_output_details()
        if len(sources) != 1 or len(sinks) != 1:
            raise BadInput(
                f"{tflite} must have one input and one output. Received: {len(sources)} and {len(sinks)}. "
                "Take a classifier of single examples."
            )
        batch, *rest = map(int, sources[0]["shape_signature"]) or (0,)
        if len(rest) != len(shape) - 1 or any(d not in (-1, want) for d, want in zip(rest, shape[1:], strict=True)):
            raise BadInput(
                f"{tflite} takes inputs of shape {tuple(rest)}, but the data set's are {shape[1:]}. "
                "Take the data set that it was made for."
            )
        source, sink = _Port.of(sources[0], tflite), _Port.of(sinks[0], tflite)
        shape = (shape[0] if batch == -1 else batch, *shape[1:])
        with silence_stderr(), _plain_errors(tflite):
            interpreter.resize_tensor_input(source.index, shape)
            try:
                interpreter.allocate_tensors()
            except RuntimeError:  # an open batch that the operators do not bear out
                if batch != -1:
                    raise
                shape = (1, *shape[1:])
                interpreter.resize_tensor_input(source.index, shape)
                interpreter.allocate_tensors()
        return cls(tflite, interpreter, source, sink, shape)

    def feed(self, values: NDArray[np.generic]) -> None:
        self.interpreter.set_tensor(self.source.index, values)

    def invoke(self) -> None:
        try:
            self.interpreter.invoke()
        except RuntimeError as error:
            raise _refused(self.tflite, error) from None

    def read(self) -> NDArray[Any]:
        out: NDArray[Any] = self.interpreter.get_tensor(self.sink.index)
        return out


@contextmanager
def _plain_errors(tflite: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise _refused(tflite, error) from None


def _refused(tflite: Path, error: Exception) -> BadInput:
    words = " ".join(str(error).split()).rstrip(".")
    return BadInput(f"LiteRT cannot run {tflite}: {words}. Convert it with LiteRT's built-in operators.")
