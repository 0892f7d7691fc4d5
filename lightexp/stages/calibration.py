"""The examples that a quantiser calibrates on, kept in the store so that every run takes the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lightexp.core.config import Count
from lightexp.core.protocols import Artifact, Context, Stage

SAMPLES = "samples.npy"


@dataclass(frozen=True)
class CalibrationSet(Stage):
    """A sample of the train split.

    Attributes:
        count: How many examples. Defaults to 200.
    """

    accepts = ("none",)
    compresses = False
    needs_tensorflow = False
    count: Count = 200

    @property
    def needs_parent(self) -> bool:
        """No: it is made from the data alone."""
        return False

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Draws the sample; see `Stage.apply`."""
        np.save(context.out / SAMPLES, context.data.train.sample(self.count))
        return {}
