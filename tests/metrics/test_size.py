"""Tests of the size of the shipped file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lightexp.core.protocols import MeasurementContext
from lightexp.metrics.size import Size
from tests.metrics import tiny_models
from tests.system_packages import require_program


def test_measure_gives_sizes_and_ratio(tmp_path: Path) -> None:
    control, file = tmp_path / "control.tflite", tmp_path / "model.tflite"
    control.write_bytes(tiny_models.make_tflite("conv"))
    file.write_bytes(tiny_models.make_tflite("conv", "int8", zeroed=True))
    context = MeasurementContext(file, control, tiny_models.make_data("conv"), 1)
    values = {metric.name: metric.value for metric in Size().measure(context)}
    assert set(values) == {"size/file_bytes", "size/gzip_bytes", "size/ratio"}
    assert values["size/file_bytes"] == len(file.read_bytes())
    assert values["size/ratio"] == pytest.approx(len(control.read_bytes()) / len(file.read_bytes()))
    gzipped = subprocess.run([require_program("gzip"), "-9nc", file], capture_output=True, check=True).stdout
    assert abs(values["size/gzip_bytes"] - len(gzipped)) <= 0.02 * len(gzipped)  # gzip and zlib differ slightly
    assert values["size/gzip_bytes"] < values["size/file_bytes"]


@pytest.mark.parametrize(("wanted", "has_gzip"), [({"size/file_bytes"}, False), ({"size/gzip_bytes"}, True)])
def test_gzip_size_is_measured_if_wanted(tmp_path: Path, wanted: set[str], has_gzip: bool) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tiny_models.make_tflite("dense"))
    context = MeasurementContext(file, file, tiny_models.make_data("dense"), 1, requested=frozenset(wanted))
    names = [metric.name for metric in Size().measure(context)]
    assert names == ["size/file_bytes", *(["size/gzip_bytes"] if has_gzip else []), "size/ratio"]


def test_ratio_of_control_is_one(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tiny_models.make_tflite("dense"))
    values = {
        metric.name: metric.value
        for metric in Size().measure(MeasurementContext(file, file, tiny_models.make_data("dense"), 1))
    }
    assert values["size/ratio"] == 1
