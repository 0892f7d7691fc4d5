"""Load Keras files of any origin without running their code: read as data, checked against allow-lists, rebuilt."""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend import sandbox
from lightexp.backend.finite_weights import is_broken
from lightexp.backend.keras_archive import ARCHITECTURE, ARCHIVE_WEIGHTS, LEGACY_WEIGHTS
from lightexp.core.errors import BadInput
from lightexp.core.formatting import format_bytes
from lightexp.core.json_text import encode_json
from lightexp.core.model_files import find_model_problem
from lightexp.core.size_limits import check_unpacked_size, compute_size_limit


def _parse_names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


_MODELS = frozenset({"Functional", "Model", "Sequential"})
_LAYERS = _parse_names(  # all that the converter supports with an open batch size, so no recurrent layers
    """
    Activation ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D BatchNormalization
    Concatenate Conv1D Conv2D Conv2DTranspose Cropping1D Cropping2D Dense DepthwiseConv1D DepthwiseConv2D Dot
    Dropout ELU Embedding Flatten GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalMaxPooling1D GlobalMaxPooling2D InputLayer LayerNormalization LeakyReLU MaxPooling1D MaxPooling2D
    Maximum Minimum Multiply Normalization PReLU Permute ReLU RepeatVector Rescaling Reshape SeparableConv1D
    SeparableConv2D Softmax SpatialDropout1D SpatialDropout2D Subtract TFOpLambda ThresholdedReLU
    UnitNormalization UpSampling1D UpSampling2D ZeroPadding1D ZeroPadding2D
    """
)
_LAYER_PARTS = _parse_names(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
    RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros L1 L1L2 L2 OrthogonalRegularizer MaxNorm
    MinMaxNorm NonNeg RadialConstraint UnitNorm Policy
    """
)
_ACTIVATIONS = _parse_names(
    """
    elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid silu softmax softplus softsign
    swish tanh
    """
)
_OPERATORS = _parse_names(  # TensorFlow functions between layers that have no side effects
    """
    __operators__.add __operators__.getitem compat.v1.nn.relu6 concat math.add math.multiply math.reduce_max
    math.reduce_mean math.subtract math.truediv nn.bias_add nn.leaky_relu nn.relu nn.relu6 nn.softmax reshape
    """
)
_OLD_NAMES = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}
_MODULE = re.compile(r"(tf_)?keras([.]\w+)*|tensorflow[.](python[.])?keras([.]\w+)*|builtins")

_MAX_DEPTH = 60  # of nested mappings and lists; Keras recurses as this module does

Config = dict[str, Any]


def check_file(path: Path, trust: bool, max_gb: float | None = None) -> None:
    """Refuse what `load_file` would refuse, as far as that can be seen without TensorFlow.

    Args:
        path: The file, or a SavedModel's folder.
        trust: Whether a SavedModel may be loaded, which can run code.
        max_gb: Gigabytes that the file may unpack to; see `size_limits.compute_size_limit`. Defaults to None.

    Raises:
        BadInput: If the file is damaged, was written by Keras 3, holds anything but known layers, unpacks to too much,
            or is a SavedModel that is not trusted.
    """
    if problem := find_model_problem(path, trust):
        raise BadInput(problem)
    if path.is_dir():
        return
    with tempfile.TemporaryDirectory() as folder:
        _extract_architecture(path, Path(folder), max_gb)


def read_input_rank(path: Path, trust: bool, max_gb: float | None = None) -> int | None:
    """Return the number of axes of an example that a Keras file takes; None for a SavedModel.

    Args:
        path: As in `check_file`.
        trust: As in `check_file`.
        max_gb: As in `check_file`.

    Raises:
        BadInput: As `check_file`.
    """
    if problem := find_model_problem(path, trust):
        raise BadInput(problem)
    if path.is_dir():
        return None
    with tempfile.TemporaryDirectory() as folder:
        shape = _find_input_shape(_extract_architecture(path, Path(folder), max_gb))
    return len(shape) - 1 if isinstance(shape, list) else None


def _find_input_shape(node: Any) -> Any:
    """Return the first input shape of a config, batch first; None if it holds none."""
    if isinstance(node, dict):
        own = node.get("batch_input_shape") or node.get("batch_shape")
        return own or next(filter(None, map(_find_input_shape, node.values())), None)
    return next(filter(None, map(_find_input_shape, node)), None) if isinstance(node, list) else None


def load_file(path: Path, trust: bool, max_gb: float | None = None) -> Any:
    """Load an `.h5`, a Keras 2 `.keras`, or a SavedModel that holds a Keras model, and flatten it.

    Args:
        path: As in `check_file`.
        trust: As in `check_file`.
        max_gb: As in `check_file`.

    Returns:
        A flat Keras model.

    Raises:
        BadInput: As `check_file`; if the weights do not fit the architecture or are not finite; if a SavedModel holds
            no Keras model; if a model inside the model cannot be flattened.
    """
    if problem := find_model_problem(path, trust):
        raise BadInput(problem)
    model = _load_saved_model(path) if path.is_dir() else _load_keras_file(path, max_gb)
    if any(is_broken(weights) for weights in model.get_weights()):
        raise BadInput(f"{path} holds weights that are NaN, infinite or far too large. Train or get it again.")
    from lightexp.backend.flatten import flatten_model

    try:
        return flatten_model(model)
    except Exception as error:  # Keras raises many types for layers that cannot be called again
        raise _unreadable(path, error, "flattened into plain layers") from error


def remove_softmax(model: Any) -> tuple[Any, bool]:
    """Return the model that gives logits: without the softmax at its end, if it has one.

    Returns:
        The model, with the same weights, and whether it ended in a softmax.
    """
    from lightexp.backend.session import import_keras

    last = model.layers[-1]
    activation = _function_name(last, "activation")
    is_softmax_layer = (
        type(last).__name__ == "Softmax"
        or _function_name(last, "function") in ("nn.softmax", "softmax")
        or (type(last).__name__ == "Activation" and activation == "softmax")
    )
    if is_softmax_layer:
        return import_keras().Model(model.inputs, last.input), True
    if activation != "softmax":
        return model, False
    config = model.get_config()
    config["layers"][-1]["config"]["activation"] = "linear"
    linear = type(model).from_config(config)
    linear.set_weights(model.get_weights())
    return linear, True


def _function_name(layer: Any, attribute: str) -> str:
    """Return the name of the function in a layer's attribute, or an empty string."""
    return str(getattr(getattr(layer, attribute, None), "__name__", ""))


def _load_keras_file(path: Path, max_gb: float | None) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        architecture = _extract_architecture(path, Path(folder), max_gb)
        weights = Path(folder) / LEGACY_WEIGHTS
        if not weights.exists():
            weights = Path(folder) / ARCHIVE_WEIGHTS
        _check_sizes(path, architecture, weights.stat().st_size, max_gb)
        model = _build_model(path, architecture)
        try:
            model.load_weights(weights)
        except Exception as error:  # tf_keras raises many types for weights that do not fit
            raise _unreadable(path, error) from error
    return model


def _load_saved_model(path: Path) -> Any:
    from lightexp.backend.session import import_keras

    try:
        model = import_keras().models.load_model(path, compile=False)
    except Exception as error:  # TensorFlow raises many types for what it cannot read
        raise _unreadable(path, error) from error
    if not hasattr(model, "to_json") or not hasattr(model, "get_config"):
        raise BadInput(f"{path} holds no Keras model. Convert it to a float .tflite and set model.path to that.")
    try:
        config = json.loads(model.to_json())
    except NotImplementedError:
        raise BadInput(f"{path} holds a model of its own class. Convert it to a float .tflite.") from None
    rebuilt = _build_model(path, _check_architecture(path, config))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _build_model(path: Path, architecture: Config) -> Any:
    from lightexp.backend.session import import_keras

    try:
        model = import_keras().models.model_from_json(encode_json(architecture))
    except Exception as error:  # Keras raises many types for a wrong config
        raise _unreadable(path, error) from error
    if not model.built or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(f"{path} must have one input of known shape and one output. Save a model that was called once.")
    return model


def _check_sizes(path: Path, architecture: Config, available: int, max_gb: float | None) -> None:
    """Refuse more weights than the file has bytes for, and outputs of a layer that take far more memory than the file.

    Raises:
        BadInput: See above; or if the model cannot be built.
    """
    import tensorflow as tf

    with tf.Graph().as_default():  # in which weights and outputs are only described
        model = _build_model(path, architecture)
        count = model.count_params()
        outputs = [tensor for layer in model.layers for tensor in tf.nest.flatten(layer.output)]
        largest = max(math.prod(length or 1 for length in tensor.shape) for tensor in outputs)
    if count > available:
        raise BadInput(f"{path} describes {count:,} weights and holds {format_bytes(available)}. Save it again.")
    limit = compute_size_limit(path.stat().st_size, max_gb)
    check_unpacked_size(path, 4 * largest, limit, "model.max_gb", "computes a tensor of")


def _extract_architecture(path: Path, folder: Path, max_gb: float | None) -> Config:
    """Extract the file's content into `folder` and return its architecture, checked."""
    limit = compute_size_limit(path.stat().st_size, max_gb)
    sandbox.run_sandboxed("extract", path, np.empty(0, np.float32), out=str(folder), limit=limit)
    return _check_architecture(path, json.loads((folder / ARCHITECTURE).read_text(encoding="utf-8")))


def _check_architecture(path: Path, architecture: Any) -> Config:
    name = architecture.get("class_name") if isinstance(architecture, dict) else architecture
    if not isinstance(architecture, dict) or not isinstance(name, str) or name not in _MODELS:
        raise BadInput(f"{path} must hold a Sequential or Functional model. Received: {name!r:.60}.")
    checked: Config = _check_names(path, architecture)
    return checked


def _check_names(path: Path, node: Any, depth: int = 0) -> Any:
    """Return a copy of a part of a config in which every name is on an allow-list.

    The copy has the plain form that Keras resolves among its own objects only.

    Raises:
        BadInput: If a name is on no list, or no text.
    """
    if depth > _MAX_DEPTH:
        raise BadInput(f"{path} is broken (its architecture is nested without end). Get or save it again.")
    if isinstance(node, list):
        return [_check_names(path, item, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key not in ("build_config", "compile_config")}
    if "class_name" in node:
        module, name = node.pop("module", None), _require_name(path, "class_name", node["class_name"])
        name = _OLD_NAMES.get(name, name)
        registered = node.pop("registered_name", None)
        if not isinstance(node.get("config", {}), dict | list):
            raise _wrong_type(path, "config", node["config"])
        if name not in _MODELS | _LAYERS | _LAYER_PARTS or (module and not _MODULE.fullmatch(str(module))):
            raise _unknown_name(path, str(registered or name))
        if name == "Policy":  # a policy of data types; lightexp computes in float32
            return "float32"
        node["class_name"] = name
    for key, value in node.items():
        if key == "function" and _require_name(path, key, value) not in _OPERATORS:
            raise _unknown_name(path, value)
        if key.endswith("activation") and isinstance(value, str) and value not in _ACTIVATIONS:
            raise _unknown_name(path, value)
    return {key: _check_names(path, value, depth + 1) for key, value in node.items()}


def _require_name(path: Path, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(path, key, value)
    return value


def _wrong_type(path: Path, key: str, value: Any) -> BadInput:
    return BadInput(f"{path} is broken (its architecture holds {key}: {value!r:.60}). Get or save it again.")


def _unknown_name(path: Path, name: str) -> BadInput:
    return BadInput(
        f"{path} holds {name[:60]!r}, which is not among the layers that lightexp knows, and code from a file is never "
        "run. Convert the model to a float .tflite and set model.path to that."
    )


def _unreadable(path: Path, error: Exception, action: str = "read as a Keras model") -> BadInput:
    message = str(error).rpartition("Exception encountered: ")[2]  # Keras puts a layer's config before this
    return BadInput(f"{path} cannot be {action} ({' '.join(message.split())[:160]}). Save it again.")
