"""What a model can be read from: a regular file, or the folder of a SavedModel."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightexp.core.regular_files import open_regular

_PYTORCH = (
    "is a PyTorch file, which holds code, or weights without layers. Where the model was made, pip install "
    'litert-torch, run litert_torch.convert(model.eval(), (example,)).export("net.tflite"), and set '
    "model.path=net.tflite"
)
_ONNX = (
    "is an ONNX file. To convert it: pip install onnx2tf; onnx2tf -i {quoted} -o converted; and set "
    "model.path=converted/{stem}_float32.tflite"
)
_CONVERSIONS = {".pt": _PYTORCH, ".pth": _PYTORCH, ".pt2": _PYTORCH, ".safetensors": _PYTORCH, ".onnx": _ONNX}
"""What to do with files of other frameworks, by their suffix."""


def find_model_problem(path: Path, trust: bool) -> str | None:
    """Return why no model can be read from a path, with what to do, or None; reads nothing but names.

    Args:
        path: The file, or a SavedModel's folder.
        trust: Whether a SavedModel may be read, which can run code.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            return f"{path} is a folder without saved_model.pb, so no SavedModel. Set model.path=FILE"
        if not trust:
            return (
                f"{path} is a SavedModel, which can run code of its own. "
                "If you know where it is from, set model.trust=true"
            )
        return None
    try:
        open_regular(path).close()
    except FileNotFoundError:
        return f"{path} does not exist. Set model.path=FILE"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}. Set model.path=FILE"
    return find_conversion(path)


def find_conversion(path: Path) -> str | None:
    """Return how to convert the file of another framework, going by its name; None for other files."""
    conversion = _CONVERSIONS.get(path.suffix.lower())
    return conversion and f"{path} {conversion.format(quoted=shlex.quote(path.name), stem=path.stem)}"
