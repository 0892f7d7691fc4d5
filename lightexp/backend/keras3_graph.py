"""A Keras architecture as a flat list of calls, read from the configs of Keras 3 without Keras."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from lightexp.backend.keras3_config import Config, make_broken_error, make_layer_error
from lightexp.backend.keras_names import IDLE_LAYERS, KERAS_3_OPERATIONS, MODELS, convert_to_snake_case
from lightexp.core.errors import BadInput

_MAX_CALLS = 20_000  # nested models that call each other can multiply
_IDLE = IDLE_LAYERS | {"Identity"}

Node = tuple[str, int]
"""Name of a layer in its model, and the number of its call."""


@dataclass(frozen=True)
class TensorRef:
    """A tensor of the graph.

    Attributes:
        call: Position of the call that makes it; -1 for the model's input.
        index: Its number among the results of the call.
    """

    call: int
    index: int


@dataclass(frozen=True)
class LayerSpec:
    """A layer or an operation.

    Attributes:
        name: Its name, unique in the graph.
        kind: Its class.
        config: Its settings, without name.
        is_operation: Whether it is an operation between layers, which has no weights.
        path: Where its weights are in `model.weights.h5`.
        owner: Name of the layer or model in the outermost model that it belongs to.
        rank: Its place in the file, among all layers.
    """

    name: str
    kind: str
    config: Config
    is_operation: bool
    path: str
    owner: str
    rank: int


@dataclass(frozen=True)
class LayerCall:
    """A call of a layer.

    Attributes:
        layer: Position of the layer in `KerasGraph.layers`.
        args: Arguments, in which tensors are `TensorRef`.
        kwargs: Named arguments.
    """

    layer: int
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass
class KerasGraph:
    """An architecture with one input and one output, without models inside.

    Attributes:
        path: The file, for messages.
        shape: Shape of the input without the batch; None where it is open.
        dtype: Data type of the input.
        input_name: Name of the input.
        layers: Layers, in the order of the file.
        calls: Calls, each after those that it depends on.
        output: The output.
        left_out: Names of layers that do nothing when the model is not trained.
    """

    path: Path
    shape: tuple[int | None, ...] = ()
    dtype: str = "float32"
    input_name: str = "input"
    layers: list[LayerSpec] = field(default_factory=list)
    calls: list[LayerCall] = field(default_factory=list)
    output: TensorRef = TensorRef(-1, 0)
    left_out: list[str] = field(default_factory=list)


def read_graph(path: Path, architecture: Config, shape: Sequence[int] | None = None) -> KerasGraph:
    """Read an architecture that `check_config` has checked.

    Args:
        path: The file, for messages.
        architecture: The architecture.
        shape: Shape of an example, for what the file leaves open. Defaults to None: it stays open.

    Raises:
        BadInput: If it is damaged, has several inputs or outputs, or a call that lightexp does not know.
    """
    graph = KerasGraph(path)
    try:
        _GraphReader(graph, shape).read(architecture)
    except BadInput:
        raise
    except CycleError:
        raise make_broken_error(path, "its layers call each other in a circle") from None
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        problem = " ".join(f"{type(error).__name__} {error}".split())[:80]
        raise make_broken_error(path, f"its architecture: {problem}") from error
    return graph


class _GraphReader:
    """Reads models and the models inside them into one graph."""

    def __init__(self, graph: KerasGraph, shape: Sequence[int] | None) -> None:
        self._graph, self._shape = graph, shape
        self._positions: dict[str, int] = {}  # of layers, by path
        self._names: set[str] = set()
        self._ranks: dict[str, int] = {}

    def read(self, model: Config) -> None:
        first = self._find_input(model)
        self._graph.input_name = _require_text(first.get("name", "input"))
        self._names.add(self._graph.input_name)
        self._graph.dtype = _require_text(first.get("dtype", "float32"))
        batch_shape = first.get("batch_shape", first.get("batch_input_shape"))
        if batch_shape is None:
            raise BadInput(f"{self._graph.path} has no input shape. Save a model that was called once.")
        _, *dims = batch_shape
        if self._shape is not None and len(dims) == len(self._shape):
            dims = [given if dim is None else dim for dim, given in zip(dims, self._shape, strict=True)]
        if not all(dim is None or (isinstance(dim, int) and dim > 0) for dim in dims):
            raise ValueError(f"the input's shape is {batch_shape}")
        self._graph.shape = tuple(dims)
        self._ranks = {place: rank for rank, place in enumerate(_iterate_paths(model, ""))}
        outputs = self._expand(model, [TensorRef(-1, 0)], "", "")
        if len(outputs) != 1:
            raise self._make_count_error("outputs", len(outputs))
        (self._graph.output,) = outputs

    def _find_input(self, model: Config) -> Config:
        """Return the settings of the outermost model's input layer."""
        config = model["config"]
        if model["class_name"] == "Sequential":
            if config["layers"] and config["layers"][0]["class_name"] == "InputLayer":
                return dict(config["layers"][0]["config"])
            return {"batch_shape": config.get("build_input_shape") or model.get("build_config", {}).get("input_shape")}
        inputs = _list_histories(config["input_layers"])
        if len(inputs) != 1:
            raise self._make_count_error("inputs", len(inputs))
        layers = {_get_name(layer): layer for layer in config["layers"]}
        return dict(layers[inputs[0][0]]["config"])

    def _make_count_error(self, ends: str, count: int) -> BadInput:
        return BadInput(f"{self._graph.path} must have one input and one output. Received: {count} {ends}.")

    def _expand(self, model: Config, inputs: list[TensorRef], path: str, owner: str) -> list[TensorRef]:
        """Add the calls of a model's layers.

        Args:
            model: The model.
            inputs: Tensors in place of its inputs.
            path: Where its weights are.
            owner: Name of the model in the outermost model; empty for that one.

        Returns:
            The model's outputs.
        """
        config = model["config"]
        paths = _list_weight_paths(config["layers"], path)
        if model["class_name"] == "Sequential":
            for layer, place in zip(config["layers"], paths, strict=True):
                if layer["class_name"] != "InputLayer":
                    inputs = self._call(layer, [inputs[0]], {}, place, owner)
            return inputs[:1]
        layers = {_get_name(layer): (layer, place) for layer, place in zip(config["layers"], paths, strict=True)}
        names = [name for name, _, _ in _list_histories(config["input_layers"])]
        results: dict[Node, list[TensorRef]] = {(name, 0): [tensor] for name, tensor in zip(names, inputs, strict=True)}
        nodes = {
            (name, number): (_list_arguments(call), _get_arguments(call))
            for name, (layer, _) in layers.items()
            if layer["class_name"] != "InputLayer"
            for number, call in enumerate(layer["inbound_nodes"])
        }
        order = TopologicalSorter({node: needed for node, (needed, _) in nodes.items()})
        for node in order.static_order():
            if node in results:
                continue
            args, kwargs = _replace_tensors(nodes[node][1], lambda name, call, i: results[name, call][i])
            layer, place = layers[node[0]]
            results[node] = self._call(layer, args, kwargs, place, owner)
        return [results[name, number][index] for name, number, index in _list_histories(config["output_layers"])]

    def _call(self, layer: Config, args: list[Any], kwargs: dict[str, Any], path: str, owner: str) -> list[TensorRef]:
        """Add the call of a layer, or the calls of a model's layers; return the results, as many as are known."""
        name, kind = _get_name(layer), layer["class_name"]
        owner = owner or name
        if len(self._graph.calls) > _MAX_CALLS:
            raise make_broken_error(self._graph.path, "its layers are called without end")
        if kind in MODELS:
            return self._expand(layer, list(_iterate_tensors(args)), path, owner)
        if kind in _IDLE:
            if kind in IDLE_LAYERS and name not in self._graph.left_out:
                self._graph.left_out.append(name)
            return list(_iterate_tensors(args))
        kwargs = self._check_arguments(name, kind, kwargs)
        self._graph.calls.append(LayerCall(self._add_layer(layer, path, owner), args, kwargs))
        position = len(self._graph.calls) - 1
        return [TensorRef(position, index) for index in range(8)]  # more results than any layer has

    def _check_arguments(self, name: str, kind: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the named arguments that change a result."""
        checked = {key: value for key, value in kwargs.items() if value is not None}
        if checked.get("training") is not False:  # Keras passes False to all layers of a model that is not trained
            checked.pop("training", None)
        known = {"training"}
        if kind == "MultiHeadAttention":
            checked = {key: value for key, value in checked.items() if value is not False}
            known |= {"query", "value", "key"}
        if kind not in KERAS_3_OPERATIONS and (odd := set(checked) - known):
            raise make_layer_error(self._graph.path, name, min(odd), "an argument that lightexp does not know")
        return checked

    def _add_layer(self, layer: Config, path: str, owner: str) -> int:
        """Return the position of a layer in the graph, to which it is added the first time."""
        if path not in self._positions:
            config = {key: value for key, value in layer["config"].items() if key != "name"}
            # An operation has no setting but its arguments'; in an .h5 its module is not named.
            is_operation = layer["class_name"] in KERAS_3_OPERATIONS and "trainable" not in config
            name = _get_name(layer)
            while name in self._names:
                name = f"{owner}_{name}"
            self._names.add(name)
            self._positions[path] = len(self._graph.layers)
            spec = LayerSpec(name, layer["class_name"], config, is_operation, path, owner, self._ranks[path])
            self._graph.layers.append(spec)
        return self._positions[path]


def _list_weight_paths(layers: list[Config], path: str) -> list[str]:
    """Return where the weights of a model's layers are: by class, numbered, as `model.weights.h5` has it.

    Operations, which have no weights, get paths by their names.
    """
    counts: Counter[str] = Counter()
    paths = []
    for layer in layers:
        kind = _require_text(layer["class_name"])
        if kind in KERAS_3_OPERATIONS and "trainable" not in layer["config"]:
            paths.append(f"{path}operations/{_get_name(layer)}")
            continue
        name = convert_to_snake_case(kind)
        paths.append(f"{path}layers/{name}" + (f"_{counts[name]}" if counts[name] else "") + "/")
        counts[name] += 1
    return paths


def _iterate_paths(model: Config, path: str) -> Iterator[str]:
    """Yield where the weights of all layers are, in the file's order."""
    layers = model["config"]["layers"]
    for layer, place in zip(layers, _list_weight_paths(layers, path), strict=True):
        if layer["class_name"] in MODELS:
            yield from _iterate_paths(layer, place)
        else:
            yield place


def _get_name(layer: Config) -> str:
    return _require_text(layer["config"]["name"])


def _require_text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a name is {value!r:.40}")
    return value


def _list_histories(ends: Any) -> list[tuple[str, int, int]]:
    """Return the tensors that `input_layers` or `output_layers` names: one, a list or a mapping of them."""
    if isinstance(ends, dict):
        return [history for end in ends.values() for history in _list_histories(end)]
    if len(ends) == 3 and isinstance(ends[0], str):
        return [(ends[0], ends[1], ends[2])]
    return [history for end in ends for history in _list_histories(end)]


def _get_arguments(call: Any) -> tuple[list[Any], dict[str, Any]]:
    return list(call["args"]), dict(call["kwargs"])


def _list_arguments(call: Any) -> list[Node]:
    """Return the calls whose results a call takes."""
    nodes: list[Node] = []

    def note(name: str, number: int, index: int) -> TensorRef:
        nodes.append((name, number))
        return TensorRef(-1, index)

    _replace_tensors(_get_arguments(call), note)
    return nodes


def _replace_tensors(value: Any, replace: Callable[[str, int, int], TensorRef]) -> Any:
    """Return arguments in which `replace` has replaced each tensor, given its layer, call and index."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            name, number, index = value["config"]["keras_history"]
            return replace(_require_text(name), int(number), int(index))
        return {key: _replace_tensors(item, replace) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replace_tensors(item, replace) for item in value)
    return value


def _iterate_tensors(value: Any) -> Iterator[TensorRef]:
    if isinstance(value, TensorRef):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _iterate_tensors(item)
