"""Tests of what a model can be read from."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.model_files import find_model_problem


@pytest.mark.parametrize("name", ["net.pt", "net.PTH", "net.pt2", "net.safetensors", "my net.onnx"])
def test_files_of_other_frameworks_name_the_conversion(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert find_model_problem(path, trust=False) == f"{path} does not exist. Set model.path=FILE"
    path.write_bytes(b"anything")
    problem = find_model_problem(path, trust=False)
    assert problem is not None
    assert ("onnx2tf -i 'my net.onnx'" if name.endswith("onnx") else "litert_torch.convert(") in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["net.h5", "net.keras", "net.tflite", "net"])
def test_files_that_can_be_read_have_no_problem(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    assert find_model_problem(tmp_path / name, trust=False) is None
