"""Tests of the metadata in an exported `.tflite`, read with the bare flatbuffer library."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types
from flatbuffers.table import Table

from lightexp.backend.flatbuffer import read_constant_spans
from lightexp.backend.litert import compute_logits
from lightexp.export.metadata import add_metadata
from tests.metrics import tiny_models


def find_field(table: Table, slot: int) -> int | None:
    offset = table.Offset(4 + 2 * slot)
    return table.Pos + offset if offset else None


def read_table(table: Table, slot: int) -> Table:
    position = find_field(table, slot)
    assert position is not None
    return Table(table.Bytes, table.Indirect(position))


def read_only_item(table: Table, slot: int) -> Table:
    offset = table.Offset(4 + 2 * slot)
    assert table.VectorLen(offset) == 1
    return Table(table.Bytes, table.Indirect(table.Vector(offset)))


def read_string(table: Table, slot: int) -> str:
    position = find_field(table, slot)
    assert position is not None
    return table.String(position).decode()


def read_number(table: Table, slot: int) -> int:
    position = find_field(table, slot)
    assert position is not None
    return int(table.Get(number_types.Uint8Flags, position))


def read_floats(table: Table, slot: int) -> list[float]:
    offset = table.Offset(4 + 2 * slot)
    start = table.Vector(offset)
    return [table.Get(number_types.Float32Flags, start + 4 * i) for i in range(table.VectorLen(offset))]


def read_entries(content: bytes) -> dict[str, bytes]:
    model = schema.Model.GetRootAs(content)
    metadata = [model.Metadata(i) for i in range(model.MetadataLength())]
    return {entry.Name().decode(): bytes(model.Buffers(entry.Buffer()).DataAsNumpy()) for entry in metadata}


DATASET: dict[str, Any] = {"labels": ["T-shirt/top", "a\nb", "Mäntel", "3"], "shape": [8, 8, 3]}
DATASET |= {"scale": [0.5, 0.25, 1.0], "offset": [-1.0, 0.0, 2.0]}


def test_add_metadata_writes_labels_scaling_and_names(tmp_path: Path) -> None:
    content = tiny_models.make_tflite("conv")
    named = add_metadata(content, "net", "run 1", "lightexp run", DATASET)
    assert flatbuffers.util.BufferHasIdentifier(named, 0, b"TFL3")
    assert set(read_entries(named)) == {*read_entries(content), "TFLITE_METADATA"}
    assert read_entries(named)["min_runtime_version"] == read_entries(content)["min_runtime_version"]
    with zipfile.ZipFile(io.BytesIO(named)) as archive:
        assert archive.namelist() == ["labels.txt"] and archive.testzip() is None
        assert archive.read("labels.txt").decode() == "T-shirt/top\na b\nMäntel\n3\n"
    raw = read_entries(named)["TFLITE_METADATA"]
    assert raw[4:8] == b"M001"
    root = Table(raw, int.from_bytes(raw[:4], "little"))
    assert [read_string(root, slot) for slot in (0, 1, 2, 7)] == ["net", "lightexp run", "run 1", "1.0.0"]
    graph = read_only_item(root, 3)
    image, scores = read_only_item(graph, 2), read_only_item(graph, 3)
    properties = read_table(image, 3)
    assert read_number(properties, 0) == 2 and read_number(read_table(properties, 1), 0) == 1  # an image, in RGB
    unit = read_only_item(image, 4)
    assert read_number(unit, 0) == 1  # normalisation: (x - mean) / std
    mean, std = read_floats(read_table(unit, 1), 0), read_floats(read_table(unit, 1), 1)
    raw_pixels = np.array([10.0, 20.0, 30.0])
    expected = raw_pixels * DATASET["scale"] + DATASET["offset"]
    np.testing.assert_allclose((raw_pixels - mean) / std, expected)
    labels = read_only_item(scores, 6)
    assert (read_string(labels, 0), read_number(labels, 2)) == ("labels.txt", 2)


@pytest.mark.parametrize("scheme", ["float", "dynamic", "float16", "int8", "int16x8"])
def test_add_metadata_keeps_outputs_and_alignment(scheme: str, tmp_path: Path) -> None:
    before, after = tmp_path / "before.tflite", tmp_path / "after.tflite"
    before.write_bytes(tiny_models.make_tflite("conv", scheme))
    after.write_bytes(add_metadata(before.read_bytes(), "net", "1", "by hand", DATASET))
    data = tiny_models.make_data("conv")
    np.testing.assert_array_equal(*(compute_logits(file, data.test.x, data, 1) for file in (before, after)))
    assert read_constant_spans(after) and all(span.start % 16 == 0 for span in read_constant_spans(after))
    again = add_metadata(after.read_bytes(), "other", "2", "by hand", DATASET)
    assert (
        list(read_entries(again)).count("TFLITE_METADATA") == 1 and b"other" in read_entries(again)["TFLITE_METADATA"]
    )


def test_numbers_have_no_labels_but_their_scaling() -> None:
    dataset = {**DATASET, "labels": [], "targets": {"mean": [151.5], "std": [77.25]}}
    named = add_metadata(tiny_models.make_tflite("conv"), "net", "1", "by hand", dataset)
    assert not zipfile.is_zipfile(io.BytesIO(named))
    raw = read_entries(named)["TFLITE_METADATA"]
    output = read_only_item(read_only_item(Table(raw, int.from_bytes(raw[:4], "little")), 3), 3)
    assert read_string(output, 0) == "numbers"
    assert read_string(output, 1) == "target = output * std + mean, with mean [151.5] and std [77.25]"
    assert find_field(output, 6) is None
