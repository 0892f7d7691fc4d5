"""Quantisation-aware training to an int8 `.tflite`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lightexp.core.config import settings_dataclass
from lightexp.core.patterns import assign_to_layers, find_shortfall
from lightexp.core.protocols import TFLITE, Artifact, Context, Invariant, InvariantFamily, InvariantKind, Layer
from lightexp.core.sensitivity import SensitivityTable
from lightexp.core.tflite_graph import TFLiteGraph, extract_layer_names
from lightexp.stages.io_types import IoType, check_io_types
from lightexp.stages.train import TrainingStage

ACTIVATIONS = ("", "linear", "relu", "sigmoid", "softmax", "tanh")
"""Activations that tfmot can simulate inside a layer."""
_ZEROS, _SHARED_VALUES = InvariantFamily.ZEROS, InvariantFamily.SHARED_VALUES
_PRESERVED_FAMILIES: dict[str, set[InvariantFamily]] = {
    "plain": set(),
    "prune": {_ZEROS},
    "cluster": {_SHARED_VALUES},
    "prune_cluster": {_ZEROS, _SHARED_VALUES},
}
_CALIBRATION_SAMPLES = 200
_MAX_GAP = 0.005  # of a share, or of another metric's value of guessing


@settings_dataclass
class Qat(TrainingStage):
    """Train the model with simulated 8-bit arithmetic, then convert it to an int8 `.tflite`.

    The arithmetic (Jacob et al. 2018, arXiv 1712.05877) is simulated by tfmot in the layers that it supports; the
    others are trained in float32, listed by `--plan` with their type in the file, and named in the record. Batch
    normalisation is folded into a preceding convolution, and before the training into a preceding dense layer, unless
    that has shared values, which would no longer be equal.

    The zeros and shared values of earlier stages are not preserved by tfmot's schemes, which lose them when a model is
    rebuilt or skip layers, but by ties: after each step, zeros are set to zero again, and weights that were equal are
    set to their mean. Therefore any pattern of zeros and any codebook is preserved.

    Attributes:
        scheme: What to preserve: `prune` (zeros, in any pattern), `cluster` (equal weights), `prune_cluster` (both),
            `plain` (nothing), or `auto` (all that earlier stages have established). Defaults to `auto`.
        io: Type of the file's inputs and outputs: `float`, `int8` (also called `integer`) or `uint8`.
            Defaults to `float`.
    """

    produces = "quantized"
    version = 4
    scheme: Literal["auto", "plain", "prune", "cluster", "prune_cluster"] = "auto"
    io: IoType = "float"

    def __post_init__(self) -> None:
        if self.io == "int8":  # one name in the store's key
            object.__setattr__(self, "io", "integer")

    @property
    def computes_in_integers(self) -> bool:
        """See `Stage.computes_in_integers`."""
        return True

    def resolve(self, standing: tuple[Invariant, ...]) -> Qat:
        """Return the stage with `auto` replaced by the scheme that preserves `standing`; see `Stage.resolve`."""
        if self.scheme != "auto":
            return self
        families = {invariant.family for invariant in standing} & {_ZEROS, _SHARED_VALUES}
        scheme = next(scheme for scheme, preserved in _PRESERVED_FAMILIES.items() if preserved >= families)
        return replace(self, scheme=scheme)  # type: ignore[arg-type]

    def establishes(self) -> tuple[Invariant, ...]:
        """Return the invariant of the weights' data types."""
        return (Invariant(InvariantKind.DATA_TYPE),)

    def preserves(self, invariant: Invariant) -> bool:
        """Return whether the scheme preserves an invariant."""
        scheme = "prune_cluster" if self.scheme == "auto" else self.scheme
        return invariant.family in _PRESERVED_FAMILIES[scheme]

    def describe_model(
        self, model: Any, layers: Sequence[Layer], table: SensitivityTable | None = None
    ) -> list[tuple[str, str]]:
        """Return each layer's data type in the file; see `Stage.describe_model`."""
        from lightexp.backend import qat
        from lightexp.backend.flatten import flatten_model

        flat = flatten_model(model)
        reasons, descriptions = qat.find_float_layers(self._fold(flat), ACTIVATIONS), []
        for layer in flat.layers:
            kind, reason = type(layer).__name__, reasons.get(layer.name)
            if reason and not layer.weights:
                effect = f"float32, 8-bit training does not know {reason}"
            elif not layer.weights:
                continue
            elif not reason:
                is_normalization = kind == "BatchNormalization"
                effect = "folded into the layer before it" if is_normalization else "int8 weights and activations"
            elif qat.converts_to_int8(layer, ACTIVATIONS):
                effect = f"int8 in the file, but trained in float32: 8-bit training does not know {reason}"
            else:
                effect = f"float32, 8-bit training does not know {reason}"
            descriptions.append((layer.name, f"{kind}: {effect}"))
        return descriptions

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Train the model and convert it; see `Stage.apply`."""
        from lightexp.backend import converter, keras_files, litert, qat
        from lightexp.backend.flatten import flatten_model
        from lightexp.backend.pruning import clear_negative_zeros
        from lightexp.backend.tied_weights import TiedWeights

        assert parent is not None  # `accepts` requires one
        trained = self._fold(flatten_model(keras_files.load_model(parent.folder, context.seed)))
        model, not_simulated = qat.simulate_int8(trained, ACTIVATIONS)
        qat.find_ranges(model, context.data.inputs(context.data.train.sample(_CALIBRATION_SAMPLES)))
        preserved = _PRESERVED_FAMILIES[self.scheme]
        ties = None
        if preserved:
            kernels = qat.list_kernels(model)
            ties = TiedWeights(kernels, zeros=_ZEROS in preserved, values=_SHARED_VALUES in preserved)
        history = self.fit(model, context, ties)
        clear_negative_zeros(model)
        file = context.out / TFLITE
        file.write_bytes(converter.convert_default(model, io=self.io))
        val = context.data.val
        logits = {
            "simulated": qat.compute_logits(model, val.x, context.data),
            "file": litert.compute_logits(file, val.x, context.data, context.threads),
        }
        task, targets = context.data.task, context.data.compute_targets(val)
        accuracy = {name: task.compute_primary(array, targets, context.data) for name, array in logits.items()}
        gap = abs(accuracy["simulated"] - accuracy["file"])
        facts: dict[str, Any] = {
            "history": history,
            "not_simulated": not_simulated,
            "int8_kernels": qat.count_int8_weights(trained, not_simulated, ACTIVATIONS),
            "val_accuracy": accuracy,
        }
        notes = []
        if not_simulated:
            notes.append("not trained in 8 bits: " + ", ".join(f"{n} ({why})" for n, why in not_simulated.items()))
        primary = task.describe_primary(context.data)
        if gap > _MAX_GAP * (1.0 if primary.is_share else abs(primary.reference or 1.0)):
            change = primary.format_change(gap)
            notes.append(f"the file's validation {primary.name} differs from the simulated one by {change}")
        if notes:
            facts["note"] = "; ".join(notes)
        return facts

    def _fold(self, model: Any) -> Any:
        """Return a flat model with batch normalisations folded into dense layers, unless that splits shared values."""
        from lightexp.backend.dense_folding import fold_normalizations

        return model if _SHARED_VALUES in _PRESERVED_FAMILIES.get(self.scheme, ()) else fold_normalizations(model)

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Check the data types of the file's kernels, inputs and outputs; see `Stage.verify`."""
        if broken := check_io_types(shipped, self.io, "INT8"):
            return broken
        sizes = facts["int8_kernels"]
        kernels = [
            (extract_layer_names(shipped.title(op, tensor)), int(np.prod(tensor.shape)), float(tensor.dtype == "INT8"))
            for op, tensor in shipped.kernels
        ]
        named = assign_to_layers(sizes, kernels)[0]
        if unquantized := next((name for name, is_int8 in named.items() if not is_int8), None):
            return f"the kernel of '{unquantized}' is not INT8, as was planned"
        lost = find_shortfall(dict.fromkeys(sizes, 1.0), sizes, kernels)
        return f"a kernel of {lost[0]} weights is not INT8, as was planned" if lost else None
