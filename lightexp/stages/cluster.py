"""Weight clustering."""

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
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns, skip_reason
from lightexp.stages.train import TrainingStage

K = Annotated[int, Field(ge=2)]


@settings_dataclass
class Cluster(TrainingStage):
    """Gives the weights of a kernel few values to share, then trains these (Han et al. 2015, arXiv 1510.00149).

    Kernels of dense and convolutional layers are clustered, biases and depthwise kernels are not. Zeros stay, as one of
    the values, also in layers that are left alone. Where a runtime folds batch normalisation or scales of channels into
    a kernel, the values are few in each output channel.

    Attributes:
        k: Values that a kernel may have. Defaults to 16.
        init: Where k-means starts: `kmeans++`, `linear`, `density` or `random`. Defaults to `kmeans++`.
        layers: k of single layers, by pattern of their names.
        exclude: Patterns of the names of layers that are left alone.
    """

    search = {**TrainingStage.search, "k": Range("choice(64, 32, 16, 8)", strongest=8)}
    version = 2
    k: K = 16
    init: Init = "kmeans++"
    layers: dict[str, K] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)

    def establishes(self) -> tuple[Invariant, ...]:
        """The most values that a layer may have."""
        return (Invariant(InvariantKind.CODEBOOK, max([self.k, *self.layers.values()])),)

    def preserves(self, invariant: Invariant) -> bool:
        """All zeros; and an earlier codebook, if every layer gets no more values."""
        if invariant.kind == InvariantKind.CODEBOOK:
            return not self.exclude and invariant.value >= max([self.k, *self.layers.values()])
        return invariant.family is InvariantFamily.ZEROS

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Each layer's number of values, or why it is left alone; see `Stage.touches`."""
        values = self.values(layers)
        words = []
        for layer in layers:
            reason = self._reason(layer) or "it has no more weights than values"
            does = f"{layer.kernel}: {values[layer.name]} values" if layer.name in values else f": left alone, {reason}"
            words.append((layer.name, f"{layer.kind} {does}".replace(" :", ":")))
        return words

    def values(self, layers: Sequence[Layer]) -> dict[str, int]:
        """How many values each layer may have that is clustered.

        Raises:
            BadInput: If a pattern matches no layer, or none can be clustered.
        """
        check_patterns([*self.layers, *self.exclude], layers)
        able = [layer for layer in layers if not self._reason(layer)]
        alone = resolve_patterns([layer.name for layer in able], self.layers, "clustered", "numbers of values")
        found = {layer.name: alone.get(layer.name, self.k) for layer in able}
        smaller = {layer.name: found[layer.name] for layer in able if np.prod(layer.kernel or ()) > found[layer.name]}
        if not smaller:
            raise BadInput(
                f"the model has no layer that can be clustered into k={self.k} values, which must be fewer than its "
                "weights. Lower k, exclude less, or leave the stage out."
            )
        return smaller

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Clusters, then trains the shared values; see `Stage.apply`."""
        from lightexp.backend import flatbuffer, keras_files
        from lightexp.backend.pruning import clear_negative_zeros
        from lightexp.backend.tied_weights import TiedWeights

        assert parent is not None  # `accepts` says so
        model = keras_files.load_model(parent.folder, context.seed)
        kept: dict[str, str] = {}
        wanted = self.values(keras_files.describe_layers(model))
        for number, (name, k) in enumerate(wanted.items()):
            kernel = model.get_layer(name).kernel
            array = kernel.numpy()
            if (there := count_distinct_values(array, per_channel=False)) <= k:
                kept[name] = f"{there} values already, no more than {k}"
            else:
                kernel.assign(cluster_weights(array, k, self.init, np.random.default_rng([context.seed, number])))
        if len(kept) == len(wanted):
            raise BadInput(f"k={self.k}: no kernel has more values than it may have: {kept}. Lower k.")
        ties = TiedWeights(
            [layer.kernel for layer in model.layers if hasattr(layer, "kernel")], zeros=True, values=True
        )
        history = self.fit(model, context, ties)
        clear_negative_zeros(model)
        keras_files.save_model(model, context.out)
        arrays = {name: model.get_layer(name).kernel.numpy() for name in wanted}
        sizes = {name: int(array.size) for name, array in arrays.items()}
        file = measure_kernels(flatbuffer.read_graph(context.out / TFLITE), partial(_values, channel=False))
        return {
            "history": history,
            **({"note": f"left as they are: {', '.join(f'{n} ({why})' for n, why in kept.items())}"} if kept else {}),
            "sizes": sizes,
            "values": {name: count_distinct_values(array, per_channel=False) for name, array in arrays.items()},
            "unscaled": {
                name: count for name, count in assign_to_layers(sizes, file)[0].items() if count <= wanted[name]
            },
        }

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Checks the number of values in each kernel of the file; see `Stage.verify`.

        Counted in each output channel; and in the whole kernel, where nothing scales the channels.
        """
        for given, channel in ((facts["values"], True), (facts["unscaled"], False)):
            found = measure_kernels(shipped, partial(_values, channel=channel))
            fewer = [(names, size, -count) for names, size, count in found]
            if lost := find_shortfall({name: -count for name, count in given.items()}, facts["sizes"], fewer):
                where = "in a channel" if channel else "in all"
                return f"a kernel of {lost[0]} weights has {-lost[2]:.0f} values {where}, was to have {-lost[1]:.0f}"
        return None

    def _reason(self, layer: Layer) -> str:
        return skip_reason(layer, self.exclude, "clustered")


def _values(kernel: Tensor, channel: bool) -> int:
    """The number of values of a kernel, or of its fullest channel; 0 where no such thing is said."""
    return 0 if not channel and len(kernel.scales) > 1 else count_distinct_values(read_kernel(kernel), channel)
