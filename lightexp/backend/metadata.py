"""Add metadata entries to the flatbuffer of a `.tflite` file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from lightexp.core.errors import BadInput

_ALIGNMENT = 16  # bytes; the schema demands it of every buffer, and kernels rely on it


def add_metadata_entries(content: bytes, entries: Mapping[str, bytes]) -> bytes:
    """Return a `.tflite` file with more metadata entries; an entry of the same name is replaced.

    Args:
        content: The file.
        entries: Content of each entry by its name.

    Raises:
        BadInput: If the file's constants lie behind the flatbuffer, where adding entries would move them.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise BadInput("a file whose constants lie behind the flatbuffer cannot be given metadata. Export it without.")
    model.metadata = [entry for entry in model.metadata or [] if entry.name.decode() not in entries]
    for name, value in entries.items():
        model.buffers.append(schema.BufferT(data=np.frombuffer(value, np.uint8)))
        model.metadata.append(schema.MetadataT(name=name.encode(), buffer=len(model.buffers) - 1))
    builder = AligningBuilder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class AligningBuilder(flatbuffers.Builder):  # type: ignore[misc]
    """A builder that aligns byte vectors to 16 bytes, which the generated code does not."""

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
        """Add a vector; one of bytes at a multiple of 16 bytes."""
        if x.dtype == np.uint8:
            self.Prep(_ALIGNMENT, x.nbytes)
        return int(super().CreateNumpyVector(x))
