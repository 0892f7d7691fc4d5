"""Weight pruning."""

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
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns, skip_reason
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table
from lightexp.stages.train import TrainingStage

_DEFAULT = 0.8
_PATTERNED = ("Dense", "Conv1D", "Conv2D")  # kernels whose last two axes are inputs and outputs


@settings_dataclass
class Prune(TrainingStage):
    """Sets the least important weights to zero while training goes on (tfmot's `prune_low_magnitude`).

    Zhu and Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878). Kernels of dense and convolutional layers are
    pruned, biases and depthwise kernels are not.

    Zeros may come in a pattern that kernels of a runtime can use. N:M (Mishra et al. 2021, arXiv 2104.08378) keeps `n`
    of every `m` neighbours along the inputs; on the way ever more groups keep one less. Blocks (Narang et al. 2017,
    arXiv 1711.02782) are kept or pruned whole, by their mean.

    Attributes:
        sparsity: Share of zeros (of blocks, where there are any) at the end; left out where `n` and `m` say it.
            Defaults to 0.8.
        initial_sparsity: Share of zeros at the start of the polynomial schedule. Defaults to 0.
        criterion: `magnitude` keeps the largest weights; `random` is the baseline. Defaults to `magnitude`.
        allocation: How `sparsity` is shared out: `uniform` (each layer alike), `global` (one threshold for all), `erk`
            (Erdős–Rényi-Kernel, arXiv 1911.11134: small layers stay denser) or `sensitivity` (such that it costs the
            least by the table of an earlier stage `sensitivity`, in which nothing is trained). Defaults to `uniform`.
        layers: Sparsity of single layers, by pattern of their names; outside the allocation.
        exclude: Patterns of the names of layers that are left alone.
        schedule: `polynomial` (cubic, from `initial_sparsity`) or `constant`. Defaults to `polynomial`.
        begin: Start of the schedule, as a share of training. Defaults to 0.
        end: End of the schedule, as a share of training; after it the masks stand still. Defaults to 0.5.
        begin_step: Start in steps, instead of `begin`.
        end_step: End in steps, instead of `end`.
        frequency: Steps between updates of the masks. Defaults to None: 100, or less where the schedule is short, and
            always such that the last update falls on the schedule's end.
        from_scratch: Whether to start from new initial weights instead of trained ones. Defaults to False.
        n: Of every `m` weights, those that stay. Defaults to None: no such pattern.
        m: See `n`. A layer with fewer inputs is left alone.
        block: Rows and columns of blocks, of a kernel as a matrix (inputs, outputs), a convolution's height, width and
            inputs together as rows; those at the edges are smaller. Defaults to None: single weights.
    """

    search = {
        **TrainingStage.search,
        "sparsity": Range("interval(0.5, 0.98)", strongest=0.98),
        "allocation": Range("choice(uniform, global, erk)"),
        "layers": Range("interval(0.5, 0.98)", strongest=0.98),
    }
    sparsity: Sparsity = _DEFAULT
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
        if self.n and (self.block or self.layers or self.allocation != "uniform" or self.sparsity != _DEFAULT):
            raise ValueError(
                f"n and m fix the sparsity of every layer at {self._final:.3g}: leave out sparsity, allocation, "
                "layers and block; exclude=[...] leaves layers alone. "
                f"Received: n={self.n}, sparsity={self.sparsity}, allocation={self.allocation}, "
                f"layers={self.layers}, block={self.block}."
            )
        if self.block is not None and (len(self.block) != 2 or self.block == [1, 1]):
            raise ValueError(f"block must be rows and columns, as in [4,4]. Received: {self.block}.")
        if self.schedule == "polynomial" and self.initial_sparsity > self._final:
            raise ValueError(
                f"initial_sparsity must not be above sparsity. Received: {self.initial_sparsity} and {self._final}."
            )

    @property
    def _final(self) -> float:
        return 1 - self.n / self.m if self.n and self.m else self.sparsity

    @property
    def _has_pattern(self) -> bool:
        return bool(self.n or self.block)

    def establishes(self) -> tuple[Invariant, ...]:
        """The highest sparsity that a layer may have, or the pattern."""
        if self.n and self.m:
            return (Invariant(InvariantKind.N_OF_M, self.n / self.m),)
        # Of a shared threshold any layer may be the sparser for another's being denser: no later pruning keeps that.
        densest = max([self.sparsity, *self.layers.values()]) if self.allocation == "uniform" else 1.0
        return (Invariant(InvariantKind.BLOCKS if self.block else InvariantKind.SPARSITY, densest),)

    def preserves(self, invariant: Invariant) -> bool:
        """An earlier sparsity, if no layer of this one's is lower and trained weights are pruned one by one."""
        least = min([self.sparsity, *self.layers.values()])
        kept = self.allocation == "uniform" and not (self.exclude or self.from_scratch or self._has_pattern)
        return invariant.kind == InvariantKind.SPARSITY and kept and least >= invariant.value

    @property
    def needs_parent(self) -> bool:
        """Whether trained weights are pruned."""
        return not self.from_scratch

    def inputs(self) -> dict[str, Input]:
        """The teachers, and the table of sensitivity where it shares out the sparsity."""
        return {**super().inputs(), **({SENSITIVITY_FACT: Sensitivity} if self.allocation == SENSITIVITY_FACT else {})}

    def check(self, examples: int) -> None:
        """Checks that the schedule ends within training; see `Stage.check`."""
        self._span(examples)

    def schedule_epochs(self, examples: int) -> int:
        """The epochs after which the masks stand still."""
        return math.ceil(self._span(examples)[1] / count_steps_per_epoch(examples, self.batch_size))

    def describe_layers(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> list[tuple[str, str]]:
        """Each layer's sparsity, or why it is left alone; see `Stage.touches`."""
        targets = self.targets(layers, table)
        known = {layer.name: layer for layer in layers}
        words = []
        for name, layer in known.items():
            if name in targets:
                shared = "by the table of sensitivity" if self.allocation == SENSITIVITY_FACT else "global threshold"
                target = shared if targets[name] is None else f"sparsity {targets[name]:.3g}"
                target = f"{self.n} of {self.m} stay" if self.n else target
                target += f" in blocks of {self.block[0]}x{self.block[1]}" if self.block else ""
                words.append((name, f"{layer.kind} {layer.kernel}: {target}"))
            else:
                words.append((name, f"{layer.kind}: left alone, {self._reason(layer)}"))
        return words

    def targets(self, layers: Sequence[Layer], table: SensitivityTable | None = None) -> dict[str, float | None]:
        """The final sparsity of each layer that is pruned; None where a global threshold decides, or a `table` to come.

        Raises:
            BadInput: If a pattern matches no layer, or no layer can be pruned.
        """
        check_patterns([*self.layers, *self.exclude], layers)
        prunable = [layer for layer in layers if not self._reason(layer)]
        if not prunable:
            raise BadInput("the model has no layer that can be pruned. Leave the stage out, or exclude less.")
        alone = resolve_patterns([layer.name for layer in prunable], self.layers, "pruned", "sparsities")
        rest = [layer for layer in prunable if layer.name not in alone]
        shared: dict[str, float | None]
        if self.allocation == "erk":
            shared = dict(allocate_erdos_renyi(rest, self.sparsity))
        elif table and rest:
            curves = {layer.name: table.costs([layer.name], "sparsity") for layer in rest}
            sizes = {layer.name: float(np.prod(layer.kernel or ())) for layer in rest}
            shared = dict(allocate(curves, sizes, self.sparsity))
        else:
            later = self.allocation in ("global", SENSITIVITY_FACT)
            shared = dict.fromkeys((r.name for r in rest), None if later else self._final)
        return {layer.name: alone[layer.name] if layer.name in alone else shared[layer.name] for layer in prunable}

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Prunes while training; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.pruning import PruningMasks, clear_negative_zeros

        model = keras_files.load_model(parent.folder, context.seed) if parent else self.untrained(context)
        targets = self.targets(keras_files.describe_layers(model), sensitivity_table(context))
        names = list(targets)
        kernels = [model.get_layer(name).kernel for name in names]
        steps = self.epochs * count_steps_per_epoch(len(context.data.train), self.batch_size)
        seed = context.seed if self.criterion == "random" else None
        groups = self._groups(names, targets, len(context.data.train))
        block = (self.block[0], self.block[1]) if self.block else (1, 1)
        masks = PruningMasks(kernels, groups, steps, seed, self.m, block)
        history = self.fit(model, context, masks)
        clear_negative_zeros(model)
        weights = {name: model.get_layer(name).kernel.numpy() for name in names}
        sizes = {name: int(kernel.size) for name, kernel in weights.items()}
        zeros = {name: int(np.sum(kernel == 0)) for name, kernel in weights.items()}
        facts: dict[str, Any] = {"history": history, "zeros": zeros, "sizes": sizes}
        if self.block:
            facts["zero_blocks"] = {name: count_zero_blocks(kernel, block) for name, kernel in weights.items()}
            all_blocks = {name: count_zero_blocks(np.zeros_like(kernel), block) for name, kernel in weights.items()}
            self._check_reached(targets, facts["zero_blocks"], all_blocks)
        elif not self.n:
            self._check_reached(targets, zeros, sizes)
        keras_files.save_model(model, context.out)
        return facts

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: TFLiteGraph) -> str | None:
        """Checks that no kernel of the file has fewer zeros, or less of a pattern, than it was given; see `Stage`."""
        sizes = facts["sizes"]
        if self.n and self.m:
            n, m = self.n, self.m
            obeying = measure_kernels(shipped, lambda kernel: is_n_of_m(read_kernel(kernel), n, m))
            lost = find_shortfall(dict.fromkeys(sizes, 1), sizes, obeying)
            return f"a kernel of {lost[0]} weights has more than {n} non-zeros in {m}" if lost else None
        if self.block:
            block = (self.block[0], self.block[1])
            blocks = measure_kernels(shipped, lambda kernel: count_zero_blocks(read_kernel(kernel), block))
            lost = find_shortfall(facts["zero_blocks"], sizes, blocks)
            words = "a kernel of {} weights has {:.0f} blocks of zeros, was {:.0f}"
            return words.format(lost[0], max(lost[2], 0), lost[1]) if lost else None
        lost = find_shortfall(facts["zeros"], sizes, measure_kernels(shipped, lambda kernel: kernel.zeros))
        if not lost:
            return None
        size, was, found = lost
        return f"a kernel of {size} weights has sparsity {max(found, 0) / size:.3f}, was {was / size:.3f}"

    def _reason(self, layer: Layer) -> str:
        reason = skip_reason(layer, self.exclude, "pruned")
        if reason or layer.kernel is None:
            return reason
        if self._has_pattern and layer.kind not in _PATTERNED:
            return f"only {', '.join(_PATTERNED)} are pruned in a pattern"
        return f"fewer than {self.m} inputs" if self.m and layer.kernel[-2] < self.m else ""

    def _span(self, examples: int) -> tuple[int, int, int]:
        span = Span(self.begin, self.end, self.begin_step, self.end_step, self.frequency)
        total = self.epochs * count_steps_per_epoch(examples, self.batch_size)
        return span.steps(total, constant=self.schedule == "constant")

    def _groups(
        self, names: list[str], targets: Mapping[str, float | None], examples: int
    ) -> list[tuple[list[int], Schedule]]:
        """Layers that share a threshold, each with its schedule; one group each but for the global threshold's."""
        span = self._span(examples)

        def schedule(final: float) -> Schedule:
            if self.schedule == "constant":
                return Schedule(None, final, *span)
            # A layer that ends denser than the model also starts denser.
            initial = self.initial_sparsity * (final / self._final if self._final else 0)
            return Schedule(min(initial, final), final, *span)

        groups = [([i], schedule(s)) for i, n in enumerate(names) if (s := targets[n]) is not None]
        together = [i for i, n in enumerate(names) if targets[n] is None]
        return groups + ([(together, schedule(self._final))] if together else [])

    def _check_reached(
        self, targets: Mapping[str, float | None], zeros: Mapping[str, int], sizes: Mapping[str, int]
    ) -> None:
        together = [name for name, target in targets.items() if target is None]
        groups = [([name], target) for name, target in targets.items() if target is not None]
        for names, target in groups + ([(together, self.sparsity)] if together else []):
            size, zero = sum(sizes[n] for n in names), sum(zeros[n] for n in names)
            if zero < min(round(size * target), size - 1) - 1:  # rounding is tfmot's, in float32
                raise RunFailed(
                    f"{', '.join(names)} reached sparsity {zero / size:.3f}, not {target:.3f}: too many weights "
                    "are equal. Train the model first, or use another criterion."
                )


def allocate_erdos_renyi(layers: Sequence[Layer], sparsity: float) -> dict[str, float]:
    """Sparsity of each layer by the Erdős–Rényi-Kernel rule (Evci et al. 2020, arXiv 1911.11134).

    A layer's density is proportional to sum(kernel's dimensions) / product(them); layers that would be more than
    dense are kept dense and the others pay for it.

    Args:
        layers: Layers with kernels.
        sparsity: Of all their kernels together.
    """
    sizes = {layer.name: float(np.prod(layer.kernel or (0,))) for layer in layers}
    raw = {layer.name: sum(layer.kernel or (0,)) / sizes[layer.name] for layer in layers}
    dense: set[str] = set()
    while True:
        rest = [name for name in sizes if name not in dense]
        budget = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in dense)
        scale = budget / sum(raw[name] * sizes[name] for name in rest) if rest else 0.0
        over = {name for name in rest if scale * raw[name] > 1}
        if not over:
            return {name: 0.0 if name in dense else 1 - scale * raw[name] for name in sizes}
        dense |= over
