"""Quantisation-aware training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.protocols import TFLITE, Artifact, Context, Invariant, InvariantFamily, InvariantKind, Layer
from lightexp.core.sensitivity import SensitivityTable
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.stages.train import TrainingStage

_KINDS = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "Dense")
ACTIVATIONS = ("", "linear", "relu", "sigmoid", "softmax", "tanh")
"""Those that tfmot can simulate inside a layer."""
_ZEROS, _SHARED_VALUES = InvariantFamily.ZEROS, InvariantFamily.SHARED_VALUES
_PRESERVED_FAMILIES: dict[str, set[InvariantFamily]] = {
    "plain": set(),
    "prune": {_ZEROS},
    "cluster": {_SHARED_VALUES},
    "prune_cluster": {_ZEROS, _SHARED_VALUES},
}
_CALIBRATED_ON = 200
_GAP = 0.005


@settings_dataclass
class Qat(TrainingStage):
    """Trains the model while it computes as in 8 bits, then makes the int8 `.tflite` of it (Jacob et al. 2018).

    Arithmetic as in arXiv 1712.05877, by tfmot, in the layers that it knows; the others are trained in float32, listed,
    and in the file float32 or quantised by the converter. Batch normalisation is folded into a convolution before it.

    What earlier stages made is kept not by tfmot's preserving schemes, which lose it at a rebuild or skip layers, but
    by ties: after each step zeros are zero again, and weights that were equal are again, at the mean of where they
    went. So any pattern of zeros and any codebook survives.

    Attributes:
        scheme: What is kept: `prune` (zeros, in whatever pattern), `cluster` (equal weights), `prune_cluster` (both),
            `plain` (nothing), or `auto` (whatever the stages before have established). Defaults to `auto`.
        io: Whether the file takes and gives `float` or `integer` (int8) numbers. Defaults to `float`.
    """

    produces = "quantized"
    scheme: Literal["auto", "plain", "prune", "cluster", "prune_cluster"] = "auto"
    io: Literal["float", "integer"] = "float"

    def resolve(self, standing: tuple[Invariant, ...]) -> Qat:
        """With the scheme that keeps what stands before, where it is `auto`; see `Stage.after`."""
        if self.scheme != "auto":
            return self
        families = {invariant.family for invariant in standing} & {_ZEROS, _SHARED_VALUES}
        scheme = next(scheme for scheme, preserved in _PRESERVED_FAMILIES.items() if preserved >= families)
        return replace(self, scheme=scheme)  # type: ignore[arg-type]

    def establishes(self) -> tuple[Invariant, ...]:
        """The data types of the weights."""
        return (Invariant(InvariantKind.DATA_TYPE),)

    def preserves(self, invariant: Invariant) -> bool:
        """What the scheme keeps."""
        scheme = "prune_cluster" if self.scheme == "auto" else self.scheme
        return invariant.family in _PRESERVED_FAMILIES[scheme]

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Each layer's data type; see `Stage.touches`."""
        words = []
        for layer in layers:
            if layer.kind == "BatchNormalization":
                does = "folded into a convolution before it; else not trained in 8 bits"
            elif layer.kind not in _KINDS:
                does = "not trained in 8 bits, which tfmot does not know for it"
            elif layer.activation not in ACTIVATIONS:
                does = f"not trained in 8 bits, which tfmot does not know with {layer.activation}"
            else:
                does = "int8 weights and activations"
            words.append((layer.name, f"{layer.kind}: {does}"))
        return words

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Trains and converts; see `Stage.apply`."""
        from lightexp.backend import converter, keras_files, litert, qat
        from lightexp.backend.pruning import clear_negative_zeros
        from lightexp.backend.tied_weights import TiedWeights

        assert parent is not None  # `accepts` says so
        model, left = qat.simulate_int8(keras_files.load_model(parent.folder, context.seed), ACTIVATIONS)
        qat.find_ranges(model, context.data.inputs(context.data.train.sample(_CALIBRATED_ON)))
        preserved = _PRESERVED_FAMILIES[self.scheme]
        ties = None
        if preserved:
            kernels = qat.list_kernels(model)
            ties = TiedWeights(kernels, zeros=_ZEROS in preserved, values=_SHARED_VALUES in preserved)
        history = self.fit(model, context, ties)
        clear_negative_zeros(model)
        file = context.out / TFLITE
        file.write_bytes(converter.convert_default(model, integer_io=self.io == "integer"))
        val = context.data.val
        answers = {
            "simulated": qat.compute_logits(model, context.data.inputs(val.x)),
            "file": litert.compute_logits(file, val.x, context.data, context.threads),
        }
        accuracy = {name: float(np.mean(found.argmax(axis=1) == val.y)) for name, found in answers.items()}
        gap = abs(accuracy["simulated"] - accuracy["file"])
        facts: dict[str, Any] = {"history": history, "not_simulated": left, "val_accuracy": accuracy}
        if gap > _GAP:
            facts["note"] = f"the file's validation accuracy differs from the simulated one by {100 * gap:.1f} points"
        return facts

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Checks the data types of the file's kernels and ends; see `Stage.verify`."""
        ends = {shipped.tensors[index].dtype for index in (*shipped.inputs, *shipped.outputs)}
        wanted = "INT8" if self.io == "integer" else "FLOAT32"
        if ends != {wanted}:
            return f"inputs and outputs are {sorted(ends)}, were to be {wanted}"
        wrong = [(op, tensor) for op, tensor in shipped.kernels if tensor.dtype != "INT8"]
        if len(wrong) <= len(facts["not_simulated"]):
            return None
        op, tensor = wrong[0]
        return f"the {op.kind} kernel '{tensor.name}' is {tensor.dtype}, was to be INT8"
