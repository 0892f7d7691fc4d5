"""A measurement: the share of a file's weights that are on a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lightexp.core.config import Positive
from lightexp.core.protocols import Measurement, MeasurementContext, Metric
from roundoff.grid import round_to_grid


@dataclass(frozen=True)
class OnGrid(Measurement):
    """Measure the share of kernel values that are multiples of `step`."""

    step: Positive = 0.0625

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        from lightexp.backend import flatbuffer

        kernels = [np.ravel(t.data) for _, t in flatbuffer.read_graph(subject.tflite).kernels]
        values = np.concatenate(kernels).astype(np.float32)
        share = np.isclose(values, round_to_grid(values, self.step)).mean()
        return [Metric("roundoff/on_grid", share, "", "max", version=self.version)]
