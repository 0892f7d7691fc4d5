"""Sensitivity tables: what the task's metric loses by compressing each layer alone, and layer settings derived from it.

The functions do not depend on the method: a layer's curve maps the strength of its compression (0: none, 1: the layer
is removed) to a cost, and each setting of a layer is a point on its curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core import lowrank
from lightexp.core.errors import BadInput
from lightexp.core.primary_metric import PrimaryMetric, read_primary

Kind = Literal["sparsity", "rank", "bits"]
KINDS: tuple[Kind, ...] = ("sparsity", "rank", "bits")
SENSITIVITY_FACT = "sensitivity"
"""Key of the table in a stage's facts, as `SensitivityTable.read` expects it."""
_FLOAT_BITS = 32

Curve = Sequence[tuple[float, float]]
"""Points of strength, from 0 to at most 1, and cost, from 0; neither decreases."""


@dataclass(frozen=True)
class LayerSensitivity:
    """The sensitivity of one layer.

    Attributes:
        names: Names of the layer: its kernel's name in the file, and the layer names that the converter put into that.
        weights: Number of weights of its kernel.
        levels: By kind, the metric on the validation split with this layer alone compressed to each level: share of
            zeros, share of the highest rank, bits. Kinds that do not apply to the layer are absent.
    """

    names: list[str]
    weights: int
    levels: dict[str, dict[float, float]]


@dataclass(frozen=True)
class SensitivityTable:
    """The sensitivity of each layer of a model.

    Attributes:
        baseline: The metric of the unchanged model, on the validation split.
        chance: The metric of a model that does not look at its inputs, such as one that always predicts the most
            frequent class.
        examples: Number of examples that the metric was measured on.
        layers: Rows by layer name, in the order of execution.
        primary: The metric. Defaults to accuracy.
    """

    baseline: float
    chance: float
    examples: int
    layers: dict[str, LayerSensitivity]
    primary: PrimaryMetric = field(default_factory=PrimaryMetric)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> SensitivityTable:
        """Return the table in the facts of a sensitivity stage, whose levels are text because they come from JSON."""
        table = facts[SENSITIVITY_FACT]
        layers = {
            name: LayerSensitivity(
                list(row["names"]),
                int(_read_number(row["weights"])),
                {
                    kind: {_read_number(level): _read_number(value) for level, value in levels.items()}
                    for kind, levels in row["levels"].items()
                },
            )
            for name, row in table["layers"].items()
        }
        numbers = _read_number(table["accuracy"]), _read_number(table["chance"])
        return cls(*numbers, int(_read_number(table["examples"])), layers, read_primary(table))

    @classmethod
    def find(cls, facts: Mapping[str, Any]) -> SensitivityTable | None:
        """Return the table in the facts of any stage; None if there is no readable one."""
        try:
            table = cls.read(facts)
            return table if table.layers else None
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
        ):  # the record may come from other software
            return None

    def find_row(self, names: Iterable[str]) -> LayerSensitivity:
        """Return the row of the layer that has any of `names`, the most likely name last.

        Raises:
            BadInput: If there is no such row.
        """
        known = list(names)
        for row in self.layers.values():
            if not set(row.names).isdisjoint(known):
                return row
        raise BadInput(
            f"the table of sensitivity has no layer '{known[-1]}'. Its layers are: {', '.join(self.layers)}. "
            "Put the sensitivity stage behind whatever changes the model's layers."
        )

    def compute_drops(self, names: Iterable[str], kind: Kind) -> Curve:
        """Return how much worse a layer makes the metric at each level; at least as much as the weaker level before."""
        levels = self.find_row(names).levels.get(kind, {})
        points = sorted((compute_strength(kind, level), self._compute_loss(value)) for level, value in levels.items())
        strengths, drops = zip((0.0, 0.0), *points, strict=True)
        return list(zip(strengths, accumulate(drops, max), strict=True))

    def compute_costs(self, names: Iterable[str], kind: Kind) -> Curve:
        """Return the drops as costs that can be added over layers: the negative logarithm of the remaining skill.

        Skill is the metric's distance from chance; the share that several layers leave is assumed to be the product of
        the shares that each leaves. Unlike a drop, the cost rises steeply near chance. It is 0 for a model without
        skill.
        """
        skill = self._compute_loss(self.chance)
        if skill <= 0:
            return [(strength, 0.0) for strength, _ in self.compute_drops(names, kind)]
        smallest = 1 / self.examples
        return [
            (strength, -math.log(max(1 - drop / skill, smallest))) for strength, drop in self.compute_drops(names, kind)
        ]

    def _compute_loss(self, value: float) -> float:
        """Return how much worse a value is than the baseline."""
        return self.baseline - value if self.primary.direction == "max" else value - self.baseline

    def list_levels(self, kind: Kind) -> list[float]:
        """Return all levels of a kind, the weakest first."""
        levels = {level for row in self.layers.values() for level in row.levels.get(kind, {})}
        return sorted(levels, key=lambda level: compute_strength(kind, level))


def _read_number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no measurement")
    return number


def compute_strength(kind: Kind, level: float) -> float:
    """Return how strongly a level compresses, from 0 to 1."""
    if kind == "sparsity":
        return level
    return 1 - level if kind == "rank" else 1 - level / _FLOAT_BITS


def format_level(kind: Kind, level: float) -> str:
    """Return a level as text, for a column heading."""
    if kind == "rank":
        return f"rank {level:g}"
    return f"{level:g} zeros" if kind == "sparsity" else f"{level:g} bits"


def allocate(curves: Mapping[str, Curve], sizes: Mapping[str, float], share: float) -> dict[str, float]:
    """Return the strength of each layer's compression whose mean is `share` at the least total cost.

    Costs are assumed to be additive, as those of `SensitivityTable.compute_costs` are, and are taken from the lower
    convex envelopes of the curves. Segments with the lowest cost per weight are used first, so that a small layer is
    spared unless its cost is low; segments of equal cost are used in equal parts. Strengths above the measured levels
    come last, in equal parts from all layers.

    Args:
        curves: Curve by layer; not empty.
        sizes: Weight of each layer in the mean, such as its number of weights; above 0.
        share: The weighted mean of the strengths, from 0 to below 1.
    """
    segments: list[tuple[float, str, float]] = []  # cost per weight, layer, length
    for name, curve in curves.items():
        envelope = _compute_envelope(curve)
        for (weaker, cost), (stronger, next_cost) in pairwise(envelope):
            segments.append(((next_cost - cost) / (stronger - weaker) / sizes[name], name, stronger - weaker))
        segments.append((math.inf, name, 1 - envelope[-1][0]))
    strengths, remaining = dict.fromkeys(curves, 0.0), share * sum(sizes[name] for name in curves)
    for _, group in groupby(sorted(segments), key=lambda segment: segment[0]):
        equal = list(group)
        available = sum(length * sizes[name] for _, name, length in equal)
        part = min(1.0, remaining / available) if available else 0.0
        for _, name, length in equal:
            strengths[name] += part * length
        remaining = max(0.0, remaining - part * available)  # rounding errors may make it negative
    return strengths


def _compute_envelope(curve: Curve) -> list[tuple[float, float]]:
    """Return the lower convex envelope of a curve's points."""
    hull: list[tuple[float, float]] = []
    for x, y in curve:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull


def choose_fewest_bits(curve: Curve, drop: float, among: Sequence[int]) -> int:
    """Return the fewest of the bits in `among` at which a layer loses at most `drop`; 32 if there are none."""
    costs = {round(_FLOAT_BITS * (1 - strength)): cost for strength, cost in curve}
    return min((bits for bits in among if costs.get(bits, math.inf) <= drop), default=_FLOAT_BITS)


def prune_kernel(kernel: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Return a kernel with the `share` of its smallest weights set to 0."""
    values = kernel.copy()
    values.flat[np.argsort(np.abs(kernel), axis=None, kind="stable")[: round(share * kernel.size)]] = 0
    return values


def round_kernel(kernel: NDArray[np.float32], bits: int, channel: int) -> NDArray[np.float32]:
    """Return a kernel rounded to `bits` bits, symmetrically, with a scale for each index of the axis `channel`.

    The values equal those of litert-quantizer after dequantisation.
    """
    others = tuple(axis for axis in range(kernel.ndim) if axis != channel % kernel.ndim)
    scales = np.abs(kernel).max(axis=others, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
    rounded: NDArray[np.float32] = np.rint(kernel / np.where(scales > 0, scales, np.float32(1))) * scales
    return rounded


def truncate_rank(kernel: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """Return a kernel `(outputs, ..., inputs)` truncated to `share` of its highest rank along outputs and inputs.

    Uses the SVD of a matrix, and the higher-order SVD of a convolution's kernel (De Lathauwer et al. 2000).
    """
    values = np.moveaxis(kernel, 0, -1)  # the layout of `lowrank`
    factors = lowrank.Spectra(values).factors(lowrank.ranks_for_ratio(values.shape, share))
    return np.moveaxis(lowrank.multiply_factors(factors), -1, 0).astype(np.float32)
