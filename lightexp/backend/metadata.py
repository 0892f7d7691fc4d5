"""Entries of metadata in a `.tflite` file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from lightexp.core.errors import BadInput

_ALIGNMENT = 16  # of every buffer, as the schema has it and kernels rely on


def add_metadata_entries(content: bytes, entries: Mapping[str, bytes]) -> bytes:
    """A `.tflite` with more entries of metadata, or others instead of those of the same names.

    Raises:
        BadInput: If its constants lie behind the flatbuffer, which moves them.
    """
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    if any(buffer.offset > 1 for buffer in model.buffers):
        raise BadInput("a file whose constants lie behind the flatbuffer cannot be given metadata. Export it without.")
    model.metadata = [entry for entry in model.metadata or [] if entry.name.decode() not in entries]
    for name, value in entries.items():
        model.buffers.append(schema.BufferT(data=np.frombuffer(value, np.uint8)))
        model.metadata.append(schema.MetadataT(name=name.encode(), buffer=len(model.buffers) - 1))
    builder = _Aligned(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Aligned(flatbuffers.Builder):
    """Whose vectors of bytes are aligned; the generated code forgets it."""

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802
        if x.dtype == np.uint8:
            self.Prep(_ALIGNMENT, x.nbytes)
        return super().CreateNumpyVector(x)
