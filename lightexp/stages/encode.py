"""The entropy-coded file."""

from __future__ import annotations

import shutil
from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import RunFailed
from lightexp.core.protocols import ENCODED, TFLITE, Artifact, Context, Invariant, Stage


@settings_dataclass
class Encode(Stage):
    """Packs the `.tflite` into a `.lxe`, from which `lightexp decode` makes it again to the bit.

    Zeros, shared values and integers are modelled constant by constant and range coded, as the last step of Deep
    Compression (Han et al. 2016, arXiv 1510.00149) is Huffman coding; LZMA packs the rest of the file.
    """

    accepts = ("keras", "tflite", "quantized")
    produces = "encoded"
    needs_tensorflow = False

    def preserves(self, invariant: Invariant) -> bool:
        """The file stays what it is."""
        return True

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Encodes the file, and decodes it again; see `Stage.apply`."""
        assert parent is not None  # `accepts` says so
        from lightexp.backend.flatbuffer import read_constant_spans
        from lightexp.export import lxe

        content = parent.tflite.read_bytes()
        encoded = lxe.encode(content, read_constant_spans(parent.tflite))
        if lxe.decode(encoded) != content:
            raise RunFailed("the encoded file does not decode to the model. That is a fault of lightexp's.")
        (context.out / ENCODED).write_bytes(encoded)
        shutil.copyfile(parent.tflite, context.out / TFLITE)
        return {}
