"""Times of a `.tflite` file's single operators, by the profiler in LiteRT's C library.

The Python package has no binding for the profiler, so this module calls the library's C functions, in the sandbox. The
package has no headers either: the structures below are those of LiteRT 2.3, and what the library says of tensors and
runs is checked.
"""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ctypes import byref, c_char_p, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend import sandbox
from lightexp.backend.flatbuffer import read_graph
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.json_text import encode_json
from lightexp.core.tflite_graph import TFLiteGraph, extract_layer_names

_CPU, _HOST_MEMORY = 1, 1  # an accelerator and a kind of memory
_OPERATOR_EVENTS = (1 << 1, 1 << 3)  # of LiteRT's own kernels, and of a delegate's
_OPTIONS = {b"runtime_options_string": b"enable_profiling = true\n", b"xnnpack": b"num_threads = 1\n"}
_KINDS = {
    **dict.fromkeys(("Convolution", "CONV_2D", "DEPTHWISE_CONV_2D"), "convolution"),
    **dict.fromkeys(("Deconvolution", "TRANSPOSE_CONV"), "deconvolution"),
    **dict.fromkeys(("Fully Connected", "FULLY_CONNECTED"), "dense"),
}
"""Kind of operator with a kernel, by how its name begins in XNNPACK or LiteRT."""
_RUNS_AT_ONCE = 50  # whose events are in memory together
_WARMUP_RUNS = 20


class _TensorLayout(ctypes.Structure):
    _fields_ = (("rank", c_uint32, 7), ("has_strides", c_uint32, 1), ("dims", c_int32 * 8), ("strides", c_uint32 * 8))


class _TensorType(ctypes.Structure):
    _fields_ = (("element", c_int), ("layout", _TensorLayout))


class _Event(ctypes.Structure):
    _fields_ = (
        *(("tag", c_char_p), ("kind", c_int), ("start_us", c_uint64), ("elapsed_us", c_uint64)),
        *(("memory", c_size_t * 6), ("index", c_uint64), ("other_index", c_uint64), ("source", c_int)),
    )


@dataclass(frozen=True)
class OperatorTime:
    """The time of an operator.

    Attributes:
        name: Its name in LiteRT, or in the delegate that runs it.
        layer: The layer whose kernel it computes with; empty where that is not known.
        us: Microseconds, the mean of the middle half of the runs.
    """

    name: str
    layer: str
    us: float


def profile_operators(tflite: Path, seconds: float = 0.5) -> list[OperatorTime]:
    """Return the operators that LiteRT runs for one example on one thread, in their order, with their microseconds.

    A delegate names its operators itself. XNNPACK rounds each time down to microseconds, so an operator that takes less
    than one counts as 0.

    Args:
        tflite: The file.
        seconds: How long to run it. Defaults to 0.5.

    Raises:
        BadInput: If LiteRT cannot run the file.
        RunFailed: If this version of LiteRT has another profiler.
    """
    encoded = sandbox.run_sandboxed("profile_in_process", tflite, np.empty(0, np.float32), seconds=seconds)
    times = json.loads(encoded.tobytes())
    layers = match_layers(read_graph(tflite), [name for name, _ in times])
    return [OperatorTime(name, layer, us) for (name, us), layer in zip(times, layers, strict=True)]


def match_layers(graph: TFLiteGraph, names: Sequence[str]) -> list[str]:
    """Return the layer of each operator that ran, or an empty text.

    Operators that compute with a kernel keep the file's order. If they are not the file's, nothing is matched.

    Args:
        graph: The file's graph.
        names: The operators' names, in the order in which they ran.
    """
    kinds = [next((kind for prefix, kind in _KINDS.items() if name.startswith(prefix)), "") for name in names]
    if [kind for kind in kinds if kind] != [_KINDS.get(op.kind, op.kind) for op, _ in graph.kernels]:
        return [""] * len(names)
    layers = (extract_layer_names(graph.title(op, kernel))[-1] for op, kernel in graph.kernels)
    return [next(layers) if kind else "" for kind in kinds]


def profile_in_process(tflite: Path, unused: NDArray[Any], seconds: float) -> NDArray[np.uint8]:
    """Profile a file in this process; to be called in the sandbox.

    Args:
        tflite: The file.
        unused: An array; calls of the sandbox pass one.
        seconds: How long to run it.

    Returns:
        The operators' names and microseconds, the mean of the middle half of the runs, as JSON.
    """
    with ExitStack() as stack:
        model = _ProfiledModel(tflite, stack)
        model.run(_WARMUP_RUNS)
        names: list[str] | None = None
        times: list[NDArray[np.int64]] = []
        end = time.perf_counter() + seconds
        while names is None or time.perf_counter() < end:
            with model.record_events():
                model.run(_RUNS_AT_ONCE)
            events = model.read_events()
            count = len(events) // _RUNS_AT_ONCE
            tags = [tag for tag, _ in events[:count]]
            if not count or [tag for tag, _ in events] != tags * _RUNS_AT_ONCE or tags != (names or tags):
                raise RunFailed(f"LiteRT's profiler did not report every run of {tflite} alike.")
            names = tags
            times.append(np.reshape([us for _, us in events], (_RUNS_AT_ONCE, count)))
        # The mean of the middle half: other processes hit some runs, and a median would have no fractions.
        ordered = np.sort(np.concatenate(times), axis=0)
        means = ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4].mean(axis=0)
        rows = [[name, mean] for name, mean in zip(names, means.tolist(), strict=True)]
        return np.frombuffer(encode_json(rows).encode(), np.uint8)


class _ProfiledModel:
    """A model compiled for the CPU with LiteRT's profiler, and buffers for one example."""

    def __init__(self, tflite: Path, stack: ExitStack) -> None:
        """Compile a file.

        Args:
            tflite: The file.
            stack: Takes what has to be destroyed in the end.

        Raises:
            BadInput: If LiteRT does not take the file.
            RunFailed: If this is another version of LiteRT.
        """
        spec = find_spec("ai_edge_litert")
        assert spec is not None and spec.submodule_search_locations
        self._library = ctypes.CDLL(str(Path(next(iter(spec.submodule_search_locations))) / "libLiteRt.so"))
        self._tflite, self._stack = tflite, stack
        self._references: list[Any] = []  # what the library uses, and Python would free
        self._environment = self._create("Environment", "CreateEnvironment", c_int(0), None)
        self._model = self._create("Model", "CreateModelFromFile", self._environment, bytes(tflite))
        options = self._create("Options", "CreateOptions")
        self._call("SetOptionsHardwareAccelerators", options, c_int(_CPU))
        for name, text in _OPTIONS.items():
            self._add_option(options, name, text)
        self._compiled = self._create("CompiledModel", "CreateCompiledModel", self._environment, self._model, options)
        self._profiler = self._get("CompiledModelGetProfiler", self._compiled)
        graph = read_graph(tflite)
        self._buffers = [
            self._create_buffer(kind, index, graph.tensors[tensor].shape)
            for kind, tensors in (("Input", graph.inputs), ("Output", graph.outputs))
            for index, tensor in enumerate(tensors)
        ]
        self._counts = len(graph.inputs), len(graph.outputs)

    def _add_option(self, options: c_void_p, name: bytes, text: bytes) -> None:
        # The options free the text by the function, which leaves that to Python.
        buffer, free = ctypes.create_string_buffer(text), ctypes.CFUNCTYPE(None, c_void_p)(lambda _: None)
        self._call("AddOpaqueOptions", options, self._get("CreateOpaqueOptions", name, buffer, free))
        self._references += [buffer, free]

    def run(self, runs: int) -> None:
        """Run the model on what the buffers hold."""
        inputs, outputs = self._counts
        sources = (c_void_p * inputs)(*self._buffers[:inputs])
        sinks = (c_void_p * outputs)(*self._buffers[inputs:])
        for _ in range(runs):
            self._call(
                "RunCompiledModel", self._compiled, c_size_t(0), c_size_t(inputs), sources, c_size_t(outputs), sinks
            )

    @contextmanager
    def record_events(self) -> Iterator[None]:
        """Record the events of runs, without those of earlier ones."""
        self._call("ResetProfiler", self._profiler)
        self._call("StartProfiler", self._profiler)
        yield
        self._call("StopProfiler", self._profiler)

    def read_events(self) -> list[tuple[str, int]]:
        """Return name and microseconds of each operator that was recorded, in their order."""
        count = c_int()
        self._call("GetNumProfilerEvents", self._profiler, byref(count))
        events = (_Event * max(count.value, 1))()
        self._call("GetProfilerEvents", self._profiler, count, events)
        operators = [event for event in events[: count.value] if event.kind in _OPERATOR_EVENTS]
        return [((event.tag or b"").decode(errors="replace"), event.elapsed_us) for event in operators]

    def _create_buffer(self, kind: str, index: int, shape: tuple[int, ...]) -> c_void_p:
        """Create the buffer of an input or an output, for one example."""
        requirements = self._get(
            f"GetCompiledModel{kind}BufferRequirements", self._compiled, c_size_t(0), c_size_t(index)
        )
        size, tensor_type = c_size_t(), _TensorType()
        self._call("GetTensorBufferRequirementsBufferSize", requirements, byref(size))
        subgraph = self._get("GetModelSubgraph", self._model, c_size_t(0))
        tensor = self._get(f"GetSubgraph{kind}", subgraph, c_size_t(index))
        self._call("GetRankedTensorType", tensor, byref(tensor_type))
        layout = tensor_type.layout
        for axis in range(layout.rank):
            layout.dims[axis] = max(layout.dims[axis], 1)  # -1 where the file leaves a length open
        if tuple(layout.dims[: layout.rank]) != shape:
            raise RunFailed("this version of LiteRT describes tensors in another way. Install ai-edge-litert 2.3.")
        return self._create(
            "TensorBuffer",
            "CreateManagedTensorBuffer",
            self._environment,
            c_int(_HOST_MEMORY),
            byref(tensor_type),
            size,
        )

    def _create(self, kind: str, function: str, *arguments: Any) -> c_void_p:
        """Return an object that a function creates; it is destroyed in the end."""
        handle = self._get(function, *arguments)
        self._stack.callback(getattr(self._library, f"LiteRtDestroy{kind}"), handle)
        return handle

    def _get(self, function: str, *arguments: Any) -> c_void_p:
        """Return an object that a function gives as its last argument."""
        handle = c_void_p()
        self._call(function, *arguments, byref(handle))
        return handle

    def _call(self, function: str, *arguments: Any) -> None:
        try:
            status = getattr(self._library, f"LiteRt{function}")(*arguments)
        except AttributeError:
            raise RunFailed(f"this version of LiteRT has no LiteRt{function}. Install ai-edge-litert 2.3.") from None
        if status:
            raise BadInput(f"LiteRT cannot profile {self._tflite}: LiteRt{function} fails with status {status}.")
