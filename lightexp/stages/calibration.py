"""The ranges of a model's activations, kept in the store so that every quantiser of that model takes the same."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Artifact, Context, Stage

RANGES = "ranges.npy"


@settings_dataclass
class Calibration(Stage):
    """The least and the largest value of each tensor of a float flatbuffer over a sample of the train split.

    Attributes:
        count: How many examples. Defaults to 200.
    """

    accepts = ("keras", "tflite")
    compresses = False
    needs_tensorflow = False
    count: Count = 200

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Runs the sample; see `Stage.apply`."""
        from lightexp.backend import sandbox

        assert parent is not None  # `accepts` says so
        sample = context.data.inputs(context.data.train.sample(self.count))
        if not len(sample):
            raise BadInput("there is no example to calibrate on: the train split is empty. Use more data.")
        found = sandbox.run_sandboxed("collect_ranges", parent.tflite, sample, threads=context.threads)
        np.save(context.out / RANGES, found)
        return {"samples": len(sample)}
