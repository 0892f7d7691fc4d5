"""Build the graph of a Keras 3 file with the layers of legacy Keras."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lightexp.backend.keras3_attention import AttentionLayers
from lightexp.backend.keras3_config import Config, make_broken_error, make_layer_error
from lightexp.backend.keras3_graph import KerasGraph, LayerSpec, TensorRef
from lightexp.backend.keras3_operations import apply_activation, apply_operation, is_simple_activation
from lightexp.backend.keras_names import KERAS_3_LAYERS, KERAS_3_PARTS
from lightexp.backend.session import import_keras, import_tensorflow
from lightexp.core import compat
from lightexp.core.errors import BadInput

_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
_IGNORED = frozenset(
    {"autocast", "dtype", "optional", "ragged", "seed", "sparse", "synchronized", "zero_output_for_mask"}
)
"""Settings of Keras 3 that change no result, or that legacy Keras sets itself."""
_STEPWISE = ("Activation", "Dense", "Dropout", "ELU", "LayerNormalization", "LeakyReLU", "ReLU", "Rescaling", "Softmax")
"""Layers that treat each step alike if they get all."""
_DEFAULTS = {"renorm_momentum": 0.99, "lora_alpha": None}
_PARTS = re.compile(r".*(initializer|regularizer|constraint)")


def build_model(graph: KerasGraph) -> tuple[Any, list[Any]]:
    """Build a model, whose weights are new.

    Args:
        graph: The architecture.

    Returns:
        The model, and its layer for each of `graph.layers`; None for an operation.

    Raises:
        BadInput: If a layer or an operation has settings that legacy Keras cannot express.
    """
    builder = _Builder(graph)
    layers = [None if spec.is_operation else builder.make_layer(spec) for spec in graph.layers]
    inputs = import_keras().Input(graph.shape, name=make_scope_name(graph.input_name), dtype=graph.dtype)
    results: list[list[Any]] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, TensorRef):
            return inputs if value.call < 0 else results[value.call][value.index]
        if isinstance(value, dict):
            return {key: resolve(item) for key, item in value.items()}
        return [resolve(item) for item in value] if isinstance(value, list) else value

    for call in graph.calls:
        spec, layer = graph.layers[call.layer], layers[call.layer]
        args, kwargs = resolve(call.args), resolve(call.kwargs)
        try:
            if layer is None:
                output = apply_operation(spec, args, kwargs)
            else:
                output = builder.call_layer(spec, layer, args, kwargs)
        except BadInput:
            raise
        except NotImplementedError as error:
            raise make_layer_error(graph.path, spec.name, spec.kind, f"{error}, which lightexp does not know") from None
        except Exception as error:  # Keras raises many types for arguments that do not fit
            message = " ".join(str(error).rpartition("Exception encountered: ")[2].split())[:120]
            raise make_layer_error(graph.path, spec.name, spec.kind, f"which cannot be called ({message})") from error
        results.append(import_tensorflow().nest.flatten(output))
    return import_keras().Model(inputs, resolve(graph.output), name="model"), layers


def make_scope_name(name: str) -> str:
    """Return a name that TensorFlow takes for a scope; see `tf.name_scope`."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"layer{name}"


class _Builder:
    """Makes layers of legacy Keras and calls them."""

    def __init__(self, graph: KerasGraph) -> None:
        self._graph = graph
        self._activations: dict[str, str | LayerSpec] = {}  # what follows a layer, by its name

    def make_layer(self, spec: LayerSpec) -> Any:
        if spec.kind == "MultiHeadAttention":
            try:
                return AttentionLayers(spec, self.make_layer)
            except NotImplementedError as error:
                problem = f"{error}, which lightexp does not know"
                raise make_layer_error(self._graph.path, spec.name, spec.kind, problem) from None
            except (KeyError, TypeError, ValueError) as error:
                raise make_broken_error(self._graph.path, f"layer {spec.name}: {error}") from error
        if spec.kind == "TimeDistributed":
            return self.make_layer(self._read_distributed(spec))
        config = dict(spec.config)
        activation = config.get("activation")
        if spec.kind != "Activation" and activation is not None and not is_simple_activation(activation):
            self._activations[spec.name] = self._read_activation(spec, activation)
            config["activation"] = "linear"
        if spec.kind == "Activation":
            if is_simple_activation(activation):
                return self._make(spec, "Activation", config)
            self._activations[spec.name] = self._read_activation(spec, activation)
            return self._make(spec, "Activation", {"activation": "linear"})
        return self._make(spec, spec.kind, config)

    def call_layer(self, spec: LayerSpec, layer: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(layer, AttentionLayers) or not compat.expects_training(layer):
            kwargs.pop("training", None)
        output = layer(*[arg for arg in args if arg is not None], **kwargs)
        activation = self._activations.get(spec.name)
        if isinstance(activation, LayerSpec):
            return self._make(activation, activation.kind, activation.config)(output)
        return output if activation is None else apply_activation(activation, output, spec.name)

    def _read_distributed(self, spec: LayerSpec) -> LayerSpec:
        """Return the layer that a `TimeDistributed` applies at each step, where it does that by itself."""
        inner = spec.config.get("layer")
        inner = inner if isinstance(inner, dict) else {}
        kind = inner.get("class_name")
        if kind not in _STEPWISE or not isinstance(inner.get("config"), dict):
            raise make_layer_error(self._graph.path, spec.name, f"TimeDistributed {kind}", "which cannot be rebuilt")
        config = {key: value for key, value in inner["config"].items() if key != "name"}
        return replace(spec, kind=kind, config={**config, "trainable": spec.config.get("trainable", True)})

    def _read_activation(self, spec: LayerSpec, activation: Any) -> str | LayerSpec:
        """Return the activation that follows a layer: its name, or a layer."""
        if isinstance(activation, str):
            return activation
        kind = activation["class_name"]
        if kind not in ("ELU", "LeakyReLU", "ReLU", "Softmax"):
            raise make_layer_error(self._graph.path, spec.name, kind, "an activation that lightexp does not know")
        config = {key: value for key, value in activation["config"].items() if key != "name"}
        name = f"{spec.name}_{activation['config']['name']}"
        return LayerSpec(name, kind, config, False, "", spec.owner, spec.rank)

    def _make(self, spec: LayerSpec, kind: str, config: Config) -> Any:
        """Make a layer of legacy Keras from the settings of Keras 3."""
        if kind not in KERAS_3_LAYERS:
            raise make_layer_error(self._graph.path, spec.name, kind, "which is no layer")
        layer_class = getattr(import_keras().layers, kind)
        if config.get("data_format") == "channels_first":
            raise make_layer_error(self._graph.path, spec.name, "channels_first", "a layout that the CPU does not run")
        renamed = _RENAMED.get(kind, {})
        config = {renamed.get(key, key): value for key, value in config.items()}
        accepted = _list_parameters(layer_class) | {"trainable"}
        arguments = {}
        for key, value in config.items():
            if key in accepted and key not in ("dtype", "seed"):
                arguments[key] = self._make_part(spec, key, value)
            elif value not in (None, False) and key not in _IGNORED and _DEFAULTS.get(key) != value:
                raise make_layer_error(self._graph.path, spec.name, f"{key}={value}", "a setting unknown to tf_keras")
        if kind == "Embedding" and isinstance(config.get("dtype"), str) and config["dtype"] != "float32":
            arguments["dtype"] = config["dtype"]
        try:
            return layer_class(**arguments, name=make_scope_name(spec.name))
        except Exception as error:  # Keras raises many types for wrong settings
            message = " ".join(str(error).split())[:120]
            raise make_broken_error(self._graph.path, f"layer {spec.name}: {message}") from error

    def _make_part(self, spec: LayerSpec, key: str, value: Any) -> Any:
        """Return a setting: an initialiser, regulariser or constraint as an object, an array, anything else as is."""
        if not isinstance(value, dict):
            return value
        if value.get("class_name") in ("__numpy__", "__tensor__"):
            return np.asarray(value["config"]["value"]).tolist()
        kind = str(value.get("class_name"))
        if spec.kind == "Bidirectional" and key in ("layer", "backward_layer"):
            settings = {name: item for name, item in value["config"].items() if name != "name"}
            return self._make(replace(spec, name=value["config"]["name"], kind=kind), kind, settings)
        if not (match := _PARTS.fullmatch(key)) or kind not in KERAS_3_PARTS:
            raise make_layer_error(
                self._graph.path, spec.name, f"{key}={kind}", "a setting that lightexp does not know"
            )
        part_class: Callable[..., Any] | None = getattr(getattr(import_keras(), f"{match[1]}s"), kind, None)
        if part_class is None:
            raise make_broken_error(self._graph.path, f"layer {spec.name}: {key} is {kind}")
        accepted = _list_parameters(part_class) - {"seed"}
        return part_class(**{name: item for name, item in value.get("config", {}).items() if name in accepted})


def _list_parameters(function: Callable[..., Any]) -> set[str]:
    """Return the names of a constructor's arguments."""
    return {name for name, p in inspect.signature(function).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD}
