"""Measure the entropy of the shipped file's weights: the size that an ideal order-0 coder reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import Measurement, MeasurementContext, Metric

_MAX_CODEBOOK = 256


@settings_dataclass
class Entropy(Measurement):
    """Bytes after ideal order-0 entropy coding of each weight tensor (Han et al. 2016, arXiv 1510.00149).

    `model/entropy_bytes` is the sum over all learnt constants. For integers, and for floats with at most 256 distinct
    values, it is the entropy of the values, without codebooks; for other floats, the entropy of the map of zeros plus
    the non-zero floats uncoded.
    """

    gives = {"model/entropy_bytes": "min"}

    def measure(self, context: MeasurementContext) -> list[Metric]:
        """Measure `model/entropy_bytes`."""
        from lightexp.backend.flatbuffer import read_graph

        weights = read_graph(context.tflite).weights
        bits = sum(count_entropy_bits(tensor.data) for tensor in weights if tensor.data is not None)
        return [Metric("model/entropy_bytes", bits / 8, "bytes", "min", version=self.version)]


def count_entropy_bits(values: NDArray[Any]) -> float:
    """Compute the bits of a tensor of any shape after ideal coding; see `Entropy`."""
    counts = np.unique(values, return_counts=True)[1]
    if values.dtype.kind == "f" and len(counts) > _MAX_CODEBOOK:
        nonzeros = int(np.count_nonzero(values))
        zero_map_bits = _sum_entropy(np.array([nonzeros, values.size - nonzeros]))
        return zero_map_bits + nonzeros * 8 * values.dtype.itemsize
    return _sum_entropy(counts)


def _sum_entropy(counts: NDArray[np.integer[Any]]) -> float:
    """Return the bits of all symbols that occur with these counts."""
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())
