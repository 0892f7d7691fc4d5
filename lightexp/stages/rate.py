"""Rate-aware training: train the weights on learned grids, with their estimated bits in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightexp.core.config import Bytes, Count, Fraction, NonNegative, Positive, settings_dataclass
from lightexp.core.data import Data
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.grids import digest_integers
from lightexp.core.patterns import find_shortfall, measure_kernels, read_kernel
from lightexp.core.protocols import TFLITE, Artifact, Context, Input, Invariant, InvariantKind, Layer, Range
from lightexp.core.sensitivity import SensitivityTable
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.core.training import count_steps_per_epoch
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns
from lightexp.stages.train import TrainingStage

if TYPE_CHECKING:
    from lightexp.backend.rate_control import RateControl

_MAX_SIZE_ERROR = 0.03
_SPARSEST = 500  # one weight of so many is left in the smallest file
_VERIFIED_KINDS = ("Dense", "Conv1D", "Conv2D")  # a file stores their kernels with the axes of Keras, outputs first


@settings_dataclass
class Rate(TrainingStage):
    """Train weights on learned grids, with their estimated bits in the loss, so that they encode to few bytes.

    Each kernel and bias is rounded to multiples of a learned step while it is trained (Esser et al. 2020, arXiv
    1902.08153). The loss is that of the objective plus `rate` times the mean bits of a weight (entropy-constrained
    training: Wiedemann et al. 2019, arXiv 1812.07520; Oktay et al. 2020, arXiv 1906.06624). A weight of v steps is
    taken to cost log2(1 + 2 v^2) bits. Weights and biases of normalisation layers are trained as usual.

    Attributes:
        rate: Loss that a bit a weight costs, on average over all weights; 0 with `bits` is quantisation-aware training.
            Defaults to 1.
        ratio: Instead of a fixed `rate`: how many times smaller than the control's file the encoded file is to be. The
            price then begins at `rate` and is adjusted while the model trains; the last per cent are reached by
            rounding more or fewer weights to zero. Defaults to None.
        bytes: Instead of `ratio`: size of the encoded file in bytes, or as `12KiB`. Defaults to None.
        budget: Instead of a size: `primary` raises the price as long as the task's primary metric on validation is at
            most `tolerance` worse than the control's, so that the file gets as small as that allows; `accuracy` is the
            same for a task whose primary metric is accuracy. Defaults to None.
        tolerance: See `budget`, in percentage points or, of a metric that is no share, in its unit. Defaults to 0.
        bits: Limit on the levels: 8, 4 or 2 bits allow kernels 127, 7 or 1 steps up and down, so that `quantize` can
            store the integers as they are. Defaults to None: no limit.
        layer_bits: Bits of single layers, by pattern of their names.
        granularity: Whether a kernel has one step (`tensor`), or each of its output channels has one (`channel`).
            Defaults to `tensor`.
        ramp: Share of the training over which the price of a bit rises to `rate`. Defaults to 0.4.
        layers: Factor on the price of a bit in single layers, by pattern of their names.
        exclude: Patterns of the names of layers that are trained as usual.
        from_scratch: Whether to start from new initial weights instead of trained ones. Defaults to True.
        allow_dead_layers: Whether layers may lose all their weights; otherwise the stage fails. Defaults to False.
    """

    search = {
        **TrainingStage.search,
        "rate": Range("tag(log, interval(0.05, 5))", strongest=5),
        "bits": Range("choice(8, 4)", strongest=4),
        "layer_bits": Range("choice(8, 4)", strongest=4),
        "granularity": Range("choice(tensor, channel)"),
        "layers": Range("tag(log, interval(0.25, 4))", strongest=4),
    }
    version = 2
    epochs: Count = 60
    batch_size: Count = 128
    learning_rate_schedule: Literal["constant", "cosine", "step"] = "cosine"
    rate: NonNegative = 1.0
    ratio: Positive | None = None
    bytes: Bytes | None = None
    budget: Literal["accuracy", "primary"] | None = None
    tolerance: NonNegative = 0.0
    bits: Literal[2, 4, 8] | None = None
    layer_bits: dict[str, Literal[2, 4, 8]] = field(default_factory=dict)
    granularity: Literal["tensor", "channel"] = "tensor"
    ramp: Fraction = 0.4
    layers: dict[str, NonNegative] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    from_scratch: bool = True
    allow_dead_layers: bool = False

    def __post_init__(self) -> None:
        if not self.rate and not self.bits:
            raise ValueError("rate=0 without bits limits nothing. Received: rate=0, bits=null. Set rate, bits or both.")
        targets = [self.ratio, self.bytes, self.budget]
        if len(targets) - targets.count(None) > 1:
            raise ValueError(
                f"ratio, bytes and budget exclude each other. Received: ratio={self.ratio}, bytes={self.bytes}, "
                f"budget={self.budget}. Set one."
            )
        if self.has_target and (not self.rate or self.early_stopping):
            raise ValueError(
                "a target needs a rate to begin with, and a training without early_stopping. "
                f"Received: rate={self.rate:g}, early_stopping={self.early_stopping}."
            )

    @property
    def has_target(self) -> bool:
        """Whether the price of a bit is adjusted to reach something."""
        return bool(self.ratio or self.bytes or self.budget)

    @property
    def needs_parent(self) -> bool:
        """Whether trained weights are trained further."""
        return not self.from_scratch

    def inputs(self) -> dict[str, Input]:
        """Return the objective's teachers and, for a target relative to it, the control; see `Stage.inputs`."""
        return {**super().inputs(), **({"control": "control"} if self.ratio or self.budget else {})}

    def establishes(self) -> tuple[Invariant, ...]:
        """Return the invariants of the zeros, which no pruning may move, and of the grid, with its bits if limited."""
        bits = max(self.bits, *self.layer_bits.values(), 0) if self.bits else 0
        return Invariant(InvariantKind.SPARSITY, 1.0), Invariant(InvariantKind.GRID, bits)

    def check_data(self, data: Data) -> None:
        """Check that a budget of accuracy is one of the task; see `Stage.check_data`."""
        if self.budget == "accuracy" and data.task.primary != "accuracy":
            raise BadInput(
                f"budget=accuracy, but choices are based on {data.task.primary}. Set budget=primary, with a tolerance "
                "in its unit."
            )

    def schedule_epochs(self, examples: int) -> int:
        """Return the number of epochs over which the price rises; see `TrainingStage.schedule_epochs`."""
        return int(np.ceil(self.ramp * self.epochs))

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Return each layer's grid and price, or why it has none; see `Stage.describe_layers`."""
        prices, limits = self.compute_prices(layers), self.compute_limits(layers)
        descriptions = []
        for layer in layers:
            if layer.name not in prices:
                reason = "it is a normalisation" if _is_normalization(layer) else "excluded"
                descriptions.append((layer.name, f"{layer.kind}: trained as usual, {reason}"))
                continue
            limit = f"at most {limits[layer.name]} steps" if limits[layer.name] else "any number of steps"
            grid = "a learned step per channel" if self.granularity == "channel" else "a learned step"
            price = "" if prices[layer.name] == 1 else f", {prices[layer.name]:g} times the price"
            descriptions.append((layer.name, f"{layer.kind}: {grid}, {limit}{price}"))
        return descriptions

    def describe_model(
        self, model: Any, layers: Sequence[Layer], table: SensitivityTable | None = None
    ) -> list[tuple[str, str]]:
        """Check the requested size before the control is trained, and describe the layers; see `Stage.describe_model`.

        The size that a `ratio` asks for is known only once the control is.

        Raises:
            BadInput: If the encoded file cannot have `bytes`, or as `compute_prices`.
        """
        descriptions = self.describe_layers(layers, table)
        if self.bytes:
            with TemporaryDirectory() as folder:
                self._require_reachable(self.bytes, model, Path(folder) / TFLITE)
        return descriptions

    def compute_prices(self, layers: Sequence[Layer]) -> dict[str, float]:
        """Return the factor on the price of a bit for each layer on a grid.

        Args:
            layers: Layers of the model.

        Raises:
            BadInput: If a pattern matches no layer, or no layer is left.
        """
        check_patterns([*self.layers, *self.exclude], layers)
        excluded = resolve_patterns([layer.name for layer in layers], dict.fromkeys(self.exclude, True), "", "")
        names = [layer.name for layer in layers if layer.name not in excluded and not _is_normalization(layer)]
        if not names:
            raise BadInput("the model has no layer to put on a grid. Leave the stage out, or exclude less.")
        return dict.fromkeys(names, 1.0) | resolve_patterns(names, self.layers, "on a grid", "factors")

    def compute_limits(self, layers: Sequence[Layer]) -> dict[str, int | None]:
        """Return the largest number of steps, up or down, of the kernel of each layer on a grid; None has no limit.

        Args:
            layers: Layers of the model.

        Raises:
            BadInput: If a pattern of `layer_bits` matches no layer on a grid.
        """
        names = list(self.compute_prices(layers))
        bits = dict.fromkeys(names, self.bits) | resolve_patterns(names, self.layer_bits, "on a grid", "bits")
        return {name: None if limited is None else 2 ** (limited - 1) - 1 for name, limited in bits.items()}

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Train on grids; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.grid_weights import GridWeights, list_grid_tensors
        from lightexp.backend.pruning import clear_negative_zeros

        model = keras_files.load_model(parent.folder, context.seed) if parent else self.build_untrained(context)
        descriptions = keras_files.describe_layers(model)
        prices, limits = self.compute_prices(descriptions), self.compute_limits(descriptions)
        steps = self.epochs * count_steps_per_epoch(len(context.data.train), self.batch_size)
        if not self.rate:
            prices = dict.fromkeys(prices, 0.0)
        tensors = list_grid_tensors(model, prices, limits, self.granularity == "channel")
        control = self._make_control(model, context)
        weights = GridWeights(tensors, self.rate, int(self.ramp * steps), control)
        facts: dict[str, Any] = {"history": self.fit(model, context, weights)}
        if control:
            facts |= {"reached": control.finish(weights), "final_rate": float(weights.rate.numpy())}
            facts |= self._compare(facts["reached"], control)
        clear_negative_zeros(model)
        keras_files.save_model(model, context.out)
        layers = [model.get_layer(name) for name in prices if type(model.get_layer(name)).__name__ in _VERIFIED_KINDS]
        kernels = {layer.name: layer.kernel.numpy() for layer in layers}
        self.check_alive(kernels)
        return facts | {
            "sizes": {name: int(kernel.size) for name, kernel in kernels.items()},
            "zeros": {name: int(np.sum(kernel == 0)) for name, kernel in kernels.items()},
            "integers": {name: digest_integers(kernel) for name, kernel in kernels.items()},
            "steps": weights.describe_steps(),
        }

    def _compare(self, reached: float, control: RateControl) -> dict[str, str]:
        """Return a note if the target of a control was missed."""
        from lightexp.backend.rate_control import QualityControl, SizeControl

        if isinstance(control, QualityControl) and control.is_missed(reached):
            primary = control.primary
            texts = f"{primary.name} {primary.format(reached)}", f"{primary.format(control.limit)}"
            return {"note": f"validation {texts[0]}, worse than {texts[1]}; begin at a lower rate"}
        if isinstance(control, SizeControl) and abs(reached / control.target - 1) > _MAX_SIZE_ERROR:
            return {"note": f"the encoded file has {reached:,} bytes, not {control.target:,}; more epochs come closer"}
        return {}

    def _make_control(self, model: Any, context: Context) -> RateControl | None:
        """Return what adjusts the price of a bit to reach the target, or None if there is none."""
        from lightexp.backend.litert import compute_logits
        from lightexp.backend.rate_control import QualityControl, make_evaluator

        if not self.has_target:
            return None
        if not self.budget:
            return self._make_size_control(model, context)
        control, val = context.inputs["control"], context.data.val
        logits = compute_logits(control.tflite, val.x, context.data, context.threads, foreign=control.foreign)
        task, targets = context.data.task, context.data.compute_targets(val)
        primary = task.describe_primary(context.data)
        limit = primary.worsen(task.compute_primary(logits, targets, context.data), self.tolerance)
        begin = self.schedule_epochs(len(context.data.train))
        return QualityControl(primary, limit, make_evaluator(model, context.data), begin, self.epochs)

    def _make_size_control(self, model: Any, context: Context) -> RateControl:
        """Return the control that leads to the requested size of the encoded file."""
        from lightexp.backend.rate_control import SizeControl

        target = self.bytes or 0
        if self.ratio:
            target = round(context.inputs["control"].tflite.stat().st_size / self.ratio)
        path = context.out / TFLITE  # written again when the model is saved
        self._require_reachable(target, model, path)
        begin = self.schedule_epochs(len(context.data.train))
        return SizeControl(target, lambda: _measure_encoded_bytes(model, path), begin, self.epochs)

    def _require_reachable(self, target: int, model: Any, path: Path) -> None:
        """Check that the encoded file would be smaller than the target if nearly all weights were zero.

        Args:
            target: Bytes that the encoded file is to have.
            model: The model; its weights stay.
            path: Where a `.tflite` may be written.

        Raises:
            BadInput: If it would not.
        """
        weights = model.get_weights()
        model.set_weights([np.where(np.arange(w.size).reshape(w.shape) % _SPARSEST, 0, 1) for w in weights])
        smallest = _measure_encoded_bytes(model, path)
        model.set_weights(weights)
        if target <= smallest:
            raise BadInput(
                f"the encoded file cannot have {target:,} bytes: without weights it has {smallest:,}. "
                f"Received: ratio={self.ratio}, bytes={self.bytes}. Set a larger size."
            )

    def check_alive(self, kernels: Mapping[str, Any]) -> None:
        """Check that no layer has lost all of its weights.

        Args:
            kernels: Trained kernels by layer name.

        Raises:
            RunFailed: If one has, and `allow_dead_layers` is False; names it.
        """
        dead = [name for name, kernel in kernels.items() if not kernel.any()]
        if dead and not self.allow_dead_layers:
            raise RunFailed(
                f"every weight of '{dead[0]}' became zero. Received: rate={self.rate:g}. Lower rate, or the layer's "
                f"price (layers: {{{dead[0]}: 0.1}}), or set allow_dead_layers=true."
            )

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Check that the file's kernels have the zeros, or the integers, of training; see `Stage.verify`."""
        if kind == InvariantKind.GRID:
            digests = {digest_integers(read_kernel(kernel)) for _, kernel in shipped.kernels}
            lost = [name for name, digest in facts["integers"].items() if digest not in digests]
            return f"the kernel of '{lost[0]}' has not the integers of training" if lost else None
        zeros = measure_kernels(shipped, lambda kernel: kernel.zeros)
        missing = find_shortfall(facts["zeros"], facts["sizes"], zeros)
        if missing is None:
            return None
        return f"a kernel of {missing[0]} weights has {max(missing[2], 0):.0f} zeros, was to have {missing[1]:.0f}"


def _measure_encoded_bytes(model: Any, path: Path) -> int:
    """Return the size of a model's encoded file; its `.tflite` is left at `path`, and its -0.0 become 0."""
    from lightexp.backend import converter
    from lightexp.backend.flatbuffer import read_constant_spans
    from lightexp.backend.pruning import clear_negative_zeros
    from lightexp.export import lxe

    clear_negative_zeros(model)
    content = converter.convert_to_float32(model)
    path.write_bytes(content)
    return len(lxe.encode(content, read_constant_spans(path)))


def _is_normalization(layer: Layer) -> bool:
    return layer.kind.endswith("Normalization")
