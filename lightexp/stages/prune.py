"""Weight pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from lightexp.core.config import Count, Fraction, Index, Sparsity
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.flatmodel import FlatModel
from lightexp.core.protocols import Artifact, Context, Invariant, Layer, Range
from lightexp.core.schedule import Schedule, Span
from lightexp.core.training import steps_per_epoch
from lightexp.stages.train import TrainingStage


@dataclass(frozen=True)
class Prune(TrainingStage):
    """Sets the least important weights to zero while training goes on (tfmot's `prune_low_magnitude`).

    Zhu and Gupta, "To prune, or not to prune", 2017 (arXiv 1710.01878). Kernels of dense and convolutional layers are
    pruned, biases and depthwise kernels are not.

    Attributes:
        sparsity: Share of zeros at the end. Defaults to 0.8.
        initial_sparsity: Share of zeros at the start of the polynomial schedule. Defaults to 0.
        criterion: `magnitude` keeps the largest weights; `random` is the baseline. Defaults to `magnitude`.
        allocation: How `sparsity` is shared out: `uniform` (each layer alike), `global` (one threshold for all) or
            `erk` (Erdős–Rényi-Kernel, arXiv 1911.11134: small layers stay denser). Defaults to `uniform`.
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
    """

    search = {
        **TrainingStage.search,
        "sparsity": Range("interval(0.5, 0.98)", strongest=0.98),
        "allocation": Range("choice(uniform, global, erk)"),
        "layers": Range("interval(0.5, 0.98)", strongest=0.98),
    }
    sparsity: Sparsity = 0.8
    initial_sparsity: Sparsity = 0.0
    criterion: Literal["magnitude", "random"] = "magnitude"
    allocation: Literal["uniform", "global", "erk"] = "uniform"
    layers: dict[str, Sparsity] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    schedule: Literal["polynomial", "constant"] = "polynomial"
    begin: Fraction = 0.0
    end: Fraction = 0.5
    begin_step: Index | None = None
    end_step: Index | None = None
    frequency: Count | None = None
    from_scratch: bool = False

    def __post_init__(self) -> None:
        if self.schedule == "polynomial" and self.initial_sparsity > self.sparsity:
            raise ValueError(
                f"initial_sparsity must not be above sparsity. Received: {self.initial_sparsity} and {self.sparsity}."
            )

    def establishes(self) -> tuple[Invariant, ...]:
        """The highest sparsity that a layer may have."""
        # Of a shared threshold any layer may be the sparser for another's being denser: no later pruning keeps that.
        densest = max([self.sparsity, *self.layers.values()]) if self.allocation == "uniform" else 1.0
        return (Invariant("sparsity", densest),)

    def preserves(self, invariant: Invariant) -> bool:
        """An earlier sparsity, if no layer of this one's is lower and trained weights are pruned."""
        least = min([self.sparsity, *self.layers.values()])
        kept = self.allocation == "uniform" and not self.exclude and not self.from_scratch
        return invariant.kind == "sparsity" and kept and least >= invariant.value

    @property
    def needs_parent(self) -> bool:
        """Whether trained weights are pruned."""
        return not self.from_scratch

    def check(self, examples: int) -> None:
        """Checks that the schedule ends within training; see `Stage.check`."""
        self._span(examples)

    def touches(self, layers: Sequence[Layer]) -> list[tuple[str, str]]:
        """Each layer's sparsity, or why it is left alone; see `Stage.touches`."""
        targets = self.targets(layers)
        known = {layer.name: layer for layer in layers}
        words = []
        for name, layer in known.items():
            if name in targets:
                target = "global threshold" if targets[name] is None else f"sparsity {targets[name]:.3g}"
                words.append((name, f"{layer.kind} {layer.kernel}: {target}"))
            else:
                words.append((name, f"{layer.kind}: left alone, {self._reason(layer)}"))
        return words

    def targets(self, layers: Sequence[Layer]) -> dict[str, float | None]:
        """The final sparsity of each layer that is pruned; None where the global threshold decides.

        Raises:
            BadInput: If a pattern matches no layer, or no layer can be pruned.
        """
        for pattern in [*self.layers, *self.exclude]:
            if not any(fnmatchcase(layer.name, pattern) for layer in layers):
                names = ", ".join(layer.name for layer in layers)
                raise BadInput(f"no layer's name matches '{pattern}'. The model's layers: {names}.")
        prunable = [layer for layer in layers if not self._reason(layer)]
        if not prunable:
            raise BadInput("the model has no layer that can be pruned. Leave the stage out, or exclude less.")
        self._check_patterns(prunable)
        single = {layer.name: s for layer in prunable for p, s in self.layers.items() if fnmatchcase(layer.name, p)}
        rest = [layer for layer in prunable if layer.name not in single]
        shared: dict[str, float | None]
        if self.allocation == "erk":
            shared = dict(erdos_renyi_kernel(rest, self.sparsity))
        else:
            shared = dict.fromkeys((r.name for r in rest), None if self.allocation == "global" else self.sparsity)
        return {layer.name: single[layer.name] if layer.name in single else shared[layer.name] for layer in prunable}

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Prunes while training; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.pruning import PruningMasks, zero_signs

        model = keras_files.load(parent.folder, context.seed) if parent else self.untrained(context)
        targets = self.targets(keras_files.describe(model))
        names = list(targets)
        kernels = [model.get_layer(name).kernel for name in names]
        steps = self.epochs * steps_per_epoch(len(context.data.train), self.batch_size)
        seed = context.seed if self.criterion == "random" else None
        masks = PruningMasks(kernels, self._groups(names, targets, len(context.data.train)), steps, seed)
        history = self.fit(model, context, masks)
        zero_signs(model)
        zeros = {name: int(np.sum(model.get_layer(name).kernel.numpy() == 0)) for name in names}
        sizes = {name: int(np.prod(model.get_layer(name).kernel.shape)) for name in names}
        self._check_reached(targets, zeros, sizes)
        keras_files.save(model, context.out)
        return {"history": history, "zeros": zeros, "sizes": sizes}

    def verify(self, kind: str, facts: Mapping[str, Any], shipped: FlatModel) -> str | None:
        """Checks that no kernel of the file has fewer zeros than it was given; see `Stage.verify`."""
        found: dict[int, list[int]] = {}
        for _, tensor in shipped.kernels:
            found.setdefault(int(np.prod(tensor.shape)), []).append(tensor.zeros)
        for size in sorted(set(facts["sizes"].values())):
            wanted = sorted((z for n, z in facts["zeros"].items() if facts["sizes"][n] == size), reverse=True)
            got = sorted(found.get(size, []), reverse=True)
            for count, there in zip(wanted, [*got, *[0] * len(wanted)], strict=False):
                if there < count:
                    return f"a kernel of {size} weights has sparsity {there / size:.3f}, was {count / size:.3f}"
        return None

    def _check_patterns(self, prunable: Sequence[Layer]) -> None:
        """Refuses single sparsities that contradict each other or touch nothing that is pruned."""
        for pattern in self.layers:
            if not any(fnmatchcase(layer.name, pattern) for layer in prunable):
                names = ", ".join(layer.name for layer in prunable)
                raise BadInput(f"layers: '{pattern}' matches no layer that is pruned. These are: {names}.")
        for layer in prunable:
            found = {p: s for p, s in self.layers.items() if fnmatchcase(layer.name, p)}
            if len(set(found.values())) > 1:
                raise BadInput(f"layers: {layer.name} is given several sparsities: {found}. Give it one.")

    def _reason(self, layer: Layer) -> str:
        if any(fnmatchcase(layer.name, pattern) for pattern in self.exclude):
            return "excluded"
        if layer.kernel is None:
            return "it has no kernel"
        return "depthwise kernels are not pruned" if layer.kind.startswith("Depthwise") else ""

    def _span(self, examples: int) -> tuple[int, int, int]:
        span = Span(self.begin, self.end, self.begin_step, self.end_step, self.frequency)
        total = self.epochs * steps_per_epoch(examples, self.batch_size)
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
            initial = self.initial_sparsity * (final / self.sparsity if self.sparsity else 0)
            return Schedule(min(initial, final), final, *span)

        groups = [([i], schedule(s)) for i, n in enumerate(names) if (s := targets[n]) is not None]
        together = [i for i, n in enumerate(names) if targets[n] is None]
        return groups + ([(together, schedule(self.sparsity))] if together else [])

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


def erdos_renyi_kernel(layers: Sequence[Layer], sparsity: float) -> dict[str, float]:
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
