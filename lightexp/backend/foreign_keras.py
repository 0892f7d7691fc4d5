"""Keras models that are not ours: read as data, checked against what is known, and rebuilt. None of their code runs."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend import sandbox
from lightexp.backend.keras_archive import ARCHITECTURE, LEGACY, NAMED
from lightexp.core.errors import BadInput


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MODELS = frozenset({"Functional", "Model", "Sequential"})
_LAYERS = _names(  # all that the converter takes with an open batch, which leaves out recurrent ones
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
_PARTS = _names(
    """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones Orthogonal
    RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros L1 L1L2 L2 OrthogonalRegularizer MaxNorm
    MinMaxNorm NonNeg RadialConstraint UnitNorm Policy
    """
)
_ACTIVATIONS = _names(
    """
    elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid silu softmax softplus softsign
    swish tanh
    """
)
_OPERATORS = _names(  # TensorFlow functions between layers that only compute
    """
    __operators__.add __operators__.getitem compat.v1.nn.relu6 concat math.add math.multiply math.reduce_max
    math.reduce_mean math.subtract math.truediv nn.bias_add nn.leaky_relu nn.relu nn.relu6 nn.softmax reshape
    """
)
_OLD_NAMES = {"BatchNormalizationV1": "BatchNormalization", "BatchNormalizationV2": "BatchNormalization"}
_MODULE = re.compile(r"(tf_)?keras([.]\w+)*|tensorflow[.](python[.])?keras([.]\w+)*|builtins")

Config = dict[str, Any]


def check_file(path: Path, trust: bool) -> None:
    """Refuses what `load` would refuse, as far as that is seen without TensorFlow.

    Raises:
        BadInput: If the file is broken, of Keras 3, holds anything but known layers, or is an untrusted SavedModel.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise BadInput(f"{path} is a folder without saved_model.pb, so no SavedModel. Set model.path=FILE")
        if not trust:
            raise BadInput(
                f"{path} is a SavedModel, which can run code of its own. "
                "If you know where it is from, set model.trust=true"
            )
        return
    with tempfile.TemporaryDirectory() as folder:
        _architecture(path, Path(folder))


def load_file(path: Path, trust: bool) -> Any:
    """Reads `.h5`, a Keras 2 `.keras`, or a SavedModel that holds a Keras model; models inside it are taken apart.

    Raises:
        BadInput: As `check`; if the weights do not fit the architecture or are not finite; if a SavedModel holds no
            Keras model; if a model inside cannot be taken apart.
    """
    check_file(path, trust)
    model = _from_saved_model(path) if path.is_dir() else _from_file(path)
    if not all(np.isfinite(w).all() for w in model.get_weights()):
        raise BadInput(f"{path} holds weights that are NaN or infinite. Train or get it again.")
    from lightexp.backend.flatten import flatten_model

    try:
        return flatten_model(model)
    except Exception as error:  # Keras raises many kinds at layers that cannot be called anew
        raise _broken(path, error, "taken apart into plain layers") from error


def _from_file(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model = _built(path, _architecture(path, Path(folder)))
        weights = Path(folder) / LEGACY
        if not weights.exists():
            weights = Path(folder) / NAMED
        try:
            model.load_weights(weights)
        except Exception as error:  # tf_keras raises many kinds at weights that do not fit
            raise _broken(path, error) from error
    return model


def without_softmax(model: Any) -> tuple[Any, bool]:
    """The model that gives logits: one that ends in a softmax loses it.

    Returns:
        The model, with the same weights, and whether it did end in a softmax.
    """
    from lightexp.backend.session import import_keras

    last = model.layers[-1]
    is_softmax = type(last).__name__ == "Softmax" or _name(last, "function") in ("nn.softmax", "softmax")
    if is_softmax or (type(last).__name__ == "Activation" and _activation(last) == "softmax"):
        return import_keras().Model(model.inputs, last.input), True
    if _activation(last) != "softmax":
        return model, False
    config = model.get_config()
    config["layers"][-1]["config"]["activation"] = "linear"
    bare = type(model).from_config(config)
    bare.set_weights(model.get_weights())
    return bare, True


def _activation(layer: Any) -> str:
    function = getattr(layer, "activation", None)
    return str(getattr(function, "__name__", ""))


def _name(layer: Any, attribute: str) -> str:
    return str(getattr(getattr(layer, attribute, None), "__name__", ""))


def _from_saved_model(path: Path) -> Any:
    from lightexp.backend.session import import_keras

    try:
        model = import_keras().models.load_model(path, compile=False)
    except Exception as error:  # TensorFlow raises many kinds at what it cannot read
        raise _broken(path, error) from error
    if not hasattr(model, "to_json") or not hasattr(model, "get_config"):
        raise BadInput(f"{path} holds no Keras model. Convert it to a float .tflite and set model.path to that.")
    try:
        config = json.loads(model.to_json())
    except NotImplementedError:
        raise BadInput(f"{path} holds a model of its own class. Convert it to a float .tflite.") from None
    rebuilt = _built(path, _checked(path, config))
    rebuilt.set_weights(model.get_weights())
    return rebuilt


def _built(path: Path, architecture: Config) -> Any:
    from lightexp.backend.session import import_keras

    try:
        model = import_keras().models.model_from_json(json.dumps(architecture))
    except Exception as error:  # as many kinds as there are ways to be wrong
        raise _broken(path, error) from error
    if not model.built or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BadInput(f"{path} must have one input of known shape and one output. Save a model that was called once.")
    return model


def _architecture(path: Path, folder: Path) -> Config:
    sandbox.run_sandboxed("extract", path, np.empty(0, np.float32), out=str(folder))
    return _checked(path, json.loads((folder / ARCHITECTURE).read_text()))


def _checked(path: Path, architecture: Any) -> Config:
    if not isinstance(architecture, dict) or architecture.get("class_name") not in _MODELS:
        found = architecture.get("class_name") if isinstance(architecture, dict) else type(architecture).__name__
        raise BadInput(f"{path} must hold a Sequential or Functional model. Received: {found}.")
    checked: Config = _known(path, architecture)
    return checked


def _known(path: Path, node: Any) -> Any:
    """A copy in the plain form that Keras looks up among its own objects alone, every name in it known."""
    if isinstance(node, list):
        return [_known(path, item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: value for key, value in node.items() if key not in ("build_config", "compile_config")}
    if "class_name" in node:
        module, name = node.pop("module", None), _OLD_NAMES.get(str(node["class_name"]), node["class_name"])
        registered = node.pop("registered_name", None)
        if name not in _MODELS | _LAYERS | _PARTS or (module and not _MODULE.fullmatch(str(module))):
            raise _unknown(path, str(registered or name))
        if name == "Policy":  # here everything is float32
            return "float32"
        node["class_name"] = name
    for key, value in node.items():
        if key == "function" and value not in _OPERATORS:
            raise _unknown(path, str(value))
        if key.endswith("activation") and isinstance(value, str) and value not in _ACTIVATIONS:
            raise _unknown(path, value)
    return {key: _known(path, value) for key, value in node.items()}


def _unknown(path: Path, name: str) -> BadInput:
    return BadInput(
        f"{path} holds {name[:60]!r}, which is not among the layers that lightexp knows, and code from a file is never "
        "run. Convert the model to a float .tflite and set model.path to that."
    )


def _broken(path: Path, error: Exception, what: str = "read as a Keras model") -> BadInput:
    words = str(error).rpartition("Exception encountered: ")[2]  # Keras puts a layer's whole config before it
    return BadInput(f"{path} cannot be {what} ({' '.join(words.split())[:160]}). Save it again.")
