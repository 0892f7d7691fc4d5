"""Weight pruning: set the least important weights to zero during training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

import numpy as np

from lightexp.core.config import Count, Fraction, Index, Sparsity, settings_dataclass
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.patterns import count_zero_blocks, find_shortfall, is_n_of_m, measure_kernels, read_kernel
from lightexp.core.protocols import Artifact, Context, Input, Invariant, InvariantKind, Layer, Range
from lightexp.core.schedule import Schedule, Span
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable, allocate
from lightexp.core.tflite_graph import TFLiteGraph
from lightexp.core.training import count_steps_per_epoch
from lightexp.stages.erdos_renyi import allocate_erdos_renyi
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns, skip_reason, split_parts
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table
from lightexp.stages.train import TrainingStage

_DEFAULT_SPARSITY = 0.8
_PATTERN_LAYERS = ("Dense", "Conv1D", "Conv2D")  # the last two axes of their kernels are inputs and outputs
_UNMEASURED = ("Embedding", "LSTM", "GRU", "SimpleRNN", "Bidirectional")


@settings_dataclass
class Prune(TrainingStage):
    """Set the least important weights to zero during training, as tfmot's `prune_low_magnitude` does.

    Zhu and Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878). Kernels of dense, convolutional and recurrent
    layers and embeddings are pruned, biases and depthwise kernels are not. Layers with several kernels, such as an
    LSTM, have a name for each: `lstm.kernel`, `lstm.recurrent_kernel`.

    Zeros can follow a pattern that kernels of a runtime exploit. N:M (Mishra et al. 2021, arXiv 2104.08378) keeps `n`
    of every `m` neighbours along the inputs; during the schedule, a growing number of groups keeps one weight less.
    Blocks (Narang et al. 2017, arXiv 1711.02782) are kept or pruned entirely, by their mean magnitude.

    Attributes:
        sparsity: Fraction of zeros (of blocks, if `block` is set) at the end; not used with `n` and `m`. Defaults to
            0.8.
        initial_sparsity: Fraction of zeros at the start of the polynomial schedule. Defaults to 0.
        criterion: `magnitude` keeps the largest weights; `random` is the baseline. Defaults to `magnitude`.
        allocation: How `sparsity` is allocated to the layers: `uniform` (the same for each), `global` (one threshold
            for all), `erk` (Erdős–Rényi-Kernel, arXiv 1911.11134: small layers stay denser) or `sensitivity` (the
            lowest total cost by the table of an earlier stage `sensitivity`, measured without training). Defaults to
            `uniform`.
        layers: Sparsity of single layers, by pattern of their names; not subject to the allocation.
        exclude: Patterns of the names of layers that are not pruned.
        schedule: `polynomial` (cubic, from `initial_sparsity`) or `constant`. Defaults to `polynomial`.
        begin: Start of the schedule, as a fraction of training. Defaults to 0.
        end: End of the schedule, as a fraction of training; the masks are constant afterwards. Defaults to 0.5.
        begin_step: Start in steps, instead of `begin`.
        end_step: End in steps, instead of `end`.
        frequency: Steps between updates of the masks. Defaults to None: 100, or less if the schedule is short, and
            always such that the last update is at the schedule's end.
        from_scratch: Whether to start from new initial weights instead of trained ones. Defaults to False.
        n: Number of weights to keep in every `m`. Defaults to None: no N:M pattern.
        m: See `n`. A layer with fewer inputs is not pruned.
        block: Rows and columns of a block. The kernel is a matrix (inputs, outputs), with a convolution's height, width
            and inputs together as rows; blocks at the edges are smaller. Defaults to None: single weights.

    Example:
        >>> from lightexp.objectives.cross_entropy import CrossEntropy
        >>> Prune(objective=CrossEntropy(), sparsity=0.9).establishes()
        (Invariant(kind=<InvariantKind.SPARSITY: 'sparsity'>, value=0.9),)
    """

    search = {
        **TrainingStage.search,
        "sparsity": Range("interval(0.5, 0.98)", strongest=0.98),
        "allocation": Range("choice(uniform, global, erk)"),
        "layers": Range("interval(0.5, 0.98)", strongest=0.98),
    }
    version = 2
    sparsity: Sparsity = _DEFAULT_SPARSITY
    initial_sparsity: Sparsity = 0.0
    criterion: Literal["magnitude", "random"] = "magnitude"
    allocation: Literal["uniform", "global", "erk", "sensitivity"] = "uniform"
    layers: dict[str, Sparsity] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    schedule: Literal["polynomial", "constant"] = "polynomial"
    begin: Fraction = 0.0
    end: Fraction = 0.5
    begin_step: Index | None = None
    end_step: Index | None = None
    frequency: Count | None = None
    from_scratch: bool = False
    n: Count | None = None
    m: Count | None = None
    block: list[Count] | None = None

    def __post_init__(self) -> None:
        if (self.n is None) != (self.m is None) or (self.n and self.m and self.n >= self.m):
            raise ValueError(f"n and m belong together, n below m, as in n=2 m=4. Received: n={self.n} and m={self.m}.")
        has_sparsity = self.layers or self.allocation != "uniform" or self.sparsity != _DEFAULT_SPARSITY
        if self.n and (self.block or has_sparsity):
            raise ValueError(
                f"n and m fix the sparsity of every layer at {self._final_sparsity:.3g}: leave out sparsity, "
                "allocation, layers and block; exclude=[...] leaves layers alone. "
                f"Received: n={self.n}, sparsity={self.sparsity}, allocation={self.allocation}, "
                f"layers={self.layers}, block={self.block}."
            )
        if self.block is not None and (len(self.block) != 2 or self.block == [1, 1]):
            raise ValueError(f"block must be rows and columns, as in [4,4]. Received: {self.block}.")
        if self.schedule == "polynomial" and self.initial_sparsity > self._final_sparsity:
            raise ValueError(
                "initial_sparsity must not be above sparsity. "
                f"Received: {self.initial_sparsity} and {self._final_sparsity}."
            )

    @property
    def _final_sparsity(self) -> float:
        return 1 - self.n / self.m if self.n and self.m else self.sparsity

    @property
    def _has_pattern(self) -> bool:
        return bool(self.n or self.block)

    @property
    def _block_shape(self) -> tuple[int, int]:
        return (self.block[0], self.block[1]) if self.block else (1, 1)

    def establishes(self) -> tuple[Invariant, ...]:
        """Return the invariant of the pattern, or of the highest sparsity of a layer."""
        if self.n and self.m:
            return (Invariant(InvariantKind.N_OF_M, self.n / self.m),)
        # With a shared budget any layer may be sparser because another is denser: no later pruning preserves that.
        highest = max([self.sparsity, *self.layers.values()]) if self.allocation == "uniform" else 1.0
        return (Invariant(InvariantKind.BLOCKS if self.block else InvariantKind.SPARSITY, highest),)

    def preserves(self, invariant: Invariant) -> bool:
        """Return whether an earlier sparsity is preserved: no layer of trained weights gets less."""
        lowest = min([self.sparsity, *self.layers.values()])
        prunes_all = self.allocation == "uniform" and not (self.exclude or self.from_scratch or self._has_pattern)
        return invariant.kind == InvariantKind.SPARSITY and prunes_all and lowest >= invariant.value

    @property
    def needs_parent(self) -> bool:
        """Whether trained weights are pruned."""
        return not self.from_scratch

    def inputs(self) -> dict[str, Input]:
        """Return the objective's teachers, and the sensitivity table if it allocates the sparsity."""
        inputs = super().inputs()
        if self.allocation == SENSITIVITY_FACT:
            inputs[SENSITIVITY_FACT] = Sensitivity
        return inputs

    def check(self, examples: int) -> None:
        """Check that the schedule ends during training; see `Stage.check`."""
        self._compute_span(examples)

    def schedule_epochs(self, examples: int) -> int:
        """Return the number of epochs after which the masks are constant; see `TrainingStage.schedule_epochs`."""
        end_step = self._compute_span(examples)[1]
        return math.ceil(end_step / count_steps_per_epoch(examples, self.batch_size))

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Return each layer's sparsity, or why it is not pruned; see `Stage.describe_layers`."""
        layers = split_parts(layers)
        targets = self.compute_targets(layers, table)
        descriptions = []
        for layer in layers:
            if layer.name in targets:
                effect = f"{layer.kind} {layer.kernel}: {self._describe_target(targets[layer.name])}"
            else:
                effect = f"{layer.kind}: left alone, {self._skip_reason(layer)}"
            descriptions.append((layer.name, effect))
        return descriptions

    def _describe_target(self, target: float | None) -> str:
        if self.n:
            return f"{self.n} of {self.m} stay"
        if target is not None:
            description = f"sparsity {target:.3g}"
        elif self.allocation == SENSITIVITY_FACT:
            description = "by the table of sensitivity"
        else:
            description = "global threshold"
        return f"{description} in blocks of {self.block[0]}x{self.block[1]}" if self.block else description

    def compute_targets(
        self, layers: Sequence[Layer], table: SensitivityTable | None = None
    ) -> dict[str, float | None]:
        """Compute the final sparsity of each layer that is pruned.

        Args:
            layers: Layers of the model, as `split_parts` returns them.
            table: Sensitivity table. Defaults to None: not measured yet, or not used.

        Returns:
            Sparsities by layer name; None for a layer whose sparsity is determined by a global threshold, or by a
            sensitivity table that does not exist yet.

        Raises:
            BadInput: If a pattern matches no layer, or no layer can be pruned.
        """
        check_patterns([*self.layers, *self.exclude], layers)
        prunable = [layer for layer in layers if not self._skip_reason(layer)]
        if not prunable:
            raise BadInput("the model has no layer that can be pruned. Leave the stage out, or exclude less.")
        names = [layer.name for layer in prunable]
        layer_sparsities = resolve_patterns(names, self.layers, "pruned", "sparsities")
        shared_layers = [layer for layer in prunable if layer.name not in layer_sparsities]
        targets: dict[str, float | None] = {**self._allocate(shared_layers, table), **layer_sparsities}
        return {name: targets[name] for name in names}

    def _allocate(self, layers: Sequence[Layer], table: SensitivityTable | None) -> dict[str, float | None]:
        """Return the sparsity of each layer that `layers` sets none for."""
        if self.allocation == "erk":
            return {**allocate_erdos_renyi(layers, self.sparsity)}
        if table and layers:
            curves = {layer.name: table.compute_costs([layer.name], "sparsity") for layer in layers}
            sizes = {layer.name: float(np.prod(layer.kernel or ())) for layer in layers}
            return {**allocate(curves, sizes, self.sparsity)}
        is_known = self.allocation not in ("global", SENSITIVITY_FACT)
        return dict.fromkeys((layer.name for layer in layers), self._final_sparsity if is_known else None)

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Prune during training; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.kernels import map_kernels
        from lightexp.backend.pruning import PruningMasks, clear_negative_zeros

        model = keras_files.load_model(parent.folder, context.seed) if parent else self.build_untrained(context)
        layers = split_parts(keras_files.describe_layers(model))
        targets = self.compute_targets(layers, sensitivity_table(context))
        kernels = map_kernels(model)
        examples = len(context.data.train)
        masks = PruningMasks(
            [kernels[name] for name in targets],
            self._make_schedules(targets, examples),
            self.epochs * count_steps_per_epoch(examples, self.batch_size),
            context.seed if self.criterion == "random" else None,
            self.m,
            self._block_shape,
        )
        history = self.fit(model, context, masks)
        clear_negative_zeros(model)
        arrays = {name: kernels[name].numpy() for name in targets}
        facts = {"history": history, **self._count_zeros(arrays, targets)}
        keras_files.save_model(model, context.out)
        return facts

    def _count_zeros(self, kernels: Mapping[str, Any], targets: Mapping[str, float | None]) -> dict[str, Any]:
        """Return the facts about zeros, after checking that they reach the targets."""
        sizes = {name: int(kernel.size) for name, kernel in kernels.items()}
        zeros = {name: int(np.sum(kernel == 0)) for name, kernel in kernels.items()}
        facts: dict[str, Any] = {"zeros": zeros, "sizes": sizes}
        if self.block:
            block = self._block_shape
            zero_blocks = {name: count_zero_blocks(kernel, block) for name, kernel in kernels.items()}
            blocks = {name: count_zero_blocks(np.zeros_like(kernel), block) for name, kernel in kernels.items()}
            self.check_reached(targets, zero_blocks, blocks)
            facts["zero_blocks"] = zero_blocks
        elif not self.n:
            self.check_reached(targets, zeros, sizes)
        return facts

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Check that each kernel of the file has the zeros, or the pattern, of training; see `Stage.verify`."""
        sizes = facts["sizes"]
        if self.n and self.m:
            n, m = self.n, self.m
            conforming = measure_kernels(shipped, lambda kernel: is_n_of_m(read_kernel(kernel), n, m))
            lost = find_shortfall(dict.fromkeys(sizes, 1), sizes, conforming)
            return f"a kernel of {lost[0]} weights has more than {n} non-zeros in {m}" if lost else None
        if self.block:
            block = self._block_shape
            blocks = measure_kernels(shipped, lambda kernel: count_zero_blocks(read_kernel(kernel), block))
            lost = find_shortfall(facts["zero_blocks"], sizes, blocks)
            if not lost:
                return None
            return f"a kernel of {lost[0]} weights has {max(lost[2], 0):.0f} blocks of zeros, was {lost[1]:.0f}"
        lost = find_shortfall(facts["zeros"], sizes, measure_kernels(shipped, lambda kernel: kernel.zeros))
        if not lost:
            return None
        size, expected, zeros = lost
        return f"a kernel of {size} weights has sparsity {max(zeros, 0) / size:.3f}, was {expected / size:.3f}"

    def _skip_reason(self, layer: Layer) -> str:
        reason = skip_reason(layer, self.exclude, "pruned")
        if reason or layer.kernel is None:
            return reason
        if self.allocation == SENSITIVITY_FACT and layer.kind in _UNMEASURED:
            return f"the table of sensitivity has no row for each kernel of a {layer.kind}"
        if self._has_pattern and layer.kind not in _PATTERN_LAYERS:
            return f"only {', '.join(_PATTERN_LAYERS)} are pruned in a pattern"
        return f"fewer than {self.m} inputs" if self.m and layer.kernel[-2] < self.m else ""

    def _compute_span(self, examples: int) -> tuple[int, int, int]:
        """Return first step, last step and frequency of the schedule."""
        span = Span(self.begin, self.end, self.begin_step, self.end_step, self.frequency)
        total = self.epochs * count_steps_per_epoch(examples, self.batch_size)
        return span.steps(total, constant=self.schedule == "constant")

    def _make_schedules(self, targets: Mapping[str, float | None], examples: int) -> list[tuple[list[int], Schedule]]:
        """Return groups of layers (by index) with a schedule each; layers of a group share a threshold."""
        span = self._compute_span(examples)

        def make_schedule(final: float) -> Schedule:
            if self.schedule == "constant":
                return Schedule(None, final, *span)
            # A layer that ends denser than the model also starts denser.
            initial = self.initial_sparsity * (final / self._final_sparsity if self._final_sparsity else 0)
            return Schedule(min(initial, final), final, *span)

        groups = [
            ([index], make_schedule(target)) for index, target in enumerate(targets.values()) if target is not None
        ]
        shared = [index for index, target in enumerate(targets.values()) if target is None]
        if shared:
            groups.append((shared, make_schedule(self._final_sparsity)))
        return groups

    def check_reached(
        self, targets: Mapping[str, float | None], zeros: Mapping[str, int], sizes: Mapping[str, int]
    ) -> None:
        """Check that each layer, or all layers of a global threshold together, have reached their sparsity.

        Args:
            targets: As `compute_targets` returns them.
            zeros: Number of zeros (or blocks of zeros) by layer name.
            sizes: Number of weights (or blocks) by layer name.

        Raises:
            RunFailed: If one has not.
        """
        groups = [([name], target) for name, target in targets.items() if target is not None]
        shared = [name for name, target in targets.items() if target is None]
        if shared:
            groups.append((shared, self.sparsity))
        for names, target in groups:
            size, zero = sum(sizes[name] for name in names), sum(zeros[name] for name in names)
            if zero < min(round(size * target), size - 1) - 1:  # tfmot rounds in float32
                raise RunFailed(
                    f"{', '.join(names)} reached sparsity {zero / size:.3f}, not {target:.3f}. "
                    "This is a fault of lightexp: please report it with the run's record."
                )
