"""Files that cannot be used, given to the whole command: one line, exit code 2, nothing left behind."""

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


def arrays(folder: Path, x: Any = X, y: Any = Y) -> Path:
    np.savez(folder / "mine.npz", x=x, y=y)
    return folder / "mine.npz"


def cut(path: Path, share: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def images(folder: Path) -> Path:
    for i in range(8):
        place = folder / "images" / f"class{Y[i]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).save(place / f"{i}.png")
    return folder / "images"


def stray(folder: Path) -> Path:
    (images(folder) / "class0" / "notes.txt").write_text("not an image")
    return folder / "images"


def broken_image(folder: Path, share: float) -> Path:
    cut(images(folder) / "class1" / "1.png", share)
    return folder / "images"


def one_class(folder: Path) -> Path:
    for place in sorted(images(folder).iterdir())[1:]:
        shutil.rmtree(place)
    return folder / "images"


DATA: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "npz cut": ("arrays", lambda folder: cut(arrays(folder)), "cannot be read as .npz"),
    "npz empty": ("arrays", lambda folder: cut(arrays(folder), 0), "cannot be read as .npz"),
    "objects": ("arrays", lambda folder: arrays(folder, X.astype(object)), "x holds Python objects"),
    "labels out of range": ("arrays", lambda folder: arrays(folder, y=Y - 1), "y goes from -1 to 2"),
    "labels with gaps": ("arrays", lambda folder: arrays(folder, y=2 * Y), "y goes up to 6 but is never 1"),
    "NaN": ("arrays", lambda folder: arrays(folder, np.full((40, 8, 8), np.nan)), "x holds NaN"),
    "one class": ("arrays", lambda folder: arrays(folder, y=0 * Y), "y holds one class only"),
    "image cut": ("image_folder", lambda folder: broken_image(folder, 0.7), "1.png cannot be decoded"),
    "image empty": ("image_folder", lambda folder: broken_image(folder, 0), "1.png is damaged"),
    "stray file": ("image_folder", stray, "notes.txt is not an image file"),
    "one folder": ("image_folder", one_class, "needs folders of two classes or more. Received: 1"),
}


def refused(folder: Path, *words: str) -> str:
    """The one line of a run that was refused, once nothing of it is left."""
    outputs = folder / "outputs"
    done = lightexp("run", "tracking=none", "pipeline=control", f"paths.outputs={outputs}", *words, cwd=folder)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    assert not outputs.exists()
    return done.stderr


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, tmp_path: Path) -> None:
    dataset, make, told = DATA[case]
    assert told in refused(tmp_path, f"dataset={dataset}", f"dataset.path={make(tmp_path)}")


def keras_file(folder: Path, layer: str = "Lambda", version: str = "2.15.0") -> Path:
    layers = [{"class_name": layer, "config": {"name": "one", "batch_input_shape": [None, 8, 8, 1]}}]
    with h5py.File(folder / "net.h5", "w") as file:
        file.attrs["keras_version"] = version
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"layers": layers}})
        file.create_group("model_weights").create_dataset("w", data=np.zeros(1000))
    return folder / "net.h5"


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "net.keras", "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.4.1"}))
    return folder / "net.keras"


def saved_model(folder: Path) -> Path:
    (folder / "saved").mkdir()
    (folder / "saved" / "saved_model.pb").write_bytes(b"anything")
    return folder / "saved"


def of_bytes(folder: Path, content: bytes) -> Path:
    (folder / "net.tflite").write_bytes(content)
    return folder / "net.tflite"


NOISE = np.random.default_rng(0).bytes(500)
MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "h5 cut": (lambda folder: cut(keras_file(folder)), "net.h5 is broken"),
    "h5 empty": (lambda folder: cut(keras_file(folder), 0), "net.h5 is no Keras file"),
    "tflite cut": (lambda folder: of_bytes(folder, b"\x1c\0\0\0TFL3" + NOISE), "net.tflite (508 bytes) is cut off or"),
    "tflite empty": (lambda folder: of_bytes(folder, b""), "net.tflite (0 bytes) is not a .tflite file"),
    "Lambda": (keras_file, "net.h5 holds 'Lambda', which is not among the layers that lightexp knows"),
    "Keras 3": (archive, "written by Keras 3.4.1; lightexp reads Keras 2. Where it was made, run model.export("),
    "SavedModel": (saved_model, "is a SavedModel, which can run code of its own. If you know where it is from, set"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models(case: str, tmp_path: Path) -> None:
    make, told = MODELS[case]
    assert told in refused(tmp_path, "model=from_file", f"model.path={make(tmp_path)}")
