"""Sensitivity analysis: measure the cost of compressing each layer alone, for other stages to allocate by."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.data import Split, split_stratified
from lightexp.core.errors import BadInput
from lightexp.core.primary_metric import PRIMARY
from lightexp.core.protocols import Artifact, Context, Form, Invariant, Layer, Stage
from lightexp.core.sensitivity import (
    SENSITIVITY_FACT,
    Kind,
    SensitivityTable,
    format_level,
    prune_kernel,
    round_kernel,
    truncate_rank,
)
from lightexp.core.store_entry import OWN_FILES
from lightexp.core.task import make_default_task
from lightexp.core.tflite_graph import Operator, Tensor, TFLiteGraph, extract_layer_names

_Fraction = Annotated[float, Field(gt=0, lt=1)]
_CHANNELS_LAST = ("DEPTHWISE_CONV_2D", "CONV_3D", "BATCH_MATMUL")  # other kernels have their outputs first


@dataclass(frozen=True)
class KernelTrial:
    """A change of one kernel, whose effect is measured.

    Attributes:
        layer: Name of the layer.
        kernel: The kernel in the source file.
        kind: Kind of the change.
        level: Strength of the change, in the unit of its kind.
        change: Function that returns the changed kernel.
    """

    layer: str
    kernel: Tensor
    kind: Kind
    level: float
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]]


@settings_dataclass
class Sensitivity(Stage):
    """Measure the loss of the validation metric when each layer alone is compressed.

    The model is not changed. Han et al. 2015 (arXiv 1506.02626) choose the sparsity of each layer by such curves.
    Nothing is trained: the kernel is changed in the float32 flatbuffer, into which batch normalisation is folded, and
    LiteRT runs the file. Sparsity sets the smallest weights to zero. Rank is a truncated SVD, of convolutions along
    inputs and outputs. Bits round the weights as `quantize` does per channel, and compute in float: the cost of
    quantised activations is not included. Depthwise kernels are measured with bits only.

    Attributes:
        sparsities: Fractions of zeros. Defaults to 0.5, 0.7, 0.8, 0.9, 0.95 and 0.99.
        ranks: Fractions of the highest rank. Defaults to 0.75, 0.5, 0.25 and 0.125.
        bits: Bits of the weights. Defaults to 8, 4 and 2.
        examples: Number of validation examples, stratified by class. Defaults to None: all.
    """

    accepts = ("keras", "tflite")
    needs_tensorflow = False
    sparsities: Annotated[list[_Fraction], Field(min_length=1)] = field(
        default_factory=lambda: [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    )
    ranks: Annotated[list[_Fraction], Field(min_length=1)] = field(default_factory=lambda: [0.75, 0.5, 0.25, 0.125])
    bits: Annotated[list[Literal[2, 4, 8]], Field(min_length=1)] = field(default_factory=lambda: [8, 4, 2])
    examples: Count | None = None

    def output_form(self, form: Form) -> Form:
        """Return the form of the input; see `Stage.output_form`."""
        return form

    def preserves(self, invariant: Invariant) -> bool:
        """Return True: the model is not changed."""
        return True

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Return the number of trials of each layer; see `Stage.describe_layers`."""
        descriptions = []
        for layer in layers:
            if not layer.kernel or layer.kind == "Embedding":
                continue
            trials = f"{len(self.sparsities) + len(self.ranks) + len(self.bits)} trials (sparsity, rank, bits)"
            if layer.kind.startswith("Depthwise"):
                trials = f"{len(self.bits)} trials (bits)"
            descriptions.append((layer.name, f"{layer.kind}: {trials}, left as it is"))
        return descriptions

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Measure each layer at each level; see `Stage.apply`."""
        from lightexp.backend import flatbuffer, litert

        assert parent is not None  # `accepts` requires one
        source, content = flatbuffer.read_graph(parent.tflite), parent.tflite.read_bytes()
        examples = self._select_examples(context.data.val)
        targets = context.data.compute_targets(examples)

        def measure_quality(file: Path) -> float:
            outputs = litert.compute_logits(file, examples.x, context.data, context.threads, foreign=parent.foreign)
            return context.data.task.compute_primary(outputs, targets, context.data)

        layers, trials = self._make_trials(source)
        baseline = measure_quality(parent.tflite)
        with TemporaryDirectory() as folder:
            for number, trial in enumerate(trials):
                context.progress.step(number, len(trials))
                context.progress.say(f"{trial.layer}: {format_level(trial.kind, trial.level)}")
                file = Path(folder, f"{number}.tflite")
                index = next(i for i, tensor in enumerate(source.tensors) if tensor is trial.kernel)
                changed = trial.change(np.asarray(trial.kernel.data, np.float32))
                file.write_bytes(flatbuffer.replace_constant(content, index, changed))
                levels = layers[trial.layer]["levels"].setdefault(trial.kind, {})
                levels[str(trial.level)] = measure_quality(file)
                file.unlink()
        for path in parent.folder.iterdir():
            if path.name not in OWN_FILES:
                shutil.copyfile(path, context.out / path.name)
        task = context.data.task
        chance = task.compute_chance(targets, context.data)
        table = {"accuracy": baseline, "chance": chance, "examples": len(examples), "layers": layers}
        if task != make_default_task():
            table[PRIMARY] = asdict(task.describe_primary(context.data))
        return {SENSITIVITY_FACT: table}

    def _select_examples(self, split: Split) -> Split:
        """Return the validation examples to measure on."""
        if not len(split):
            raise BadInput("there is no example to measure on: the validation split is empty. Use more data.")
        if not self.examples or self.examples >= len(split):
            return split
        _, indices = split_stratified(split.y, self.examples, seed=0)
        return Split(split.x[indices], split.y[indices])

    def _make_trials(self, source: TFLiteGraph) -> tuple[dict[str, dict[str, Any]], list[KernelTrial]]:
        """Return the facts of each layer, without values, and the trials of all layers."""
        layers: dict[str, dict[str, Any]] = {}
        trials: list[KernelTrial] = []
        for op, kernel in {id(kernel): (op, kernel) for op, kernel in source.kernels}.values():
            names = extract_layer_names(source.title(op, kernel))
            name = names[0] if names[-1] in layers else names[-1]
            layers[name] = {"names": names, "weights": int(np.prod(kernel.shape)), "levels": {}}
            trials += self.make_layer_trials(name, op, kernel)
        if not trials:
            raise BadInput("the model has no layer with a kernel. Leave the stage out.")
        return layers, trials

    def make_layer_trials(self, name: str, op: Operator, kernel: Tensor) -> list[KernelTrial]:
        """Return the trials of a layer.

        Args:
            name: Name of the layer.
            op: The operator that uses the kernel; depthwise kernels have trials with bits only.
            kernel: The kernel.
        """
        trials = []
        if op.kind != "DEPTHWISE_CONV_2D":
            for share in self.sparsities:
                trials.append(KernelTrial(name, kernel, "sparsity", share, partial(prune_kernel, share=share)))
            for share in self.ranks:
                trials.append(KernelTrial(name, kernel, "rank", share, partial(truncate_rank, share=share)))
        channel = -1 if op.kind in _CHANNELS_LAST else 0
        for bits in self.bits:
            trials.append(KernelTrial(name, kernel, "bits", bits, partial(round_kernel, bits=bits, channel=channel)))
        return trials


def sensitivity_table(context: Context) -> SensitivityTable | None:
    """Return the sensitivity table that a stage takes settings from; None if it has not asked for one."""
    if SENSITIVITY_FACT not in context.inputs:
        return None
    return SensitivityTable.read(context.inputs[SENSITIVITY_FACT].facts)
