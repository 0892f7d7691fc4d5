"""Bytes of the shipped file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.size import Size
from tests.metrics import tiny
from tests.system_packages import require_program


def test_sizes_and_ratio(tmp_path: Path) -> None:
    control, file = tmp_path / "control.tflite", tmp_path / "model.tflite"
    control.write_bytes(tiny.flat("conv"))
    file.write_bytes(tiny.flat("conv", "int8", zeroed=True))
    found = {f.name: f.value for f in Size().measure(MeasurementContext(file, control, tiny.data("conv"), 1))}
    assert set(found) == {"size/file_bytes", "size/gzip_bytes", "size/ratio"}
    assert found["size/file_bytes"] == len(file.read_bytes())
    assert found["size/ratio"] == pytest.approx(len(control.read_bytes()) / len(file.read_bytes()))
    packed = subprocess.run([require_program("gzip"), "-9nc", file], capture_output=True, check=True).stdout
    assert abs(found["size/gzip_bytes"] - len(packed)) <= 0.02 * len(packed)  # another program of the same format
    assert found["size/gzip_bytes"] < found["size/file_bytes"]


@pytest.mark.parametrize(("wanted", "packed"), [({"size/file_bytes"}, False), ({"size/gzip_bytes"}, True)])
def test_it_is_packed_only_for_who_asks(tmp_path: Path, wanted: set[str], packed: bool) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tiny.flat("dense"))
    subject = MeasurementContext(file, file, tiny.data("dense"), 1, wanted=frozenset(wanted))
    names = [figure.name for figure in Size().measure(subject)]
    assert names == ["size/file_bytes", *(["size/gzip_bytes"] if packed else []), "size/ratio"]


def test_the_control_is_one_of_itself(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tiny.flat("dense"))
    found = {f.name: f.value for f in Size().measure(MeasurementContext(file, file, tiny.data("dense"), 1))}
    assert found["size/ratio"] == 1
