"""Weight clustering: train kernels whose weights share few values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from lightexp.core.clustering import Init, cluster_weights
from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.patterns import assign_to_layers, count_distinct_values, find_shortfall, measure_kernels, read_kernel
from lightexp.core.protocols import TFLITE, Artifact, Context, Invariant, InvariantFamily, InvariantKind, Layer, Range
from lightexp.core.sensitivity import SensitivityTable
from lightexp.core.tflite_graph import Tensor, TFLiteGraph
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns, skip_reason, split_parts
from lightexp.stages.train import TrainingStage

K = Annotated[int, Field(ge=2)]


@settings_dataclass
class Cluster(TrainingStage):
    """Cluster the weights of each kernel to few shared values, then train these.

    Han et al. 2015 (arXiv 1510.00149). Kernels of dense, convolutional and recurrent layers and embeddings are
    clustered, biases and depthwise kernels are not. Zeros are kept, as one of the values, also in layers that are not
    clustered. If the converter folds batch normalisation or channel scales into a kernel, the number of values is
    limited in each output channel instead of the kernel.

    Attributes:
        k: Number of values per kernel. Defaults to 16.
        init: Start of k-means: `kmeans++`, `linear`, `density` or `random`. Defaults to `kmeans++`.
        layers: k of single layers, by pattern of their names.
        exclude: Patterns of the names of layers that are not clustered.
    """

    search = {**TrainingStage.search, "k": Range("choice(64, 32, 16, 8)", strongest=8)}
    version = 3
    k: K = 16
    init: Init = "kmeans++"
    layers: dict[str, K] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)

    def establishes(self) -> tuple[Invariant, ...]:
        """Return the codebook invariant: the largest number of values of a layer."""
        return (Invariant(InvariantKind.CODEBOOK, max([self.k, *self.layers.values()])),)

    def preserves(self, invariant: Invariant) -> bool:
        """Return whether zeros, or an earlier codebook that is no smaller than this one, are preserved."""
        if invariant.kind == InvariantKind.CODEBOOK:
            return not self.exclude and invariant.value >= max([self.k, *self.layers.values()])
        return invariant.family is InvariantFamily.ZEROS

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Return each layer's number of values, or why it is not clustered; see `Stage.describe_layers`."""
        layers = split_parts(layers)
        sizes = self.select_sizes(layers)
        descriptions = []
        for layer in layers:
            if layer.name in sizes:
                descriptions.append((layer.name, f"{layer.kind} {layer.kernel}: {sizes[layer.name]} values"))
            else:
                reason = self._skip_reason(layer) or "it has no more weights than values"
                descriptions.append((layer.name, f"{layer.kind}: left alone, {reason}"))
        return descriptions

    def select_sizes(self, layers: Sequence[Layer]) -> dict[str, int]:
        """Return the number of values of each layer that is clustered.

        Args:
            layers: Layers of the model, as `split_parts` returns them.

        Returns:
            Numbers of values by layer name.

        Raises:
            BadInput: If a pattern matches no layer, or none can be clustered.
        """
        check_patterns([*self.layers, *self.exclude], layers)
        clusterable = [layer for layer in layers if not self._skip_reason(layer)]
        names = [layer.name for layer in clusterable]
        layer_sizes = resolve_patterns(names, self.layers, "clustered", "numbers of values")
        sizes = {name: layer_sizes.get(name, self.k) for name in names}
        sizes = {
            layer.name: sizes[layer.name] for layer in clusterable if np.prod(layer.kernel or ()) > sizes[layer.name]
        }
        if not sizes:
            raise BadInput(
                f"the model has no layer that can be clustered into k={self.k} values, which must be fewer than its "
                "weights. Lower k, exclude less, or leave the stage out."
            )
        return sizes

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Cluster the kernels, then train the shared values; see `Stage.apply`."""
        from lightexp.backend import flatbuffer, keras_files
        from lightexp.backend.kernels import map_kernels
        from lightexp.backend.pruning import clear_negative_zeros
        from lightexp.backend.tied_weights import TiedWeights

        assert parent is not None  # `accepts` requires one
        model = keras_files.load_model(parent.folder, context.seed)
        limits = self.select_sizes(split_parts(keras_files.describe_layers(model)))
        kernels = map_kernels(model)
        unchanged = self._cluster_kernels({name: kernels[name] for name in limits}, limits, context.seed)
        tied = [kernel for kernel in kernels.values() if "depthwise" not in kernel.name]
        history = self.fit(model, context, TiedWeights(tied, zeros=True, values=True))
        clear_negative_zeros(model)
        keras_files.save_model(model, context.out)
        arrays = {name: kernels[name].numpy() for name in limits}
        sizes = {name: int(array.size) for name, array in arrays.items()}
        graph = flatbuffer.read_graph(context.out / TFLITE)
        file_counts = assign_to_layers(sizes, measure_kernels(graph, partial(_count_values, per_channel=False)))[0]
        facts: dict[str, Any] = {
            "history": history,
            "sizes": sizes,
            "values": {name: count_distinct_values(array, per_channel=False) for name, array in arrays.items()},
            "unscaled": {name: count for name, count in file_counts.items() if count <= limits[name]},
        }
        if unchanged:
            reasons = ", ".join(f"{name} ({reason})" for name, reason in unchanged.items())
            facts["note"] = f"left as they are: {reasons}"
        return facts

    def _cluster_kernels(self, kernels: Mapping[str, Any], limits: Mapping[str, int], seed: int) -> dict[str, str]:
        """Cluster kernels in place, and return why others are left as they are, by layer name."""
        unchanged: dict[str, str] = {}
        for number, (name, k) in enumerate(limits.items()):
            kernel = kernels[name]
            array = kernel.numpy()
            count = count_distinct_values(array, per_channel=False)
            if count <= k:
                unchanged[name] = f"{count} values already, no more than {k}"
            else:
                kernel.assign(cluster_weights(array, k, self.init, np.random.default_rng([seed, number])))
        if len(unchanged) == len(limits):
            raise BadInput(f"k={self.k}: no kernel has more values than it may have: {unchanged}. Lower k.")
        return unchanged

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Check the number of values in each kernel of the file; see `Stage.verify`.

        Values are counted in each output channel, and in the entire kernel if its channels have no scales.
        """
        for counts, per_channel in ((facts["values"], True), (facts["unscaled"], False)):
            kernels = measure_kernels(shipped, partial(_count_values, per_channel=per_channel))
            # `find_shortfall` looks for values that are too low, so counts are negated.
            negated = [(names, size, -count) for names, size, count in kernels]
            lost = find_shortfall({name: -count for name, count in counts.items()}, facts["sizes"], negated)
            if lost:
                where = "in a channel" if per_channel else "in all"
                return f"a kernel of {lost[0]} weights has {-lost[2]:.0f} values {where}, was to have {-lost[1]:.0f}"
        return None

    def _skip_reason(self, layer: Layer) -> str:
        return skip_reason(layer, self.exclude, "clustered")


def _count_values(kernel: Tensor, per_channel: bool) -> int:
    """Count the values of a kernel, or of its largest channel; 0 if scales make the count meaningless."""
    if not per_channel and len(kernel.scales) > 1:
        return 0
    return count_distinct_values(read_kernel(kernel), per_channel)
