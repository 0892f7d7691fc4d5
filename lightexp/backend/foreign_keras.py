"""Load Keras files of any origin without running their code: read as data, checked against allow-lists, rebuilt."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend import keras2_config, keras3_config, sandbox
from lightexp.backend.finite_weights import is_broken
from lightexp.backend.keras3_config import Config, make_broken_error
from lightexp.backend.keras3_graph import KerasGraph, read_graph
from lightexp.backend.keras_archive import ARCHITECTURE, ARCHIVE_WEIGHTS, LEGACY_WEIGHTS, VERSION
from lightexp.core.errors import BadInput
from lightexp.core.formatting import format_bytes
from lightexp.core.json_text import encode_json
from lightexp.core.layout import InputLayout, LayoutChoice, find_layout
from lightexp.core.model_files import find_model_problem
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit


@dataclass(frozen=True)
class ForeignModel:
    """A model from a file.

    Attributes:
        model: A flat Keras model.
        left_out: Names of layers that augment data and were left out, as lightexp augments data itself.
        removed: The activation at its end that was removed, `softmax` or `sigmoid`. Defaults to None.
    """

    model: Any
    left_out: list[str]
    removed: str | None = None


def check_file(path: Path, trust: bool, max_gb: float | None = None) -> None:
    """Refuse what `load_file` would refuse, as far as that can be seen without TensorFlow.

    Args:
        path: The file, or a SavedModel's folder.
        trust: Whether a SavedModel may be loaded, which can run code.
        max_gb: Gigabytes that the file may unpack to; see `size_limits.compute_size_limit`. Defaults to None.

    Raises:
        BadInput: If the file is damaged, holds anything but known layers, unpacks to too much, or is a SavedModel that
            is not trusted.
    """
    if problem := find_model_problem(path, trust):
        raise BadInput(problem)
    if path.is_dir():
        return
    with tempfile.TemporaryDirectory() as folder:
        architecture = extract_architecture(path, Path(folder), max_gb)
        if is_keras_3(Path(folder)):
            read_graph(path, architecture)


def load_file(
    path: Path, trust: bool, max_gb: float | None = None, shape: tuple[int, ...] | None = None
) -> ForeignModel:
    """Load an `.h5` or `.keras` of Keras 2 or 3, or a SavedModel that holds a Keras model, and flatten it.

    Args:
        path: As in `check_file`.
        trust: As in `check_file`.
        max_gb: As in `check_file`.
        shape: Shape of an example, for inputs whose size the file leaves open. Defaults to None: it stays open.

    Raises:
        BadInput: As `check_file`; if the weights do not fit the architecture or are not finite; if a SavedModel holds
            no Keras model; if a layer cannot be rebuilt or a model inside the model cannot be flattened.
    """
    if problem := find_model_problem(path, trust):
        raise BadInput(problem)
    model, left_out = (_load_saved_model(path, shape), []) if path.is_dir() else _load_keras_file(path, max_gb, shape)
    if any(is_broken(weights) for weights in model.get_weights()):
        raise BadInput(f"{path} holds weights that are NaN, infinite or far too large. Train or get it again.")
    from lightexp.backend.flatten import find_idle_layers, flatten_model

    try:
        return ForeignModel(flatten_model(model), [*left_out, *find_idle_layers(model)])
    except Exception as error:  # Keras raises many types for layers that cannot be called again
        raise _make_unreadable_error(path, error, "flattened into plain layers") from error


def fit_ends(model: Any, shape: tuple[int, ...], classes: int, choice: LayoutChoice) -> Any:
    """Return a model that takes examples as the data have them, and gives outputs `(n, classes)`.

    Args:
        model: The file's model, whose inputs and outputs may have another shape that fits; see `find_layout`.
        shape: Shape of an example.
        classes: Number of outputs.
        choice: Order of the axes of the file's inputs.
    """
    from lightexp.backend.flatten import flatten_model
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    layout = find_layout(shape, tuple(model.input_shape[1:]), choice)
    assert layout is not None
    ends_fit = model.output_shape[1:] == (classes,)
    if layout == InputLayout(False, shape) and ends_fit:
        return model
    x = examples = kl.Input(shape, name="examples")
    if layout.channels_first:
        x = kl.Permute((len(shape), *range(1, len(shape))), name="channels_first")(x)
    outputs = model(kl.Reshape(layout.shape, name="as_in_file")(x))
    if layout.channels_first and classes == math.prod(shape):  # an autoencoder's outputs, in the order of its inputs
        outputs = kl.Reshape((shape[-1], *shape[:-1]), name="outputs_as_in_file")(outputs)
        outputs = kl.Permute((*range(2, len(shape) + 1), 1), name="outputs_channels_last")(outputs)
    if outputs.shape[1:] != (classes,):
        outputs = kl.Reshape((classes,), name="outputs")(outputs)
    return flatten_model(import_keras().Model(examples, outputs))


def remove_activation(model: Any, removed: str) -> tuple[Any, bool]:
    """Return the model that gives logits: without the activation at its end, if it has that one.

    Args:
        model: The model.
        removed: The activation, `softmax` or `sigmoid`.

    Returns:
        The model, with the same weights, and whether it ended in the activation.
    """
    from lightexp.backend.session import import_keras

    last = model.layers[-1]
    activation = _get_function_name(last, "activation")
    is_activation_layer = (
        type(last).__name__ == removed.capitalize()
        or _get_function_name(last, "function") in (f"nn.{removed}", f"math.{removed}", removed)
        or (type(last).__name__ == "Activation" and activation == removed)
    )
    if is_activation_layer:
        return import_keras().Model(model.inputs, last.input), True
    if activation != removed:
        return model, False
    config = model.get_config()
    config["layers"][-1]["config"]["activation"] = "linear"
    linear = type(model).from_config(config)
    linear.set_weights(model.get_weights())
    return linear, True


def list_activations(model: Any) -> list[str]:
    """Return the activations that may make probabilities of a model's outputs; none of an autoencoder's."""
    inputs, outputs = model.input_shape[1:], model.output_shape[1:]
    is_autoencoder = None not in inputs and math.prod(inputs) == math.prod(outputs)
    return [] if is_autoencoder else ["softmax", "sigmoid"]


def _get_function_name(layer: Any, attribute: str) -> str:
    """Return the name of the function in a layer's attribute, or an empty string."""
    return str(getattr(getattr(layer, attribute, None), "__name__", ""))


def _load_keras_file(path: Path, max_gb: float | None, shape: tuple[int, ...] | None) -> tuple[Any, list[str]]:
    """Return a file's model, which may hold other models, and the names of layers that are not in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture = extract_architecture(path, folder, max_gb)
        available = sum(weights.stat().st_size for weights in folder.glob("*.h5"))
        if is_keras_3(folder):
            return _load_keras_3_file(read_graph(path, architecture, shape), folder, available, max_gb)
        _fill_open_shape(architecture, shape)
        _check_sizes(path, lambda: _build_model(path, architecture), available, max_gb)
        model = _build_model(path, architecture)
        weights = folder / LEGACY_WEIGHTS
        try:
            model.load_weights(weights if weights.exists() else folder / ARCHIVE_WEIGHTS)
        except Exception as error:  # tf_keras raises many types for weights that do not fit
            raise _make_unreadable_error(path, error) from error
    return model, []


def _load_keras_3_file(graph: KerasGraph, folder: Path, available: int, max_gb: float | None) -> tuple[Any, list[str]]:
    from lightexp.backend.keras3_rebuild import build_model
    from lightexp.backend.keras3_weights import load_weights

    _check_sizes(graph.path, lambda: build_model(graph)[0], available, max_gb)
    model, layers = build_model(graph)
    try:
        load_weights(graph, layers, folder)
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise make_broken_error(graph.path, " ".join(str(error).split())[:120]) from error
    return model, graph.left_out


def _fill_open_shape(architecture: Config, shape: tuple[int, ...] | None) -> None:
    """Write the shape of an example into the first layer of a Keras 2 architecture, where it leaves a size open."""
    config = architecture.get("config")
    layers = config.get("layers") if isinstance(config, dict) else config  # a list in old Sequential models
    for layer in layers if shape and isinstance(layers, list) else ():
        settings = layer.get("config") if isinstance(layer, dict) else None
        if not isinstance(settings, dict) or not isinstance(settings.get("batch_input_shape"), list):
            continue
        batch, *sizes = settings["batch_input_shape"] or [None]
        if shape and len(sizes) == len(shape):
            size_pairs = zip(sizes, shape, strict=True)
            settings["batch_input_shape"] = [batch, *(new if size is None else size for size, new in size_pairs)]


def _load_saved_model(path: Path, shape: tuple[int, ...] | None) -> Any:
    from lightexp.backend.session import import_keras

    try:
        model = import_keras().models.load_model(path, compile=False)
    except Exception as error:  # TensorFlow raises many types for what it cannot read
        raise _make_unreadable_error(path, error) from error
    if not hasattr(model, "to_json") or not hasattr(model, "get_config"):
        raise BadInput(f"{path} holds no Keras model. Convert it to a float .tflite and set model.path to that.")
    try:
        config = json.loads(model.to_json())
    except NotImplementedError:
        raise BadInput(f"{path} holds a model of its own class. Convert it to a float .tflite.") from None
    architecture = keras2_config.check_config(path, config)
    _fill_open_shape(architecture, shape)
    rebuilt = _build_model(path, architecture)
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _build_model(path: Path, architecture: Config) -> Any:
    from lightexp.backend.session import import_keras

    try:
        model = import_keras().models.model_from_json(encode_json(architecture))
    except Exception as error:  # Keras raises many types for a wrong config
        raise _make_unreadable_error(path, error) from error
    if not model.built:
        raise BadInput(f"{path} has no input shape. Save a model that was called once.")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        received = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise BadInput(f"{path} must have one input and one output. Received: {received}.")
    return model


def _check_sizes(path: Path, build: Callable[[], Any], available: int, max_gb: float | None) -> None:
    """Refuse more weights than the file has bytes for, and outputs of a layer that take far more memory than the file.

    Args:
        path: The file.
        build: Builds the model.
        available: Bytes of the weights.
        max_gb: As in `check_file`.

    Raises:
        BadInput: See above; or if the model cannot be built.
    """
    import tensorflow as tf

    from lightexp.backend.graph_mode import describe_only

    with describe_only():
        model = build()
        count = model.count_params()
        outputs = [tensor for layer in model.layers for tensor in tf.nest.flatten(layer.output)]
        largest = max(math.prod(length or 1 for length in tensor.shape) for tensor in outputs)
    if count > available:
        raise BadInput(f"{path} describes {count:,} weights and holds {format_bytes(available)}. Save it again.")
    limit = compute_size_limit(path.stat().st_size, max_gb)
    check_unpacked_size(path, 4 * largest, limit, "model.max_gb", "computes a tensor of")


def extract_architecture(path: Path, folder: Path, max_gb: float | None) -> Config:
    """Extract a Keras file's content in the sandbox and return its architecture, checked against the allow-lists.

    Args:
        path: As in `check_file`.
        folder: Where to; see `keras_archive.extract`.
        max_gb: As in `check_file`.

    Raises:
        BadInput: As `check_file`.
    """
    limit = compute_size_limit(path.stat().st_size, max_gb)
    sandbox.run_sandboxed("extract", path, np.empty(0, np.float32), out=str(folder), limit=limit)
    architecture = json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8"))
    check_config = keras3_config.check_config if is_keras_3(folder) else keras2_config.check_config
    return check_config(path, architecture)


def is_keras_3(folder: Path) -> bool:
    """Return whether Keras 3 wrote the file whose content is in `folder`."""
    return (folder / VERSION).read_text(encoding="ascii") == "3"


def _make_unreadable_error(path: Path, error: Exception, action: str = "read as a Keras model") -> BadInput:
    message = str(error).rpartition("Exception encountered: ")[2]  # Keras puts a layer's config before this
    return BadInput(f"{path} cannot be {action} ({' '.join(message.split())[:160]}). Save it again.")
