"""Unusable files of data and models, given to `lightexp run`: one line, exit code 2, no file left."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.cli.commands import lightexp

X = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
Y = np.arange(40) % 4


def write_arrays(folder: Path, x: Any = X, y: Any = Y) -> Path:
    np.savez(folder / "mine.npz", x=x, y=y)
    return folder / "mine.npz"


def truncate(path: Path, fraction: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def write_images(folder: Path) -> Path:
    for i in range(8):
        class_folder = folder / "images" / f"class{Y[i]}"
        class_folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).save(class_folder / f"{i}.png")
    return folder / "images"


def write_stray_file(folder: Path) -> Path:
    (write_images(folder) / "class0" / "notes.txt").write_text("not an image")
    return folder / "images"


def write_broken_image(folder: Path, fraction: float) -> Path:
    truncate(write_images(folder) / "class1" / "1.png", fraction)
    return folder / "images"


def write_one_class(folder: Path) -> Path:
    for class_folder in sorted(write_images(folder).iterdir())[1:]:
        shutil.rmtree(class_folder)
    return folder / "images"


DATA: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "npz cut": ("arrays", lambda folder: truncate(write_arrays(folder)), "cannot be read as .npz"),
    "npz empty": ("arrays", lambda folder: truncate(write_arrays(folder), 0), "cannot be read as .npz"),
    "objects": ("arrays", lambda folder: write_arrays(folder, X.astype(object)), "x holds Python objects"),
    "labels out of range": ("arrays", lambda folder: write_arrays(folder, y=Y - 1), "y goes from -1 to 2"),
    "labels with gaps": ("arrays", lambda folder: write_arrays(folder, y=2 * Y), "y goes up to 6 but is never 1"),
    "NaN": ("arrays", lambda folder: write_arrays(folder, np.full((40, 8, 8), np.nan)), "x holds NaN"),
    "one class": ("arrays", lambda folder: write_arrays(folder, y=0 * Y), "y holds one class only"),
    "image cut": ("image_folder", lambda folder: write_broken_image(folder, 0.7), "1.png cannot be decoded"),
    "image empty": ("image_folder", lambda folder: write_broken_image(folder, 0), "1.png is damaged"),
    "stray file": ("image_folder", write_stray_file, "notes.txt is not an image file"),
    "one folder": ("image_folder", write_one_class, "needs folders of two classes or more. Received: 1"),
}


def run_refused(folder: Path, *settings: str) -> str:
    """Return the one line of a run that was refused, after checking that it has left no file."""
    outputs = folder / "outputs"
    result = lightexp("run", "tracking=none", "pipeline=control", f"paths.outputs={outputs}", *settings, cwd=folder)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 1), result.stderr
    assert not outputs.exists()
    return result.stderr


@pytest.mark.parametrize("case", DATA)
def test_run_refuses_unusable_data(case: str, tmp_path: Path) -> None:
    dataset, make, message = DATA[case]
    assert message in run_refused(tmp_path, f"dataset={dataset}", f"dataset.path={make(tmp_path)}")


def write_keras_file(folder: Path, layer: str = "Lambda", version: str = "2.15.0") -> Path:
    layers = [{"class_name": layer, "config": {"name": "one", "batch_input_shape": [None, 8, 8, 1]}}]
    with h5py.File(folder / "net.h5", "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        file.create_group("model_weights").create_dataset("w", data=np.zeros(1000))
    return folder / "net.h5"


def write_keras_archive(folder: Path, version: str) -> Path:
    with zipfile.ZipFile(folder / "net.keras", "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": version}))
    return folder / "net.keras"


def write_saved_model(folder: Path) -> Path:
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"anything")
    return folder / "saved"


def write_bytes(folder: Path, content: bytes, name: str = "net.tflite") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


NOISE = np.random.default_rng(0).bytes(500)
MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "h5 cut": (lambda folder: truncate(write_keras_file(folder)), "net.h5 is broken"),
    "h5 empty": (lambda folder: truncate(write_keras_file(folder), 0), "net.h5 is no Keras file"),
    "tflite cut": (
        lambda folder: write_bytes(folder, b"\x1c\0\0\0TFL3" + NOISE),
        "net.tflite (508 bytes) is cut off or",
    ),
    "tflite empty": (lambda folder: write_bytes(folder, b""), "net.tflite (0 bytes) is not a .tflite file"),
    "Lambda": (write_keras_file, "net.h5 holds 'Lambda' in layer 'one', which is not among those that lightexp knows"),
    "Keras 3, cut": (
        lambda folder: write_keras_archive(folder, "3.4.1"),
        "net.keras is broken (\"There is no item named 'config.json' in the archive\")",
    ),
    "Keras 4": (
        lambda folder: write_keras_archive(folder, "4.0.1"),
        "written by Keras 4.0.1; lightexp reads Keras 1 to 3. Where it was made, run model.export(",
    ),
    "PyTorch": (
        lambda folder: write_bytes(folder, NOISE, "net.pt"),
        'run litert_torch.convert(model.eval(), (example,)).export("net.tflite"), and set model.path=net.tflite',
    ),
    "ONNX": (
        lambda folder: write_bytes(folder, NOISE, "net.onnx"),
        "onnx2tf -i net.onnx -o converted; and set model.path=converted/net_float32.tflite",
    ),
    "SavedModel": (
        write_saved_model,
        "is a SavedModel, which can run code of its own. If you know where it is from, set",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_run_refuses_unusable_models(case: str, tmp_path: Path) -> None:
    make, message = MODELS[case]
    assert message in run_refused(tmp_path, "model=from_file", f"model.path={make(tmp_path)}")
