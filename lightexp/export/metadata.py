"""Add TensorFlow Lite's standard metadata to a `.tflite` file: labels, input scaling, name and provenance.

The tables are those of `metadata_schema.fbs` 1.0.0 (tensorflow/tflite-support). They are stored as the buffer of the
metadata entry `TFLITE_METADATA`; the labels are appended to the file as a zip archive, which runtimes ignore.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

_ENTRY = "TFLITE_METADATA"
_LABELS_FILE = "labels.txt"
_SCHEMA_VERSION = "1.0.0"
_COLOR_SPACES = {3: 1, 1: 2}  # number of channels: RGB, GRAYSCALE

# Members of the schema's unions and enumerations.
_NORMALIZATION_OPTIONS, _IMAGE_PROPERTIES, _TENSOR_AXIS_LABELS = 1, 2, 2

# Places of fields in the schema's tables.
_MODEL_NAME, _MODEL_DESCRIPTION, _MODEL_VERSION, _MODEL_SUBGRAPHS, _MODEL_MIN_PARSER = 0, 1, 2, 3, 7
_SUBGRAPH_INPUTS, _SUBGRAPH_OUTPUTS = 2, 3
_TENSOR_NAME, _TENSOR_DESCRIPTION, _TENSOR_CONTENT, _TENSOR_PROCESS_UNITS, _TENSOR_FILES = 0, 1, 3, 4, 6
_UNION_TYPE, _UNION_VALUE = 0, 1
_MEAN, _STD = 0, 1
_FILE_NAME, _FILE_TYPE = 0, 2


def add_metadata(content: bytes, name: str, version: str, provenance: str, dataset: Mapping[str, Any]) -> bytes:
    """Return a `.tflite` file with its labels, if its outputs have any, input scaling, name and provenance.

    Args:
        content: The file.
        name: The model's name, for people.
        version: The model's version.
        provenance: How the model was made.
        dataset: A record's data set: `labels` in the order of the outputs, `shape`, `scale` and `offset`; `targets`
            where outputs are standardised.

    Raises:
        BadInput: If the file cannot be given metadata.
    """
    from lightexp.backend.metadata import add_metadata_entries

    table = _build_model(name, version, provenance, dataset)
    file = io.BytesIO(add_metadata_entries(content, {_ENTRY: table}))
    if not dataset["labels"]:
        return file.getvalue()
    labels = "".join(" ".join(label.split()) + "\n" for label in dataset["labels"])
    with zipfile.ZipFile(file, "a") as archive:  # appended to the flatbuffer
        archive.writestr(zipfile.ZipInfo(_LABELS_FILE), labels)
    return file.getvalue()


def _build_model(name: str, version: str, provenance: str, dataset: Mapping[str, Any]) -> bytes:
    builder = flatbuffers.Builder()
    inputs = _add_vector(builder, [_add_input(builder, dataset)])
    outputs = _add_vector(builder, [_add_output(builder, dataset)])
    subgraph = _add_table(builder, {_SUBGRAPH_INPUTS: inputs, _SUBGRAPH_OUTPUTS: outputs})
    texts = {
        _MODEL_NAME: name,
        _MODEL_DESCRIPTION: provenance,
        _MODEL_VERSION: version,
        _MODEL_MIN_PARSER: _SCHEMA_VERSION,
    }
    fields = {place: builder.CreateString(text) for place, text in texts.items()}
    fields[_MODEL_SUBGRAPHS] = _add_vector(builder, [subgraph])
    builder.Finish(_add_table(builder, fields), b"M001")
    return bytes(builder.Output())


def _add_input(builder: Any, dataset: Mapping[str, Any]) -> int:
    """Add the input's table: an image or other numbers, normalised as `(x - mean) / std`."""
    scale, offset = np.asarray(dataset["scale"], np.float64), np.asarray(dataset["offset"], np.float64)
    mean, std = (builder.CreateNumpyVector(np.float32(np.atleast_1d(x))) for x in (-offset / scale, 1 / scale))
    normalization = _add_table(builder, {_MEAN: mean, _STD: std})
    unit = _add_table(builder, {_UNION_VALUE: normalization}, {_UNION_TYPE: _NORMALIZATION_OPTIONS})
    fields = {
        _TENSOR_NAME: builder.CreateString("input"),
        _TENSOR_PROCESS_UNITS: _add_vector(builder, [unit]),
    }
    shape = dataset["shape"]
    if len(shape) == 3 and shape[-1] in _COLOR_SPACES:
        image = _add_table(builder, {}, {0: _COLOR_SPACES[shape[-1]]})
        fields[_TENSOR_CONTENT] = _add_table(builder, {_UNION_VALUE: image}, {_UNION_TYPE: _IMAGE_PROPERTIES})
    return _add_table(builder, fields)


def _add_output(builder: Any, dataset: Mapping[str, Any]) -> int:
    """Add the output's table: scores whose labels are in the appended file, or numbers and their unit."""
    if not dataset["labels"]:
        fields = {_TENSOR_NAME: builder.CreateString("numbers")}
        if targets := dataset.get("targets"):
            text = f"target = output * std + mean, with mean {targets['mean']} and std {targets['std']}"
            fields[_TENSOR_DESCRIPTION] = builder.CreateString(text)
        return _add_table(builder, fields)
    labels = _add_table(builder, {_FILE_NAME: builder.CreateString(_LABELS_FILE)}, {_FILE_TYPE: _TENSOR_AXIS_LABELS})
    name = builder.CreateString("scores")
    return _add_table(builder, {_TENSOR_NAME: name, _TENSOR_FILES: _add_vector(builder, [labels])})


def _add_table(builder: Any, offsets: Mapping[int, int], numbers: Mapping[int, int] | None = None) -> int:
    """Add a table.

    Args:
        builder: The flatbuffer's builder.
        offsets: Offsets of strings, vectors and tables, by the field's place in the schema.
        numbers: Values of one-byte fields, likewise. Defaults to None.

    Returns:
        The table's offset.
    """
    numbers = numbers or {}
    builder.StartObject(max([*offsets, *numbers], default=-1) + 1)
    for place, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(place, offset, 0)
    for place, number in numbers.items():
        builder.PrependUint8Slot(place, number, 0)
    return int(builder.EndObject())


def _add_vector(builder: Any, offsets: Sequence[int]) -> int:
    """Add a vector of offsets; return its own offset."""
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
