"""Run `.tflite` files with LiteRT: outputs on a data set, ranges of activations, latency of one example."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import flatbuffer, sandbox
from lightexp.backend.litert_model import LoadedModel
from lightexp.core import memmap
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.latency_quality import MAX_SPREAD
from lightexp.core.layout import LayoutChoice
from lightexp.core.preprocessing import Factor
from lightexp.core.streamed_array import Rows

MIN_TIMED_RUNS = 20
"""Runs that are timed even when the time is over."""
EXAMPLES_PER_CALL = 1000
"""Examples that are sent to the sandbox process at once."""
MAX_OUTPUT_BYTES = 1 << 22
"""Bytes of a split's outputs in memory; more are kept on disk."""
_BATCHES = 5  # whose medians are compared
_MIN_BATCH_US = 1_000.0  # of fast models, whose medians would otherwise rest on a tenth of a millisecond
_CLOCK_US = 0.02  # by which equal durations differ, since the clock ticks
_SMALLEST_PROBABILITY = 1e-7  # so that its logarithm is finite


@dataclass(frozen=True)
class ExampleSpec:
    """What a data set's raw examples look like and how they are scaled.

    Attributes:
        name: The data set's name, for messages.
        shape: Shape of one example.
        outputs: Number of the model's outputs.
        needs: What the data need of the outputs, for messages.
        scale: Inputs are `raw * scale + offset`; one number, or one for each channel.
        offset: See `scale`.
        layout: Order of the axes of the model's inputs; see `find_layout`.
    """

    name: str
    shape: tuple[int, ...]
    outputs: int
    needs: str
    scale: Factor
    offset: Factor
    layout: LayoutChoice = "auto"

    @classmethod
    def describe(cls, data: Data) -> ExampleSpec:
        """Return the description of a data set's examples."""
        needs = data.task.describe_outputs(data)
        return cls(data.name, data.shape, data.outputs, needs, data.scale, data.offset, data.layout)


def compute_logits(
    tflite: Path,
    raw: Rows,
    data: Data,
    threads: int,
    batch: int = 50,
    foreign: bool = False,
) -> NDArray[np.float32]:
    """Compute a model's outputs for raw examples, before the activation that ends the file, if one does.

    Args:
        tflite: A file with one input `(batch, *data.shape)` and one output `(batch, data.outputs)`, each float32 or
            quantised integers.
        raw: Examples as the data set stores them, `(n, *data.shape)`.
        data: The data set; its shape, task, input scaling and `probabilities` are used.
        threads: Number of LiteRT threads.
        batch: Examples per invocation, unless the file fixes its batch size. Defaults to 50.
        foreign: Whether the file is not lightexp's own, so that it must run in the sandbox process. Defaults to False.

    Returns:
        Outputs `(n, data.outputs)`, on disk if they are large: integers are dequantised, and probabilities (see
        `Data.probabilities`) replaced by logits.

    Raises:
        BadInput: If LiteRT cannot run the file, or its shapes do not match the data set's.
        RunFailed: If an output is NaN or infinite.
    """
    return collect_logits(iterate_logits(tflite, raw, data, threads, batch, foreign), (len(raw), data.outputs))


def collect_logits(chunks: Iterable[tuple[slice, NDArray[np.float32]]], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the logits of `iterate_logits` in one array of `shape`, on disk if they are large."""
    logits: NDArray[Any] = memmap.allocate(shape, np.float32, MAX_OUTPUT_BYTES)
    for chunk, values in chunks:
        logits[chunk] = values
        memmap.release_pages(logits[chunk])
    return logits


def iterate_logits(
    tflite: Path, raw: Rows, data: Data, threads: int, batch: int = 50, foreign: bool = False
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Compute the outputs of `compute_logits` and yield them with their places, chunk by chunk.

    Examples on disk are read by a thread, ahead of their use.
    """
    if not len(raw):
        return
    spec = ExampleSpec.describe(data)
    broken, has_probabilities = 0, None
    model = None if foreign else _open_model(tflite, len(raw), spec, threads, batch)
    for chunk, examples in memmap.read_in_chunks(raw, model.shape[0] if model else EXAMPLES_PER_CALL):
        part = _run_batches(model, examples, spec) if model else _run_sandboxed(tflite, examples, spec, threads, batch)
        broken += len(part) - int(np.count_nonzero(np.isfinite(part).all(axis=1)))
        if has_probabilities is None:  # now that the file is known to be readable
            has_probabilities = _has_probabilities(tflite, data)
        yield chunk, _invert_activation(part, data) if has_probabilities else part
    if broken:
        raise RunFailed(
            f"{tflite} gives NaN or infinity for {broken} of {len(raw)} examples. Lower the learning rate of its "
            "training, or compress it less."
        )


def _has_probabilities(tflite: Path, data: Data) -> bool:
    """Return whether a file gives probabilities, which `data.probabilities` or its last operator announce."""
    if data.probabilities is not None:
        return data.probabilities
    activation = data.task.activation
    return activation is not None and flatbuffer.read_graph(tflite).ends_in(activation)


def _run_sandboxed(
    tflite: Path, raw: NDArray[np.generic], spec: ExampleSpec, threads: int, batch: int
) -> NDArray[np.float32]:
    """Return the outputs of a file in the sandbox process for raw examples."""
    parts = [raw[start : start + EXAMPLES_PER_CALL] for start in range(0, len(raw), EXAMPLES_PER_CALL)]
    settings = {"spec": asdict(spec), "threads": threads, "batch": batch}
    return np.concatenate([sandbox.run_sandboxed("run_model", tflite, part, **settings) for part in parts])


def _invert_activation(outputs: NDArray[np.float32], data: Data) -> NDArray[np.float32]:
    """Return logits in place of probabilities."""
    if data.task.activation == "sigmoid":
        probabilities = np.clip(outputs, _SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
        logits: NDArray[np.float32] = np.log(probabilities / (1 - probabilities))
        return logits
    return np.log(np.clip(outputs, _SMALLEST_PROBABILITY, None))


def run_model(
    tflite: Path, raw: NDArray[np.generic], spec: ExampleSpec | Mapping[str, Any], threads: int, batch: int
) -> NDArray[np.float32]:
    """Return a model's dequantised outputs for at least one raw example.

    Args:
        tflite: The model's file.
        raw: Raw examples `(n, *spec.shape)`.
        spec: The examples' description; a mapping of its fields when the call comes from another process.
        threads: Number of LiteRT threads.
        batch: Examples per invocation, unless the file fixes its batch size.

    Returns:
        Outputs `(n, spec.outputs)`.

    Raises:
        BadInput: As `compute_logits`.
    """
    if isinstance(spec, Mapping):
        spec = ExampleSpec(**spec)
    return _run_batches(_open_model(tflite, len(raw), spec, threads, batch), raw, spec)


def _open_model(tflite: Path, examples: int, spec: ExampleSpec, threads: int, batch: int) -> LoadedModel:
    return LoadedModel.open(tflite, (min(batch, examples), *spec.shape), threads, layout=spec.layout)


def _run_batches(model: LoadedModel, raw: NDArray[np.generic], spec: ExampleSpec) -> NDArray[np.float32]:
    """Return the outputs of a loaded model for raw examples, batch by batch."""
    outputs = np.empty((len(raw), spec.outputs), np.float32)
    batch = model.shape[0]
    for start in range(0, len(raw), batch):
        part = raw[start : start + batch]
        model.write_input(part, spec.scale, spec.offset)
        model.invoke()
        output = model.get_output()
        if output.shape != (batch, spec.outputs):
            raise BadInput(
                f"{model.tflite} gives outputs of shape {output.shape[1:]}, but {spec.name} has {spec.needs}: "
                f"({spec.outputs},). Use the data set that the model was made for."
            )
        outputs[start : start + len(part)] = model.sink.decode(output[: len(part)])
    return outputs


def collect_ranges(
    tflite: Path, samples: NDArray[np.float32], threads: int, batch: int = 10, layout: LayoutChoice = "auto"
) -> NDArray[np.float32]:
    """Collect the smallest and largest value of each float tensor of a model over all samples.

    Args:
        tflite: The float file.
        samples: Scaled examples, `(n, *shape)`.
        threads: Number of LiteRT threads.
        batch: Examples per invocation; all tensors of one invocation are in memory together. Defaults to 10.
        layout: Order of the axes of the model's inputs; see `find_layout`. Defaults to `auto`.

    Returns:
        `(tensors, 2)`, in the file's order; NaN for constants and for tensors that are not float.

    Raises:
        BadInput: As `compute_logits`, or if a value is not finite.
    """
    tensors = flatbuffer.read_graph(tflite).tensors
    ranges = np.full((len(tensors), 2), np.nan, np.float32)
    activations = [i for i, tensor in enumerate(tensors) if tensor.data is None and tensor.dtype == "FLOAT32"]
    shape = (min(batch, len(samples)), *samples.shape[1:])
    model = LoadedModel.open(tflite, shape, threads, preserve_tensors=True, layout=layout)
    for start in range(0, len(samples), model.shape[0]):
        # `np.resize` repeats the examples of a shorter last part, which changes no range.
        model.set_input(np.resize(samples[start : start + model.shape[0]], model.shape))
        model.invoke()
        for index in activations:
            values = model.interpreter.get_tensor(index)
            if values.size:
                ranges[index] = np.fmin(ranges[index][0], values.min()), np.fmax(ranges[index][1], values.max())
            if not np.isfinite(values).all():
                raise BadInput(
                    f"{tflite} cannot be calibrated: '{tensors[index].name}' takes values that are not finite on "
                    "examples of the train split. Train the model again, with a smaller learning rate."
                )
    return ranges


def time_single_example(
    tflite: Path,
    example: NDArray[np.float32],
    warmup: int,
    runs: int,
    seconds: float = 2.0,
    foreign: bool = False,
) -> NDArray[np.float64]:
    """Time a model on one example and one thread, in batches, until the medians of the last five hardly differ.

    Args:
        tflite: The model's file.
        example: The example as the model's input, scaled, `(*shape)`.
        warmup: Runs that are not counted, at least one; they take at most an eighth of `seconds`.
        runs: Runs of five batches. There are more of a fast model, whose batches take 1 ms at least, and fewer, but at
            least 20, of a slow one, whose first five batches take at most half of `seconds`.
        seconds: Time after which no further batch begins. Defaults to 2.
        foreign: As in `compute_logits`. Defaults to False.

    Returns:
        Microseconds of each run's `invoke` in the five consecutive batches that differ least, `(5, runs of a batch)`.

    Raises:
        BadInput: As `compute_logits`.
    """
    if foreign:
        limits = {"warmup": warmup, "runs": runs, "seconds": seconds}
        return sandbox.run_sandboxed("time_single_example", tflite, example, **limits).astype(np.float64)
    model = LoadedModel.open(tflite, (1, *example.shape), threads=1)
    model.set_input(np.broadcast_to(model.source.encode(example), model.shape))
    usual = float(np.median(_time_runs(model, max(warmup, 1), seconds / 8)))
    count = min(max(runs / _BATCHES, _MIN_BATCH_US / usual), seconds * 1e6 / 2 / _BATCHES / usual)
    count = max(math.ceil(count), MIN_TIMED_RUNS // _BATCHES)
    end = time.perf_counter() + seconds
    batches = [_time_runs(model, count) for _ in range(_BATCHES)]
    quietest = batches
    while compute_spread(quietest) > MAX_SPREAD and time.perf_counter() < end:
        batches = [*batches[1:], _time_runs(model, count)]
        quietest = min(quietest, batches, key=compute_spread)
    return np.stack(quietest)


def compute_spread(batches: Sequence[NDArray[np.float64]] | NDArray[np.float64]) -> float:
    """Return the difference between the highest and the lowest median of batches, as a share of their median.

    Args:
        batches: Microseconds, `(batches, runs of a batch)`.
    """
    medians = np.median(batches, axis=1)
    return float(max(np.ptp(medians) - _CLOCK_US, 0.0) / np.median(medians))


def _time_runs(model: LoadedModel, runs: int, seconds: float = np.inf) -> NDArray[np.float64]:
    """Return microseconds of up to `runs` invocations; no further one begins after `seconds`."""
    durations: list[int] = []
    end = time.perf_counter_ns() + seconds * 1e9
    for _ in range(runs):
        start = time.perf_counter_ns()
        model.invoke()
        now = time.perf_counter_ns()
        durations.append(now - start)
        if now > end:
            break
    return np.array(durations, np.float64) / 1e3
