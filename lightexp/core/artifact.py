"""What a stage starts from and leaves behind: artifacts, their files, and the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Form = Literal["none", "keras", "tflite", "quantized", "encoded"]
"""What a stage starts from or makes; a `quantized` or `encoded` model is a `.tflite` that can only be measured."""
TFLITE, ENCODED, STATE_FILE = "model.tflite", "model.lxe", "state.npz"
WEIGHTS = "weights.npz"
"""The weights of a Keras model, in its order."""


@dataclass(frozen=True)
class Artifact:
    """The result of a stage: a read-only folder of the store that holds at least `model.tflite`.

    Attributes:
        form: `keras` (with `architecture.json` and `weights.npz`), `tflite`, `quantized` or `encoded`.
        folder: The folder. Nothing may be written to it.
        facts: What `Stage.apply` returned, as JSON types.
        key: The store key.
        foreign: Whether other software wrote the flatbuffer or one that it derives from; such a file runs in a sandbox
            process only.
    """

    form: str
    folder: Path
    facts: dict[str, Any]
    key: str
    foreign: bool = False

    @property
    def tflite(self) -> Path:
        """The flatbuffer that would ship if the pipeline ended here."""
        return self.folder / TFLITE

    @property
    def encoded(self) -> Path | None:
        """The entropy-coded flatbuffer; None where the model has not been encoded."""
        return path if (path := self.folder / ENCODED).is_file() else None


@dataclass(frozen=True)
class Layer:
    """A layer as plans and stages describe it.

    Attributes:
        name: The layer's name in the Keras model.
        kind: The layer's class, such as `Conv2D`.
        kernel: Shape of its main weight; None where it has none.
        parameters: Number of its weights.
        activation: Name of its activation function; empty where it has none.
        parts: Names and shapes of its kernels where it has several, as recurrent layers have; else empty. A kernel that
            the flatbuffer holds in pieces has no shape.
    """

    name: str
    kind: str
    kernel: tuple[int, ...] | None
    parameters: int
    activation: str = ""
    parts: tuple[tuple[str, tuple[int, ...] | None], ...] = ()
