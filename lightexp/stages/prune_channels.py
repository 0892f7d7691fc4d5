"""Channel pruning: filters and neurons are removed, and what is left is a smaller model."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Positive, Sparsity, settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.protocols import Artifact, Context, Input, Range
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable, allocate
from lightexp.stages.architecture_stage import ArchitectureStage, require_finite
from lightexp.stages.layer_patterns import resolve_patterns
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table

if TYPE_CHECKING:
    from lightexp.backend.channels import ChannelGraph, ChannelGroup

_HALVINGS = 24
_FLOAT32 = 4  # bytes
_ALIGNED = 16  # bytes to which a flatbuffer pads a tensor


@settings_dataclass
class PruneChannels(ArchitectureStage):
    """Removes the least important filters and neurons, in all layers that they tie together, and trains what is left.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv 1608.08710). The inputs' and the outputs' channels
    stay. Layers whose outputs are added lose the same channels, and count as one.

    Attributes:
        ratio: Share of the channels that go. Defaults to 0.5.
        criterion: What makes a channel unimportant: `l1` or `l2` norm of its filters, `bn_scale`, `taylor` (first
            order, on train) or `random`. Defaults to `l1`.
        allocation: How `ratio` is shared out: `uniform` (each layer alike), `global` (one ranking of all; norms are
            relative to their layer's mean) or `sensitivity` (such that it costs the least by the sparsities in the
            table of an earlier stage `sensitivity`: what a layer loses with its smallest weights stands for what it
            loses with its channels). Defaults to `uniform`.
        layers: Ratio of single layers, by pattern of their names; outside the allocation, the budget and `round_to`.
        exclude: Patterns of the names of layers that keep all their channels.
        budget: Instead of `ratio`: the lowest ratio is taken that leaves at most `share` of the `macs`, `params` or
            `file_bytes` (float32) of the model that the stage starts from. Defaults to None.
        share: See `budget`. Defaults to 0.5.
        round_to: Layers at least twice as wide keep a multiple of this, the nearest, since kernels compute that many
            channels at once (XNNPACK: 8 on ARM, 16 with AVX-512); narrower ones, and those that keep fewer, a multiple
            of its half, its quarter and so on. Defaults to 8.
        iterations: Rounds in which the channels go, equally many in each; after each the model is trained for `epochs`.
            Defaults to 1.
    """

    once = False
    search = {
        **ArchitectureStage.search,
        "ratio": Range("interval(0.1, 0.8)", strongest=0.8),
        "layers": Range("interval(0.1, 0.8)", strongest=0.8),
    }
    ratio: Sparsity = 0.5
    criterion: Literal["l1", "l2", "bn_scale", "taylor", "random"] = "l1"
    allocation: Literal["uniform", "global", "sensitivity"] = "uniform"
    layers: dict[str, Sparsity] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    budget: Literal["macs", "params", "file_bytes"] | None = None
    share: Positive = 0.5
    round_to: Count = 8
    iterations: Count = 1

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share must be at most 1. Received: {self.share}.")

    @property
    def is_static(self) -> bool:
        """Not where weights, or the table of sensitivity, decide how many channels a layer keeps."""
        return self.allocation == "uniform"

    def inputs(self) -> dict[str, Input]:
        """The teachers, and the table of sensitivity where it shares out the ratio."""
        return {**super().inputs(), **({SENSITIVITY_FACT: Sensitivity} if self.allocation == SENSITIVITY_FACT else {})}

    def coupled_layers(self, model: Any) -> list[tuple[str, ...]]:
        """Layers whose outputs are added."""
        from lightexp.backend.channels import ChannelGraph

        return [space.layers for space in ChannelGraph(model).groups]

    def preview(self, model: Any, table: SensitivityTable | None = None) -> tuple[Any, list[tuple[str, str]]]:
        """The narrower model, and how many channels each layer keeps; see `Surgery.foreseen`."""
        from lightexp.backend.channels import ChannelGraph

        graph = ChannelGraph(model)
        scores = np.arange(graph.count, dtype=np.float64)
        gone = self.select_removed(graph, scores, ChannelTarget.of(self, model, graph), table)
        later = "" if self.is_static or table else "those go that rank lowest of all"
        if later and self.allocation == SENSITIVITY_FACT:
            later = "some go, how many by the table of sensitivity"
        return graph.remove(() if later else gone), self._words(model, graph, gone, later)

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Removes channels and trains; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.channels import ChannelGraph
        from lightexp.backend.importance import score_channels

        assert parent is not None  # `accepts` says so
        model = keras_files.load_model(parent.folder, context.seed)
        require_finite(model)
        graph = ChannelGraph(model)
        before, target = (
            {name: len(row) for name, row in graph.output_channels.items()},
            ChannelTarget.of(self, model, graph),
        )
        history: dict[str, list[float]] = {}
        for number in range(1, self.iterations + 1):
            context.progress.say(f"removing channels, round {number} of {self.iterations}")
            scores = score_channels(model, graph, self.criterion, context.seed, context.data)
            model = graph.remove(
                self.select_removed(graph, scores, target, sensitivity_table(context), number / self.iterations)
            )
            for name, values in self.fit(model, context).items():
                history.setdefault(name, []).extend(values)
            graph = ChannelGraph(model)
        keras_files.save_model(model, context.out)
        return {"history": history, "channels": {n: [before[n], len(row)] for n, row in graph.output_channels.items()}}

    def select_removed(
        self,
        graph: ChannelGraph,
        scores: NDArray[np.float64],
        target: ChannelTarget,
        table: SensitivityTable | None = None,
        done: float = 1.0,
    ) -> set[int]:
        """The channels that go.

        Args:
            graph: The model's channels.
            scores: Of each; the lowest go first.
            target: What is to be reached at the end.
            table: That of sensitivity, by which the ratio is shared out.
            done: The share of that which is to be reached now.

        Raises:
            BadInput: If a pattern matches no layer, a layer would be left empty, or the budget cannot be met.
        """
        free = [space for space in graph.groups if not self._matched(space, self.exclude)]
        names = [name for space in free for name in space.layers]
        for pattern in self.exclude:
            if not any(fnmatchcase(name, pattern) for name in graph.output_channels):
                raise BadInput(
                    f"exclude: '{pattern}' matches no layer with channels: {', '.join(graph.output_channels)}."
                )
        if not free:
            raise BadInput("the model has no layer whose channels may go. Leave the stage out, or exclude less.")
        own = resolve_patterns(names, self.layers, "pruned", "ratios")
        rest = [space for space in free if not own.keys() & space.layers]
        curves = {space.layers[0]: _curve(space, table) for space in rest} if table else {}
        widths = {space.layers[0]: float(target.width(space)) for space in rest}

        shared = self.ratio if self.allocation == "uniform" and target.limit is None else 0.0
        for space in free:
            width, given = target.width(space), self._ratio(space, own, shared)
            if _rounded(width * (1 - given)) < 1:
                raise BadInput(
                    f"{space.layers[0]}: a ratio of {given:g} leaves none of its {width} channels. Give it at most "
                    f"{1 - 1 / width:.3g}, as in layers={{{space.layers[0]}: {1 - 1 / width:.3g}}}."
                )

        def kept(ratio: float) -> dict[ChannelGroup, int]:
            counts = {s: target.width(s) * (1 - self._ratio(s, own, ratio)) for s in free}
            if curves:
                ratios = allocate(curves, widths, ratio)
                counts |= {s: target.width(s) * (1 - ratios[s.layers[0]]) for s in rest}
            if self.allocation == "global":
                counts |= _ranked(rest, scores, ratio, target, relative=self.criterion in ("l1", "l2"))
            units = {s: 1 if own.keys() & s.layers else self._unit(target.width(s), n) for s, n in counts.items()}
            return {s: max(1, _rounded(n / units[s])) * units[s] for s, n in counts.items()}

        def lowest(counts: dict[ChannelGroup, int]) -> set[int]:
            return set().union(*(_lowest(space, graph, scores, count) for space, count in counts.items()))

        if target.limit is None:
            return lowest(kept(self.ratio * done))
        limit = target.start - (target.start - target.limit) * done
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if target.figure(graph, lowest(kept(middle))) <= limit else (middle, high)
        counts = kept(high)
        if (left := target.figure(graph, lowest(counts))) > limit:
            raise BadInput(
                f"budget={self.budget}, share={self.share:g}: even one channel in every layer leaves "
                f"{left / target.start:.3f} of it. Ask for no less, or exclude less."
            )
        units = {s: self._unit(target.width(s), n) for s, n in counts.items() if not own.keys() & s.layers}

        def dearer(space: ChannelGroup) -> float:
            return target.figure(graph, lowest(counts | {space: counts[space] + units[space]}))

        for space in sorted(units, key=lambda s: (dearer(s) - limit) / units[s]):  # what rounding has left over
            if dearer(space) <= limit:
                counts[space] += units[space]
        return lowest(counts)

    def _unit(self, width: int, kept: float) -> int:
        """What the number of channels that stay of `width`, about `kept`, is to be a multiple of."""
        unit = self.round_to
        while unit > 1 and (width < 2 * unit or kept < unit):
            unit //= 2
        return unit

    def _ratio(self, space: ChannelGroup, own: dict[str, float], ratio: float) -> float:
        """The ratio of a space's layers, or the common one."""
        given = {name: own[name] for name in space.layers if name in own}
        if len(set(given.values())) > 1:
            raise BadInput(f"layers: {given} must be one ratio, since these layers are added. Give them the same.")
        return next(iter(given.values()), ratio)

    def _matched(self, space: ChannelGroup, patterns: list[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in space.layers for pattern in patterns)

    def _words(self, model: Any, graph: ChannelGraph, gone: set[int], later: str) -> list[tuple[str, str]]:
        spaces = {name: space for space in graph.groups for name in space.layers}
        words = []
        for layer in model.layers:
            if layer.name not in graph.output_channels:
                if layer.weights:
                    words.append((layer.name, f"{type(layer).__name__}: follows the layers before it"))
                continue
            row = graph.output_channels[layer.name]
            left = sum(channel not in gone for channel in row.tolist())
            what = f"{left} of {len(row)} channels stay"
            space = spaces.get(layer.name)
            tied = [name for name in space.layers if name != layer.name] if space else []
            if space is None:
                what = f"all {len(row)} channels stay, they are the model's output"
            elif later and not self._matched(space, [*self.exclude, *self.layers]):
                what = f"of {len(row)} channels {later}"
            elif left == len(row):
                what = f"all {len(row)} channels stay"
            along = f", with those of {', '.join(tied)}" if tied else ""
            words.append((layer.name, f"{type(layer).__name__}: {what}{along}"))
        return words


@dataclass(frozen=True)
class ChannelTarget:
    """What is to be reached, in the terms of the model at the start.

    Attributes:
        budget: As in `PruneChannels`.
        widths: How many channels each space had.
        start: What the model cost.
        limit: What it may cost; None where a ratio is given.
        rest: Bytes of the file that are no weights.
    """

    budget: str | None
    widths: dict[tuple[str, ...], int]
    start: float = 0.0
    limit: float | None = None
    rest: int = 0

    @classmethod
    def of(cls, stage: PruneChannels, model: Any, graph: ChannelGraph) -> ChannelTarget:
        """The stage's target for a model at the start."""
        widths = {space.layers: len(space.channels) for space in graph.groups}
        if stage.budget is None:
            return cls(None, widths)
        cost = graph.compute_cost()
        if stage.budget != "file_bytes":
            start = cost.macs if stage.budget == "macs" else cost.params
            return cls(stage.budget, widths, start, stage.share * start)
        from lightexp.backend import converter

        start = len(converter.convert_to_float32(model))
        rest = start - _FLOAT32 * cost.params + _ALIGNED * len(graph.output_channels)
        return cls(stage.budget, widths, start, stage.share * start, rest)

    def width(self, space: ChannelGroup) -> int:
        """How many channels a space had at the start."""
        return self.widths.get(space.layers, len(space.channels))

    def figure(self, graph: ChannelGraph, gone: set[int]) -> float:
        """What the model costs without the channels `gone`."""
        cost = graph.compute_cost(gone)
        return {"macs": cost.macs, "params": cost.params}.get(self.budget or "", _FLOAT32 * cost.params + self.rest)


def _curve(space: ChannelGroup, table: SensitivityTable) -> list[tuple[float, float]]:
    """What it costs to prune all layers of a space, each as much."""
    curves = [table.costs([name], "sparsity") for name in space.layers]
    return [(points[0][0], sum(cost for _, cost in points)) for points in zip(*curves, strict=True)]


def _ranked(
    spaces: list[ChannelGroup], scores: NDArray[np.float64], ratio: float, target: ChannelTarget, relative: bool
) -> dict[ChannelGroup, float]:
    """How many channels of each space are not among the lowest `ratio` of all that there were at the start."""
    means = {s: float(np.mean(scores[list(s.channels)])) or 1.0 if relative else 1.0 for s in spaces}
    ranked = sorted((scores[c] / means[s], i, c) for i, s in enumerate(spaces) for c in s.channels)
    left = [len(s.channels) for s in spaces]
    wanted = _rounded((1 - ratio) * sum(map(target.width, spaces)))
    for _, i, _ in ranked:
        if sum(left) > wanted and left[i] > 1:
            left[i] -= 1
    return dict(zip(spaces, map(float, left), strict=True))


def _lowest(space: ChannelGroup, graph: ChannelGraph, scores: NDArray[np.float64], kept: int) -> set[int]:
    """The lowest channels of a space, all but `kept`; one of each layer stays."""
    rows = [set(graph.output_channels[name].tolist()) for name in space.layers]
    found: set[int] = set()
    for channel in sorted(space.channels, key=lambda c: (scores[c], c)):
        if len(space.channels) - len(found) <= kept:
            break
        if all(len(row - found) > 1 for row in rows if channel in row):
            found.add(channel)
    return found


def _rounded(count: float) -> int:
    """The nearest whole number, a half up: of one channel, one is left by a half."""
    return int(count + 0.5)
