"""Which layer bears what: the table from which other stages take settings of single layers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lightexp.core.config import Count, settings_dataclass
from lightexp.core.data import split_stratified
from lightexp.core.errors import BadInput
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
from lightexp.core.store import MANIFEST
from lightexp.core.tflite_graph import Operator, Tensor, extract_layer_names

_Share = Annotated[float, Field(gt=0, lt=1)]
_CHANNELS_LAST = ("DEPTHWISE_CONV_2D", "CONV_3D", "BATCH_MATMUL")  # kernels of the others have their outputs first


@settings_dataclass
class Sensitivity(Stage):
    """Measures what each layer costs in validation accuracy when it alone is compressed; the model stays as it is.

    Han et al. 2015 (arXiv 1506.02626) chose the sparsity of each layer by such curves. Nothing is trained: the kernel
    is changed in the float32 flatbuffer, where batch normalisation is folded into it, and LiteRT runs the file.
    Sparsity takes the smallest weights away. Rank is a truncated SVD, of convolutions along inputs and outputs. Bits
    round the weights to those that `quantize` gives per channel, and compute with them in float: what quantised
    activations cost is not in the table. Depthwise kernels get bits only.

    Attributes:
        sparsities: Shares of zeros. Defaults to 0.5, 0.7, 0.8, 0.9, 0.95 and 0.99.
        ranks: Shares of the highest rank. Defaults to 0.75, 0.5, 0.25 and 0.125.
        bits: Of the weights. Defaults to 8, 4 and 2.
        examples: Of the validation split, each class in its share. Defaults to None: all.
    """

    accepts = ("keras", "tflite")
    needs_tensorflow = False
    sparsities: Annotated[list[_Share], Field(min_length=1)] = field(
        default_factory=lambda: [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    )
    ranks: Annotated[list[_Share], Field(min_length=1)] = field(default_factory=lambda: [0.75, 0.5, 0.25, 0.125])
    bits: Annotated[list[Literal[2, 4, 8]], Field(min_length=1)] = field(default_factory=lambda: [8, 4, 2])
    examples: Count | None = None

    def output_form(self, form: Form) -> Form:
        """The form that it was given."""
        return form

    def preserves(self, invariant: Invariant) -> bool:
        """The model stays as it is."""
        return True

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """How often each layer is tried; see `Stage.touches`."""
        words = {
            True: f"{len(self.bits)} trials (bits)",
            False: f"{len(self.sparsities) + len(self.ranks) + len(self.bits)} trials (sparsity, rank, bits)",
        }
        return [
            (layer.name, f"{layer.kind}: {words[layer.kind.startswith('Depthwise')]}, left as it is")
            for layer in layers
            if layer.kernel
        ]

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Tries every layer at every level; see `Stage.apply`."""
        from lightexp.backend import flatbuffer, litert

        assert parent is not None  # `accepts` says so
        source, content, split = flatbuffer.read_graph(parent.tflite), parent.tflite.read_bytes(), context.data.val
        if not len(split):
            raise BadInput("there is no example to measure on: the validation split is empty. Use more data.")
        x, y = split.x, split.y
        if self.examples and self.examples < len(split):
            _, chosen = split_stratified(split.y, self.examples, seed=0)
            x, y = split.x[chosen], split.y[chosen]

        def accuracy(file: Path) -> float:
            found = litert.compute_logits(file, x, context.data, context.threads, foreign=parent.foreign)
            return float(np.mean(found.argmax(axis=1) == y))

        layers: dict[str, dict[str, Any]] = {}
        trials = []
        for op, kernel in {id(kernel): (op, kernel) for op, kernel in source.kernels}.values():
            _check_finite(kernel)
            names = extract_layer_names(source.title(op, kernel))
            name = names[0] if names[-1] in layers else names[-1]
            layers[name] = {"names": names, "weights": int(np.prod(kernel.shape)), "levels": {}}
            trials += [(name, kernel, *trial) for trial in self._trials(op)]
        if not trials:
            raise BadInput("the model has no layer with a kernel. Leave the stage out.")
        whole = accuracy(parent.tflite)
        with TemporaryDirectory() as drafts:
            for number, (name, kernel, kind, level, changed) in enumerate(trials):
                context.progress.step(number, len(trials))
                context.progress.say(f"{name}: {format_level(kind, level)}")
                file = Path(drafts, f"{number}.tflite")
                index = next(i for i, tensor in enumerate(source.tensors) if tensor is kernel)
                file.write_bytes(
                    flatbuffer.replace_constant(content, index, changed(np.asarray(kernel.data, np.float32)))
                )
                layers[name]["levels"].setdefault(kind, {})[str(level)] = accuracy(file)
                file.unlink()
        for path in parent.folder.iterdir():
            if path.name != MANIFEST:
                shutil.copyfile(path, context.out / path.name)
        chance = float(np.bincount(y).max() / len(y))
        return {SENSITIVITY_FACT: {"accuracy": whole, "chance": chance, "examples": len(y), "layers": layers}}

    def _trials(self, op: Operator) -> list[tuple[Kind, float, Callable[[NDArray[np.float32]], NDArray[np.float32]]]]:
        """What is done to a kernel, by kind and level."""
        found: list[tuple[Kind, float, Callable[[NDArray[np.float32]], NDArray[np.float32]]]] = []
        if op.kind != "DEPTHWISE_CONV_2D":
            found += [("sparsity", share, partial(prune_kernel, share=share)) for share in self.sparsities]
            found += [("rank", share, partial(truncate_rank, share=share)) for share in self.ranks]
        channel = -1 if op.kind in _CHANNELS_LAST else 0
        return found + [("bits", bits, partial(round_kernel, bits=bits, channel=channel)) for bits in self.bits]


def sensitivity_table(context: Context) -> SensitivityTable | None:
    """The table that a stage takes settings from, where it has asked for one."""
    return SensitivityTable.read(context.inputs[SENSITIVITY_FACT].facts) if SENSITIVITY_FACT in context.inputs else None


def _check_finite(kernel: Tensor) -> None:
    if not np.isfinite(np.asarray(kernel.data, np.float32)).all():
        raise BadInput(
            f"'{kernel.name}' holds weights that are not finite. Train the model again, with a smaller learning rate."
        )
