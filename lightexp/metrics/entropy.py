"""How small the shipped file's weights could be coded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric

_FEW = 256


@settings_dataclass
class Entropy(Measurement):
    """The bytes that order-0 entropy coding of each tensor by itself comes down to, as in Deep Compression.

    `model/entropy_bytes` sums over all learnt constants (Han et al. 2016, arXiv 1510.00149). Of whole numbers, and of
    floats of at most 256 different values, it is the entropy of the values, code books left out; of other floats, that
    of the map of zeros, and the floats that are not zero as they are.
    """

    gives = {"model/entropy_bytes": "min"}

    def measure(self, subject: MeasurementContext) -> list[Metric]:
        """Measures `model/entropy_bytes`."""
        from lightexp.backend.flatbuffer import read_graph

        bits = sum(coded_bits(t.data) for t in read_graph(subject.tflite).weights if t.data is not None)
        return [Metric("model/entropy_bytes", bits / 8, "bytes", "min", version=self.version)]


def coded_bits(values: NDArray[Any]) -> float:
    """Bits of one tensor of any shape; see `Entropy`."""
    counts = np.unique(values, return_counts=True)[1]
    if values.dtype.kind == "f" and len(counts) > _FEW:
        nonzeros = int(np.count_nonzero(values))
        return _entropy(np.array([nonzeros, values.size - nonzeros])) + nonzeros * 8 * values.dtype.itemsize
    return _entropy(counts)


def _entropy(counts: NDArray[np.integer[Any]]) -> float:
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())
