"""Quantises a float `.tflite` by ai-edge-quantizer, without TensorFlow."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.quiet import quiet
from lightexp.core.errors import BadInput

_FLOAT16 = {
    "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT", "symmetric": True, "granularity": "TENSORWISE"},
    "compute_precision": "FLOAT",
    "explicit_dequantize": True,
    "skip_checks": False,
}


def quantize(tflite: Path, samples: NDArray[np.float32], scheme: str, integer_io: bool) -> NDArray[np.uint8]:
    """A post-training quantised flatbuffer of a float one.

    Args:
        tflite: The float file, of one input and one output.
        samples: Calibration inputs `(n, *shape)`, for `int8` and `int16x8`.
        scheme: `default` (dynamic range), `float16`, `int8` or `int16x8`.
        integer_io: Whether inputs and outputs are integers too (`int8` and `int16x8`).

    Returns:
        The file's bytes.

    Raises:
        BadInput: If the quantiser cannot take the file; says why.
    """
    from ai_edge_quantizer import quantizer  # a second to import

    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that calibration keeps all tensors
            work = quantizer.Quantizer(str(tflite))
            work.load_quantization_recipe(_recipe(scheme, integer_io))
            statistics = work.calibrate(_feeds(tflite, samples), num_threads=1) if work.need_calibration else None
            content = work.quantize(statistics, enable_progress_report=False).quantized_model
    except BadInput:
        raise
    except Exception as error:  # it raises whatever it meets in a file that others made
        words = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{tflite} cannot be quantised ({scheme}): {words[:200]}. Try another scheme.") from None
    return np.frombuffer(bytes(content), np.uint8)


def _recipe(scheme: str, integer_io: bool) -> list[dict[str, Any]]:
    from ai_edge_quantizer import recipe

    if scheme == "float16":
        return [{"regex": ".*", "operation": "*", "algorithm_key": "float_casting", "op_config": _FLOAT16}]
    made = {"default": recipe.dynamic_wi8_afp32, "int8": recipe.static_wi8_ai8, "int16x8": recipe.static_wi8_ai16}
    rules: list[dict[str, Any]] = made[scheme]()
    if scheme != "default" and not integer_io:
        ends = ("INPUT", "OUTPUT")
        rules += [{"regex": ".*", "operation": end, "algorithm_key": "no_quantize", "op_config": {}} for end in ends]
    return rules


def _feeds(tflite: Path, samples: NDArray[np.float32]) -> dict[str, list[dict[str, Any]]]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(tflite))
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        raise BadInput(
            f"{tflite} has {len(signatures)} signatures; calibration needs the one that converters write. "
            "Convert it again, or take scheme=default or float16."
        )
    [(name, signature)] = signatures.items()
    batch = int(interpreter.get_input_details()[0]["shape"][0])
    repeated = (np.repeat(sample[None], batch, axis=0) for sample in samples)
    return {name: [{signature["inputs"][0]: values} for values in repeated]}
