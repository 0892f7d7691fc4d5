"""Select the channels that channel pruning removes, for a ratio or a budget, by importance scores."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.core.sensitivity import SensitivityTable, allocate
from lightexp.stages.layer_patterns import resolve_patterns

if TYPE_CHECKING:
    from lightexp.backend.channels import ChannelGraph, ChannelGroup
    from lightexp.stages.prune_channels import PruneChannels

_BISECTIONS = 24
_FLOAT32_BYTES = 4
_ALIGNMENT = 16  # bytes to which a flatbuffer pads a tensor
_MAX_REASONS = 2  # in a message


@dataclass(frozen=True)
class ChannelTarget:
    """The cost to reach, relative to the model at the start.

    Attributes:
        budget: As in `PruneChannels`.
        widths: Number of channels of each group at the start.
        start: Cost of the model at the start.
        limit: Highest cost allowed; None if a ratio is set instead.
        overhead: Bytes of the file that are not weights.
    """

    budget: str | None
    widths: dict[tuple[str, ...], int]
    start: float = 0.0
    limit: float | None = None
    overhead: int = 0

    @classmethod
    def from_stage(cls, stage: PruneChannels, model: Any, graph: ChannelGraph) -> ChannelTarget:
        """Return a stage's target for a model at the start."""
        widths = {group.layers: len(group.channels) for group in graph.groups}
        if stage.budget is None:
            return cls(None, widths)
        cost = graph.compute_cost()
        if stage.budget != "file_bytes":
            start = cost.macs if stage.budget == "macs" else cost.params
            return cls(stage.budget, widths, start, stage.share * start)
        from lightexp.backend import converter

        start = len(converter.convert_to_float32(model))
        overhead = start - _FLOAT32_BYTES * cost.params + _ALIGNMENT * len(graph.output_channels)
        return cls(stage.budget, widths, start, stage.share * start, overhead)

    def get_width(self, group: ChannelGroup) -> int:
        """Return the number of channels that a group had at the start."""
        return self.widths.get(group.layers, len(group.channels))

    def compute_cost(self, graph: ChannelGraph, removed: set[int]) -> float:
        """Compute the model's cost, in the unit of the budget, without the removed channels."""
        cost = graph.compute_cost(removed)
        if self.budget == "macs":
            return cost.macs
        if self.budget == "params":
            return cost.params
        return _FLOAT32_BYTES * cost.params + self.overhead


class ChannelSelector:
    """Selection of the channels to remove from a model in one round.

    Args:
        stage: Settings of the stage.
        graph: Channels of the model.
        scores: Importance of each channel; the lowest are removed first.
        target: Target at the end of all rounds.
        table: Sensitivity table to allocate the ratio by; None for another allocation.

    Raises:
        BadInput: If a pattern matches no layer, or no layer's channels may be removed.
    """

    def __init__(
        self,
        stage: PruneChannels,
        graph: ChannelGraph,
        scores: NDArray[np.float64],
        target: ChannelTarget,
        table: SensitivityTable | None = None,
    ) -> None:
        self._stage, self._graph, self._scores, self._target = stage, graph, scores, target
        self._prunable = [group for group in graph.groups if not matches_any(group, stage.exclude)]
        for pattern in stage.exclude:
            if not any(fnmatchcase(name, pattern) for name in graph.output_channels):
                raise BadInput(
                    f"exclude: '{pattern}' matches no layer with channels: {', '.join(graph.output_channels)}."
                )
        if not self._prunable:
            reasons = [f"all that {name} reads stay: {reason}" for name, reason in graph.pinning.items()]
            pinning = "; ".join([*reasons[:_MAX_REASONS], *(["..."] if reasons[_MAX_REASONS:] else [])])
            raise BadInput(
                f"the model has no layer whose channels may go{f' ({pinning})' if pinning else ''}. Leave the stage "
                "out, exclude less, or use prune, which needs only kernels."
            )
        names = [name for group in self._prunable for name in group.layers]
        self._layer_ratios = resolve_patterns(names, stage.layers, "pruned", "ratios")
        self._shared = [group for group in self._prunable if not self._has_layer_ratio(group)]
        self._curves = {group.layers[0]: _sum_curves(group, table) for group in self._shared} if table else {}

    def select(self, done: float = 1.0) -> set[int]:
        """Select the channels to remove.

        Args:
            done: Fraction of the target to reach in this round. Defaults to 1.

        Returns:
            Indices of the channels.

        Raises:
            BadInput: If a layer would be left without channels, or the budget cannot be met.
        """
        self._check_not_empty()
        stage, target = self._stage, self._target
        if target.limit is None:
            return self._list_removed(self._count_kept(stage.ratio * done))
        limit = target.start - (target.start - target.limit) * done
        counts = self._count_kept(self._find_ratio(limit))
        cost = self._compute_cost(counts)
        if cost > limit:
            raise BadInput(
                f"budget={stage.budget}, share={stage.share:g}: even one channel in every layer leaves "
                f"{cost / target.start:.3f} of it. Ask for no less, or exclude less."
            )
        return self._list_removed(self._use_remainder(counts, limit))

    def _check_not_empty(self) -> None:
        """Check that the ratios leave a channel in each layer, before rounding guarantees it."""
        is_shared_ratio = self._stage.allocation == "uniform" and self._target.limit is None
        shared_ratio = self._stage.ratio if is_shared_ratio else 0.0
        for group in self._prunable:
            width, ratio = self._target.get_width(group), self._get_ratio(group, shared_ratio)
            if _round_half_up(width * (1 - ratio)) < 1:
                raise BadInput(
                    f"{group.layers[0]}: a ratio of {ratio:g} leaves none of its {width} channels. Give it at most "
                    f"{1 - 1 / width:.3g}, as in layers={{{group.layers[0]}: {1 - 1 / width:.3g}}}."
                )

    def _count_kept(self, ratio: float) -> dict[ChannelGroup, int]:
        """Return how many channels each group keeps at a ratio, rounded to the group's unit."""
        target = self._target
        counts = {group: target.get_width(group) * (1 - self._get_ratio(group, ratio)) for group in self._prunable}
        if self._curves:
            widths = {group.layers[0]: float(target.get_width(group)) for group in self._shared}
            ratios = allocate(self._curves, widths, ratio)
            counts |= {group: target.get_width(group) * (1 - ratios[group.layers[0]]) for group in self._shared}
        if self._stage.allocation == "global":
            counts |= self._rank_globally(ratio)
        rounded = {}
        for group, count in counts.items():
            unit = 1 if self._has_layer_ratio(group) else self._get_unit(group, count)
            rounded[group] = max(1, _round_half_up(count / unit)) * unit
        return rounded

    def _rank_globally(self, ratio: float) -> dict[ChannelGroup, float]:
        """Return how many channels each group keeps if the lowest `ratio` of all channels is removed."""
        groups, scores = self._shared, self._scores
        is_relative = self._stage.criterion in ("l1", "l2")
        scales = [float(np.mean(scores[list(group.channels)])) or 1.0 if is_relative else 1.0 for group in groups]
        ranking = sorted(
            (scores[channel] / scales[index], index, channel)
            for index, group in enumerate(groups)
            for channel in group.channels
        )
        counts = [len(group.channels) for group in groups]
        total = _round_half_up((1 - ratio) * sum(map(self._target.get_width, groups)))
        for _, index, _ in ranking:
            if sum(counts) > total and counts[index] > 1:
                counts[index] -= 1
        return dict(zip(groups, map(float, counts), strict=True))

    def _find_ratio(self, limit: float) -> float:
        """Return the lowest ratio whose cost is within the limit, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self._compute_cost(self._count_kept(middle)) <= limit:
                high = middle
            else:
                low = middle
        return high

    def _use_remainder(self, counts: dict[ChannelGroup, int], limit: float) -> dict[ChannelGroup, int]:
        """Return the counts after giving units of channels back, as far as rounding has left the limit unused."""
        counts = dict(counts)
        units = {
            group: self._get_unit(group, count) for group, count in counts.items() if not self._has_layer_ratio(group)
        }

        def compute_cost_with(group: ChannelGroup) -> float:
            return self._compute_cost(counts | {group: counts[group] + units[group]})

        for group in sorted(units, key=lambda group: (compute_cost_with(group) - limit) / units[group]):
            if compute_cost_with(group) <= limit:
                counts[group] += units[group]
        return counts

    def _compute_cost(self, counts: dict[ChannelGroup, int]) -> float:
        return self._target.compute_cost(self._graph, self._list_removed(counts))

    def _list_removed(self, counts: dict[ChannelGroup, int]) -> set[int]:
        """Return the channels to remove so that each group keeps its count."""
        removed: set[int] = set()
        for group, count in counts.items():
            removed |= self._list_lowest(group, count)
        return removed

    def _list_lowest(self, group: ChannelGroup, kept: int) -> set[int]:
        """Return the lowest channels of a group, all but `kept`; every layer of the group keeps one."""
        rows = [set(self._graph.output_channels[name].tolist()) for name in group.layers]
        lowest: set[int] = set()
        for channel in sorted(group.channels, key=lambda channel: (self._scores[channel], channel)):
            if len(group.channels) - len(lowest) <= kept:
                break
            if all(len(row - lowest) > 1 for row in rows if channel in row):
                lowest.add(channel)
        return lowest

    def _get_unit(self, group: ChannelGroup, kept: float) -> int:
        """Return the number that the count of a group, about `kept`, is rounded to a multiple of."""
        width, unit = self._target.get_width(group), self._stage.round_to
        while unit > 1 and (width < 2 * unit or kept < unit):
            unit //= 2
        return unit

    def _has_layer_ratio(self, group: ChannelGroup) -> bool:
        return any(name in self._layer_ratios for name in group.layers)

    def _get_ratio(self, group: ChannelGroup, shared_ratio: float) -> float:
        """Return the ratio that `layers` sets for a group, or the shared ratio."""
        ratios = {name: self._layer_ratios[name] for name in group.layers if name in self._layer_ratios}
        if len(set(ratios.values())) > 1:
            raise BadInput(f"layers: {ratios} must be one ratio, since these layers are added. Give them the same.")
        return next(iter(ratios.values()), shared_ratio)


def matches_any(group: ChannelGroup, patterns: Collection[str]) -> bool:
    """Return whether a pattern matches the name of one of a group's layers."""
    return any(fnmatchcase(name, pattern) for name in group.layers for pattern in patterns)


def _sum_curves(group: ChannelGroup, table: SensitivityTable) -> list[tuple[float, float]]:
    """Return the cost of pruning all layers of a group by the same ratio, as (ratio, cost)."""
    curves = [table.compute_costs([name], "sparsity") for name in group.layers]
    return [(points[0][0], sum(cost for _, cost in points)) for points in zip(*curves, strict=True)]


def _round_half_up(count: float) -> int:
    """Round to the nearest integer, a half up, so that a ratio of 0.5 leaves one of one channel."""
    return int(count + 0.5)
