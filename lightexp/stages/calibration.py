"""Calibration: the ranges of a model's activations, stored so that all quantisers of the model share them."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Artifact, Context, Stage

RANGES_FILE = "ranges.npy"


@settings_dataclass
class Calibration(Stage):
    """Record the range of each tensor of a float flatbuffer over a sample of the train split.

    Attributes:
        count: Number of examples. Defaults to 200.
    """

    accepts = ("keras", "tflite")
    compresses = False
    needs_tensorflow = False
    count: Count = 200

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Run the model on the sample; see `Stage.apply`."""
        from lightexp.backend import sandbox

        assert parent is not None  # `accepts` requires one
        sample = context.data.inputs(context.data.train.sample(self.count))
        if not len(sample):
            raise BadInput("there is no example to calibrate on: the train split is empty. Use more data.")
        settings = {"threads": context.threads, "layout": context.data.layout}
        ranges = sandbox.run_sandboxed("collect_ranges", parent.tflite, sample, **settings)
        np.save(context.out / RANGES_FILE, ranges)
        return {"samples": len(sample)}
