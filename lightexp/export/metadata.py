"""A `.tflite` that says what it is, as TensorFlow Lite's metadata standard has it.

The tables are of `metadata_schema.fbs` 1.0.0 (tensorflow/tflite-support). They lie in the file as the buffer of the
entry `TFLITE_METADATA`; the labels that they name are appended to it as a zip archive, which runtimes do not see.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np

_LABELS = "labels.txt"
_NORMALIZATION, _IMAGE, _AXIS_LABELS = 1, 2, 2  # of unions, and of an enumeration
_COLOURS = {3: 1, 1: 2}  # by channels


def add_metadata(content: bytes, name: str, version: str, made: str, dataset: Mapping[str, Any]) -> bytes:
    """A `.tflite` with its labels, how its inputs are scaled, and how it was made.

    Args:
        content: The file.
        name: The model's name, for people.
        version: Which of that name it is.
        made: How it was made.
        dataset: A record's: its `labels` in the order of the outputs, `shape`, `scale` and `offset`.

    Raises:
        BadInput: If the file cannot take it.
    """
    from lightexp.backend.metadata import add_metadata_entries

    file = io.BytesIO(add_metadata_entries(content, {"TFLITE_METADATA": _model(name, version, made, dataset)}))
    with zipfile.ZipFile(file, "a") as archive:  # after what is there
        archive.writestr(
            zipfile.ZipInfo(_LABELS), "".join(" ".join(label.split()) + "\n" for label in dataset["labels"])
        )
    return file.getvalue()


def _model(name: str, version: str, made: str, dataset: Mapping[str, Any]) -> bytes:
    builder = flatbuffers.Builder()
    graph = _table(builder, {2: _list(builder, [_input(builder, dataset)]), 3: _list(builder, [_output(builder)])})
    words = {0: name, 1: made, 2: version, 7: "1.0.0"}  # the last is what a reader must know
    strings = {slot: builder.CreateString(text) for slot, text in words.items()}
    builder.Finish(_table(builder, {**strings, 3: _list(builder, [graph])}), b"M001")
    return bytes(builder.Output())


def _input(builder: Any, dataset: Mapping[str, Any]) -> int:
    """An image, or other numbers, taken as `(x - mean) / std`."""
    scale, offset = np.asarray(dataset["scale"], np.float64), np.asarray(dataset["offset"], np.float64)
    mean, std = (builder.CreateNumpyVector(np.float32(np.atleast_1d(x))) for x in (-offset / scale, 1 / scale))
    unit = _table(builder, {1: _table(builder, {0: mean, 1: std})}, {0: _NORMALIZATION})
    slots = {0: builder.CreateString("input"), 4: _list(builder, [unit])}
    shape = dataset["shape"]
    if len(shape) == 3 and shape[-1] in _COLOURS:
        image = _table(builder, {}, {0: _COLOURS[shape[-1]]})
        slots[3] = _table(builder, {1: image}, {0: _IMAGE})
    return _table(builder, slots)


def _output(builder: Any) -> int:
    labels = _table(builder, {0: builder.CreateString(_LABELS)}, {2: _AXIS_LABELS})
    return _table(builder, {0: builder.CreateString("scores"), 6: _list(builder, [labels])})


def _table(builder: Any, slots: Mapping[int, int], numbers: Mapping[int, int] | None = None) -> int:
    """A table of what lies at offsets, and of bytes, by their places in the schema."""
    numbers = numbers or {}
    builder.StartObject(max([*slots, *numbers], default=-1) + 1)
    for slot, offset in slots.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, number in numbers.items():
        builder.PrependUint8Slot(slot, number, 0)
    return int(builder.EndObject())


def _list(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
