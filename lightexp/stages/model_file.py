"""A model that somebody else has trained, as a `.tflite` file."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightexp.core.errors import RunFailed
from lightexp.core.fingerprint import file_digest
from lightexp.core.protocols import TFLITE, Artifact, Context, Stage


@dataclass(frozen=True)
class ModelFile(Stage):
    """Takes a file into the store.

    Attributes:
        path: Where it is; not part of its key.
        digest: SHA-256 of its bytes.
    """

    accepts = ("none",)
    produces = "tflite"
    compresses = False
    needs_tensorflow = False
    path: str = field(metadata={"keyed": False})
    digest: str

    @property
    def needs_parent(self) -> bool:
        """No: it is the file alone."""
        return False

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Copies the file; see `Stage.apply`."""
        shutil.copyfile(Path(self.path), context.out / TFLITE)
        if file_digest(context.out / TFLITE) != self.digest:
            raise RunFailed(f"{self.path} has changed since the run began. Run the same command again.")
        return {}
