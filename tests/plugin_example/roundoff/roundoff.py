"""A stage that rounds weights to a grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightexp.core.config import Positive
from lightexp.core.protocols import Artifact, Context, Invariant, Stage
from lightexp.core.tflite_graph import TFLiteGraph
from roundoff.grid import round_to_grid


@dataclass(frozen=True)
class Roundoff(Stage):
    """Round every kernel to multiples of `step`."""

    step: Positive = 0.0625

    def establishes(self) -> tuple[Invariant, ...]:
        return (Invariant("grid", self.step),)

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        from lightexp.backend import keras_files

        assert parent is not None
        model = keras_files.load_model(parent.folder, context.seed)
        model.set_weights([round_to_grid(w, self.step) if w.ndim > 1 else w for w in model.get_weights()])
        keras_files.save_model(model, context.out)
        return {}

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        off = [t.name for _, t in shipped.kernels if not np.allclose(round_to_grid(t.data, self.step), t.data)]
        return f"{', '.join(off)} off the grid of {self.step}" if off else None
