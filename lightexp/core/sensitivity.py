"""What each layer costs in accuracy when it alone is compressed, and settings of single layers taken from that.

Nothing here knows how a stage compresses: a layer's curve leads from how hard it is compressed (0: not at all, 1: away)
to what that costs, and whatever a stage sets by layer is a place on that curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core import lowrank
from lightexp.core.errors import BadInput

Kind = Literal["sparsity", "rank", "bits"]
KINDS: tuple[Kind, ...] = ("sparsity", "rank", "bits")
SENSITIVITY_FACT = "sensitivity"
"""Under which a stage's facts hold a table, as `Table.of` reads it."""
_FLOAT = 32  # bits

Curve = Sequence[tuple[float, float]]
"""How hard a layer is compressed, from 0 to at most 1, and what this costs, from 0; neither ever falls."""


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer.

    Attributes:
        names: What it is known by: the kernel's name in the file, and the layers' that the converter has put into that.
        weights: How many its kernel has.
        levels: By kind, the validation accuracy with the layer alone at each level: share of zeros, share of the
            highest rank, bits. A kind that makes no sense of the layer is left out.
    """

    names: list[str]
    weights: int
    levels: dict[str, dict[float, float]]


@dataclass(frozen=True)
class SensitivityTable:
    """A model's layers.

    Attributes:
        accuracy: Validation accuracy of the model as it is.
        chance: That of always giving the commonest class.
        examples: On how many it was measured.
        layers: Rows by the name that people know a layer by, in the order of execution.
    """

    accuracy: float
    chance: float
    examples: int
    layers: dict[str, LayerSensitivity]

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> SensitivityTable:
        """The table in the facts of a stage that has made one; its levels are text, as JSON has them."""
        table = facts[SENSITIVITY_FACT]
        layers = {
            name: LayerSensitivity(
                list(row["names"]),
                int(row["weights"]),
                {kind: {float(level): float(of[level]) for level in of} for kind, of in row["levels"].items()},
            )
            for name, row in table["layers"].items()
        }
        return cls(float(table["accuracy"]), float(table["chance"]), int(table["examples"]), layers)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> SensitivityTable | None:
        """The table in the facts of any stage; None if it made none, or none that can be read."""
        try:
            return found if (found := cls.read(facts)).layers else None
        except (KeyError, TypeError, ValueError, AttributeError):  # also in a record of somebody else's
            return None

    def row(self, names: Iterable[str]) -> LayerSensitivity:
        """The row of the layer that is known by any of `names`, the likeliest last.

        Raises:
            BadInput: If there is none.
        """
        known = list(names)
        for row in self.layers.values():
            if not set(row.names).isdisjoint(known):
                return row
        raise BadInput(
            f"the table of sensitivity has no layer '{known[-1]}'. Its layers are: {', '.join(self.layers)}. "
            "Put the sensitivity stage behind whatever changes the model's layers."
        )

    def drops(self, names: Iterable[str], kind: Kind) -> Curve:
        """The accuracy that a layer loses at each level; at least what it loses at a weaker one."""
        levels = self.row(names).levels.get(kind, {})
        found = sorted((compute_strength(kind, level), self.accuracy - accuracy) for level, accuracy in levels.items())
        places, drops = zip((0.0, 0.0), *found, strict=True)
        return list(zip(places, accumulate(drops, max), strict=True))

    def costs(self, names: Iterable[str], kind: Kind) -> Curve:
        """The same as a cost that may be added up over layers: the negative logarithm of the skill that is left.

        Skill is how far accuracy is above chance; what several layers leave of it is taken to be the product of what
        each leaves. Unlike a drop, it costs ever more to come near chance. All is 0 in a model without skill.
        """
        skill = self.accuracy - self.chance
        if skill <= 0:
            return [(place, 0.0) for place, _ in self.drops(names, kind)]
        return [(place, -math.log(max(1 - drop / skill, 1 / self.examples))) for place, drop in self.drops(names, kind)]

    def levels(self, kind: Kind) -> list[float]:
        """All levels of a kind, the weakest first."""
        found = {level for row in self.layers.values() for level in row.levels.get(kind, {})}
        return sorted(found, key=lambda level: compute_strength(kind, level))


def compute_strength(kind: Kind, level: float) -> float:
    """How hard a level compresses, from 0 to 1."""
    return {"sparsity": level, "rank": 1 - level, "bits": 1 - level / _FLOAT}[kind]


def format_level(kind: Kind, level: float) -> str:
    """A level in words, as a column's head."""
    return {"sparsity": f"{level:g} zeros", "rank": f"rank {level:g}", "bits": f"{level:g} bits"}[kind]


def allocate(curves: Mapping[str, Curve], sizes: Mapping[str, float], share: float) -> dict[str, float]:
    """How hard to compress each layer so that all together are compressed by `share` at the least total cost.

    Costs are taken to add up, as `Table.costs` do, and lie on the curves' convex envelopes. The pieces of these that
    cost least for each weight come first, so that a small layer is spared unless it costs little; pieces that cost the
    same give the same part. What is stronger than any level that was measured comes last, from all alike.

    Args:
        curves: By layer; not empty.
        sizes: What each layer counts, such as its weights; above 0.
        share: The mean over the layers by their sizes, from 0 to below 1.
    """
    pieces: list[tuple[float, str, float]] = []  # cost of a weight, layer, length
    for name, curve in curves.items():
        envelope = _envelope(curve)
        for (weaker, before), (harder, after) in pairwise(envelope):
            pieces.append(((after - before) / (harder - weaker) / sizes[name], name, harder - weaker))
        pieces.append((math.inf, name, 1 - envelope[-1][0]))
    found, left = dict.fromkeys(curves, 0.0), share * sum(sizes[name] for name in curves)
    for _, alike in groupby(sorted(pieces), key=lambda piece: piece[0]):
        each = list(alike)
        room = sum(length * sizes[name] for _, name, length in each)
        part = min(1.0, left / room) if room else 0.0
        for _, name, length in each:
            found[name] += part * length
        left = max(0.0, left - part * room)  # rounding may take a little too much
    return found


def _envelope(curve: Curve) -> list[tuple[float, float]]:
    """The lower convex envelope of a curve's points."""
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
    """The fewest bits that cost a layer at most `drop`, as do all more; 32 if there are none such."""
    costs = {round(_FLOAT * (1 - place)): cost for place, cost in curve}
    return min((bits for bits in among if costs.get(bits, 1.0) <= drop), default=_FLOAT)


def prune_kernel(kernel: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """A kernel without the `share` of its weights that are smallest."""
    values = kernel.copy()
    values.flat[np.argsort(np.abs(kernel), axis=None, kind="stable")[: round(share * kernel.size)]] = 0
    return values


def round_kernel(kernel: NDArray[np.float32], bits: int, channel: int) -> NDArray[np.float32]:
    """A kernel whose weights are those of as few `bits`: symmetric, with a scale for each place on the axis `channel`.

    These are the very numbers that litert-quantizer gives, made float again.
    """
    others = tuple(axis for axis in range(kernel.ndim) if axis != channel % kernel.ndim)
    scales = np.abs(kernel).max(axis=others, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
    found: NDArray[np.float32] = np.rint(kernel / np.where(scales > 0, scales, np.float32(1))) * scales
    return found


def truncate_rank(kernel: NDArray[np.float32], share: float) -> NDArray[np.float32]:
    """A kernel, outputs first, `(outputs, ..., inputs)`, of `share` of its highest rank along outputs and inputs.

    Truncated SVD of a matrix, and of a convolution's kernel the truncated higher-order SVD (De Lathauwer et al. 2000).
    """
    values = np.moveaxis(kernel, 0, -1)  # as `lowrank` has it
    factors = lowrank.Spectra(values).factors(lowrank.ranks_for_ratio(values.shape, share))
    return np.moveaxis(lowrank.multiply_factors(factors), -1, 0).astype(np.float32)
