"""Tests of writing a model for Keras 3, which another process loads."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lightexp.backend import foreign_keras, sandbox
from lightexp.core.errors import BadInput, RunFailed

pytestmark = pytest.mark.usefixtures("tensorflow", "warm_workers")


@pytest.fixture(scope="module")
def model_folder(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with many operations, rebuilt from a file of Keras 3, and of its outputs there."""
    from lightexp.backend import keras_files
    from lightexp.backend.session import reset_graph

    folder = tmp_path_factory.mktemp("model")
    with zipfile.ZipFile(Path(__file__).with_name("keras_3_files.zip")) as archive:
        for name in ("operations.keras", "operations.npz"):
            archive.extract(name, folder)
    reset_graph(0)
    keras_files.save_model(foreign_keras.load_file(folder / "operations.keras", trust=False).model, folder)
    return folder


def test_written_file_gives_the_outputs_in_keras_3(model_folder: Path, tmp_path: Path) -> None:
    from lightexp.backend.keras_export import write_keras_3

    write_keras_3(model_folder, tmp_path / "net.keras")
    with np.load(model_folder / "operations.npz") as arrays:
        outputs = sandbox.run_sandboxed("compute_keras_outputs", tmp_path / "net.keras", arrays["inputs"])
        assert np.abs(outputs - arrays["outputs"]).max() < 1e-6


def test_write_keras_3_refuses_other_outputs(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightexp.backend.keras_export import write_keras_3

    monkeypatch.setattr(sandbox, "run_sandboxed", lambda *_, **settings: np.zeros((16, 3), np.float32))
    with pytest.raises(RunFailed, match="Keras 3 computes other outputs than the run's model"):
        write_keras_3(model_folder, tmp_path / "net.keras")


def test_function_that_keras_3_lacks_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in model_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    architecture = json.loads((folder / "architecture.json").read_text())
    for layer in architecture["config"]["layers"]:
        if layer["config"].get("function") == "math.abs":
            layer["config"]["function"] = "math.acos"
    (folder / "architecture.json").write_text(json.dumps(architecture))
    with pytest.raises(BadInput, match=r"layer tf\.math\.abs is math\.acos, which Keras 3 does not have"):
        sandbox.run_sandboxed("write_keras_file", folder, np.zeros((1, 8, 8, 4), np.float32), out=str(tmp_path / "n"))
