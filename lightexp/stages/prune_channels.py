"""Channel pruning: remove filters and neurons, so that a smaller dense model is left."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightexp.core.config import Count, Share, Sparsity, settings_dataclass
from lightexp.core.protocols import Artifact, Context, Input, Range
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable
from lightexp.stages.architecture_stage import ArchitectureStage
from lightexp.stages.channel_selection import ChannelSelector, ChannelTarget, matches_any
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table

if TYPE_CHECKING:
    from lightexp.backend.channels import ChannelGraph


@settings_dataclass
class PruneChannels(ArchitectureStage):
    """Remove the least important filters and neurons with all weights that depend on them, and train.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets" (arXiv 1608.08710). The channels of the model's input and
    output are kept. Layers whose outputs are added lose the same channels and count as one.

    Attributes:
        ratio: Fraction of the channels to remove. Defaults to 0.5.
        criterion: Importance of a channel: `l1` or `l2` norm of its filters, `bn_scale`, `taylor` (first order, on the
            train split) or `random`. Defaults to `l1`.
        allocation: How `ratio` is allocated to the layers: `uniform` (the same ratio for each), `global` (one ranking
            of all channels; norms are relative to their layer's mean) or `sensitivity` (the lowest total cost by the
            sparsities in the table of an earlier stage `sensitivity`: the cost of removing a layer's smallest weights
            is an estimate of the cost of removing its channels). Defaults to `uniform`.
        layers: Ratio of single layers, by pattern of their names; not subject to the allocation, the budget and
            `round_to`.
        exclude: Patterns of the names of layers that keep all their channels.
        budget: Instead of `ratio`: use the lowest ratio that leaves at most `share` of the `macs`, `params` or
            `file_bytes` (float32) of the model that the stage starts from. Defaults to None.
        share: See `budget`. Defaults to 0.5.
        round_to: Layers at least twice as wide keep a multiple of this, the nearest, since kernels compute that many
            channels at once (XNNPACK: 8 on ARM, 16 with AVX-512); narrower layers, and those that keep fewer, keep a
            multiple of its half, its quarter and so on. Defaults to 8.
        iterations: Number of rounds, in which equally many channels are removed; after each the model is trained for
            `epochs`. Defaults to 1.

    Example:
        >>> from lightexp.objectives.cross_entropy import CrossEntropy
        >>> PruneChannels(objective=CrossEntropy(), ratio=0.25, exclude=["stem"]).is_static
        True
    """

    resumable = False
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
    share: Share = 0.5
    round_to: Count = 8
    iterations: Count = 1

    @property
    def is_static(self) -> bool:
        """Whether the number of channels to keep depends neither on weights nor on the sensitivity table."""
        return self.allocation == "uniform"

    def inputs(self) -> dict[str, Input]:
        """Return the objective's teachers, and the sensitivity table if it allocates the ratio."""
        inputs = super().inputs()
        if self.allocation == SENSITIVITY_FACT:
            inputs[SENSITIVITY_FACT] = Sensitivity
        return inputs

    def coupled_layers(self, model: Any) -> list[tuple[str, ...]]:
        """Return groups of layers whose outputs are added; see `ArchitectureStage.coupled_layers`."""
        from lightexp.backend.channels import ChannelGraph

        return [group.layers for group in ChannelGraph(model).groups]

    def preview(self, model: Any, table: SensitivityTable | None = None) -> tuple[Any, list[tuple[str, str]]]:
        """Return the narrower model and the number of channels that each layer keeps; see `ArchitectureStage`."""
        from lightexp.backend.channels import ChannelGraph

        graph = ChannelGraph(model)
        scores = np.arange(graph.count, dtype=np.float64)
        removed = self.select_removed(graph, scores, ChannelTarget.from_stage(self, model, graph), table)
        undetermined = ""
        if not self.is_static and not table:
            undetermined = "those go that rank lowest of all"
            if self.allocation == SENSITIVITY_FACT:
                undetermined = "some go, how many by the table of sensitivity"
        return graph.remove(() if undetermined else removed), self._describe(model, graph, removed, undetermined)

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Remove channels and train; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.channels import ChannelGraph
        from lightexp.backend.importance import score_channels

        assert parent is not None  # `accepts` requires one
        model = keras_files.load_model(parent.folder, context.seed)
        graph = ChannelGraph(model)
        start_widths = {name: len(channels) for name, channels in graph.output_channels.items()}
        target = ChannelTarget.from_stage(self, model, graph)
        table = sensitivity_table(context)
        history: dict[str, list[float]] = {}
        for number in range(1, self.iterations + 1):
            context.progress.say(f"removing channels, round {number} of {self.iterations}")
            scores = score_channels(model, graph, self.criterion, context.seed, context.data)
            model = graph.remove(self.select_removed(graph, scores, target, table, number / self.iterations))
            for name, values in self.fit(model, context).items():
                history.setdefault(name, []).extend(values)
            graph = ChannelGraph(model)
        keras_files.save_model(model, context.out)
        widths = {name: [start_widths[name], len(channels)] for name, channels in graph.output_channels.items()}
        return {"history": history, "channels": widths}

    def select_removed(
        self,
        graph: ChannelGraph,
        scores: NDArray[np.float64],
        target: ChannelTarget,
        table: SensitivityTable | None = None,
        done: float = 1.0,
    ) -> set[int]:
        """Select the channels to remove.

        Args:
            graph: Channels of the model.
            scores: Importance of each channel; the lowest are removed first.
            target: Target at the end of all rounds.
            table: Sensitivity table to allocate the ratio by. Defaults to None.
            done: Fraction of the target to reach now. Defaults to 1.

        Returns:
            Indices of the channels.

        Raises:
            BadInput: If a pattern matches no layer, a layer would be left empty, or the budget cannot be met.
        """
        return ChannelSelector(self, graph, scores, target, table).select(done)

    def _describe(self, model: Any, graph: ChannelGraph, removed: set[int], undetermined: str) -> list[tuple[str, str]]:
        """Return (name, description) of each layer; `undetermined` is the text for unknown counts."""
        groups = {name: group for group in graph.groups for name in group.layers}
        descriptions = []
        for layer in model.layers:
            kind = type(layer).__name__
            if layer.name not in graph.output_channels:
                reason = graph.pinning.get(layer.name)
                effect = f"stays as it is, {reason}" if reason else "follows the layers before it"
                if layer.weights:
                    descriptions.append((layer.name, f"{kind}: {effect}"))
                continue
            channels = graph.output_channels[layer.name]
            count = sum(channel not in removed for channel in channels.tolist())
            group = groups.get(layer.name)
            if group is None:
                reader = graph.pinned.get(layer.name)
                reason = f"{reader} reads them" if reader else "they are the model's output"
                effect = f"all {len(channels)} channels stay, {reason}"
            elif undetermined and not matches_any(group, [*self.exclude, *self.layers]):
                effect = f"of {len(channels)} channels {undetermined}"
            elif count == len(channels):
                effect = f"all {len(channels)} channels stay"
            else:
                effect = f"{count} of {len(channels)} channels stay"
            coupled = [name for name in group.layers if name != layer.name] if group else []
            if coupled:
                effect += f", with those of {', '.join(coupled)}"
            descriptions.append((layer.name, f"{kind}: {effect}"))
        return descriptions
