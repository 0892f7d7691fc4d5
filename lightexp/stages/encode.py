"""Entropy coding: pack the `.tflite` into a smaller `.lxe` file."""

from __future__ import annotations

import shutil
from typing import Any

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import RunFailed
from lightexp.core.protocols import ENCODED, TFLITE, Artifact, Context, Invariant, Stage


@settings_dataclass
class Encode(Stage):
    """Encode the `.tflite` to a `.lxe`, which `lightexp decode` restores bit by bit.

    Zeros, shared values and integers of each constant are predicted by mixed contexts and range coded, in place of the
    Huffman coding of Deep Compression's last step (Han et al. 2016, arXiv 1510.00149). The rest of the file is packed
    as copies of dictionaries of lightexp's own models, or by LZMA.
    """

    accepts = ("keras", "tflite", "quantized")
    produces = "encoded"
    needs_tensorflow = False
    version = 6

    def preserves(self, invariant: Invariant) -> bool:
        """Return True: encoding is lossless."""
        return True

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Encode the file, and check that it decodes to the same bytes; see `Stage.apply`."""
        from lightexp.backend.flatbuffer import read_constant_spans
        from lightexp.export import lxe

        assert parent is not None  # `accepts` requires one
        content = parent.tflite.read_bytes()
        encoded = lxe.encode(content, read_constant_spans(parent.tflite, quantization=True))
        if lxe.decode(encoded) != content:
            raise RunFailed("the encoded file does not decode to the model. This is a bug in lightexp.")
        (context.out / ENCODED).write_bytes(encoded)
        shutil.copyfile(parent.tflite, context.out / TFLITE)
        return {}
