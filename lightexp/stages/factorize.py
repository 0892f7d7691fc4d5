"""Low-rank factorisation: replace layers by products of smaller layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lightexp.core.config import settings_dataclass
from lightexp.core.errors import BadInput
from lightexp.core.lowrank import Factors, Ranks, Spectra, highest_ranks, ranks_for_ratio
from lightexp.core.protocols import TFLITE, Artifact, Context, Input, Range
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable, allocate
from lightexp.metrics.graph import count_macs
from lightexp.stages.architecture_stage import ArchitectureStage
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns, skip_reason
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table

if TYPE_CHECKING:
    from lightexp.backend.channels import ModelCost
    from lightexp.backend.factors import FactorableLayer

_Fraction = Annotated[float, Field(gt=0, le=1)]
_BISECTIONS = 24


@settings_dataclass
class Factorize(ArchitectureStage):
    """Replace layers by products of smaller layers, and train these.

    A dense layer or a 1x1 convolution becomes two (truncated SVD: Denton et al. 2014, arXiv 1404.0736), a larger
    convolution up to three: a 1x1 convolution, the same kernel on fewer channels, and a 1x1 convolution (Tucker-2: Kim
    et al. 2016, arXiv 1511.06530). A convolution with at most four input channels keeps them all. Depthwise layers are
    not factorised, nor are layers whose factors would have no fewer parameters, or more multiplications.

    Attributes:
        ratio: Rank to keep, as a fraction of the highest rank, on either side of a convolution. Defaults to 0.4.
        allocation: How `ratio` is allocated to the layers: `uniform` (the same for each) or `sensitivity` (a mean over
            the layers, weighted by size, of the lowest total cost by the ranks in the table of an earlier stage
            `sensitivity`, measured without training). Defaults to `uniform`.
        energy: Instead of `ratio`: use the lowest ranks that keep this fraction of a kernel's squared singular values
            (of its squared norm, for a convolution). Defaults to None.
        layers: Ratio of single layers, by pattern of their names; not subject to the allocation, `energy` and the
            budget.
        exclude: Patterns of the names of layers that are not factorised.
        budget: Instead of `ratio`: use the highest ratio that leaves at most `share` of the `macs` or `params` of the
            model that the stage starts from. Defaults to None.
        share: See `budget`. Defaults to 0.5.

    Example:
        >>> from lightexp.objectives.cross_entropy import CrossEntropy
        >>> Factorize(objective=CrossEntropy(), ratio=0.25, layers={"dense*": 0.1}).is_static
        True
    """

    search = {
        **ArchitectureStage.search,
        "ratio": Range("interval(0.1, 0.6)", strongest=0.1),
        "layers": Range("interval(0.1, 0.6)", strongest=0.1),
    }
    ratio: _Fraction = 0.4
    allocation: Literal["uniform", "sensitivity"] = "uniform"
    energy: _Fraction | None = None
    layers: dict[str, _Fraction] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    budget: Literal["macs", "params"] | None = None
    share: _Fraction = 0.5

    def __post_init__(self) -> None:
        if self.energy and self.budget:
            raise ValueError(f"energy and budget exclude each other. Received: {self.energy} and {self.budget}.")
        if self.energy and self.allocation != "uniform":
            raise ValueError(
                "energy sets the rank of each layer, so that there is nothing for allocation to share out. Leave one "
                f"of them out. Received: energy={self.energy}, allocation={self.allocation}."
            )

    @property
    def is_static(self) -> bool:
        """Whether the layers to factorise depend neither on weights nor on the sensitivity table."""
        return self.energy is None and self.allocation == "uniform"

    def inputs(self) -> dict[str, Input]:
        """Return the objective's teachers, and the sensitivity table if it allocates the ratio."""
        inputs = super().inputs()
        if self.allocation == SENSITIVITY_FACT:
            inputs[SENSITIVITY_FACT] = Sensitivity
        return inputs

    def preview(self, model: Any, table: SensitivityTable | None = None) -> tuple[Any, list[tuple[str, str]]]:
        """Return the factorised model, and the effect on each layer; see `ArchitectureStage.preview`."""
        from lightexp.backend.factors import factorize_model

        plan = self._plan(model, table, trained=False)
        if not plan.ranks:
            raise self._nothing_to_factorize(plan)
        descriptions = []
        for layer in model.layers:
            effect = self._describe_effect(layer, plan)
            if effect:
                shape = f" {tuple(layer.kernel.shape)}" if layer.name in plan.spectra else ""
                descriptions.append((layer.name, f"{type(layer).__name__}{shape}: {effect}"))
        return factorize_model(model, plan.make_factors()), descriptions

    def _describe_effect(self, layer: Any, plan: FactorizationPlan) -> str:
        if layer.name not in plan.ranks:
            return f"left alone, {plan.skipped[layer.name]}" if layer.name in plan.skipped else ""
        if layer.name not in plan.undetermined:
            return _describe_ranks(layer.kernel.shape, plan.ranks[layer.name])
        if self.energy:
            return f"the lowest rank that keeps {self.energy:g} of its energy, if its factors are smaller then"
        return "a rank by the table of sensitivity, if its factors are smaller then"

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Factorise the model and train it; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.factors import factorize_model

        assert parent is not None  # `accepts` requires one
        model = keras_files.load_model(parent.folder, context.seed)
        context.progress.say("factorising")
        plan = self._plan(model, sensitivity_table(context), trained=True)
        if not plan.ranks:
            raise self._nothing_to_factorize(plan)
        factors = plan.make_factors()
        energy = {name: plan.spectra[name].compute_energy(layer_factors) for name, layer_factors in factors.items()}
        model = factorize_model(model, factors)
        history = self.fit(model, context)
        keras_files.save_model(model, context.out)
        return {"history": history, "ranks": plan.ranks, "energy": energy, "left": plan.skipped}

    def _plan(self, model: Any, table: SensitivityTable | None, trained: bool) -> FactorizationPlan:
        """Return the ranks of each layer.

        Args:
            model: The Keras model.
            table: Sensitivity table; None if it does not exist yet or is not used.
            trained: Whether the weights are trained, so that they can determine ranks.

        Raises:
            BadInput: If a pattern matches no layer, none can be factorised, or the budget cannot be met.
        """
        factorable, skipped = self._find_factorable(model)
        layer_ratios = resolve_patterns(list(factorable), self.layers, "factorised", "ratios")
        sizes = {name: float(math.prod(layer.shape)) for name, layer in factorable.items() if name not in layer_ratios}
        curves = {name: table.compute_costs([name], "rank") for name in sizes} if table else {}
        is_determined = self.is_static or table or (self.energy and trained)
        undetermined = set() if is_determined else set(sizes)
        spectra = {name: Spectra(model.get_layer(name).kernel.numpy()) for name in factorable}

        def compute_ranks(ratio: float) -> dict[str, Ranks]:
            ratios = dict.fromkeys(sizes, ratio)
            if curves:
                ratios = {name: 1 - removed for name, removed in allocate(curves, sizes, 1 - ratio).items()}
            ratios |= layer_ratios
            return {name: ranks_for_ratio(layer.shape, ratios[name]) for name, layer in factorable.items()}

        ratio = self._find_ratio(model, factorable, compute_ranks) if self.budget else self.ratio
        ranks = compute_ranks(ratio)
        if self.energy:
            ranks |= {name: spectra[name].ranks(self.energy) for name in sizes}
        ranks |= {name: factorable[name].find_highest_ranks() or ranks[name] for name in undetermined}
        smaller = {name: rank for name, rank in ranks.items() if factorable[name].compute_savings(rank).params}
        for name in ranks:
            if name not in smaller:
                description = _describe_ranks(factorable[name].shape, ranks[name])
                skipped[name] = f"its factors would not be smaller ({description})"
        return FactorizationPlan(smaller, skipped, spectra, undetermined)

    def _find_factorable(self, model: Any) -> tuple[dict[str, FactorableLayer], dict[str, str]]:
        """Return the layers that can be factorised, and why the others are skipped, by name."""
        from lightexp.backend import keras_files
        from lightexp.backend.factors import find_factorable

        layers = keras_files.describe_layers(model)
        check_patterns(self.exclude, layers)
        factorable, unsupported = find_factorable(model)
        skipped = {}
        for layer in layers:
            reason = skip_reason(layer, self.exclude, "factorised") or unsupported.get(layer.name, "")
            if reason:
                skipped[layer.name] = reason
        factorable = {name: layer for name, layer in factorable.items() if name not in skipped}
        if not factorable:
            raise BadInput("the model has no layer that can be factorised. Leave the stage out, or exclude less.")
        return factorable, skipped

    def _find_ratio(
        self,
        model: Any,
        factorable: dict[str, FactorableLayer],
        compute_ranks: Callable[[float], dict[str, Ranks]],
    ) -> float:
        """Return the highest ratio that meets the budget, by bisection."""
        budget = self.budget or "params"
        start = getattr(_measure_cost(model), budget)

        def compute_share(ratio: float) -> float:
            savings = [factorable[name].compute_savings(rank) for name, rank in compute_ranks(ratio).items()]
            return 1 - sum(int(getattr(saving, budget)) for saving in savings) / float(start)

        low, high = 0.0, 1.0
        if compute_share(low) > self.share:
            raise BadInput(
                f"budget={budget}, share={self.share:g}: even rank 1 of every layer leaves {compute_share(low):.3f} of "
                "it. Ask for no less, or exclude less."
            )
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if compute_share(middle) <= self.share:
                low = middle
            else:
                high = middle
        return low

    def _nothing_to_factorize(self, plan: FactorizationPlan) -> BadInput:
        if self.budget:
            requested = f"budget={self.budget}, share={self.share:g}"
        elif self.energy:
            requested = f"energy={self.energy:g}"
        else:
            requested = f"ratio={self.ratio:g}"
        reasons = "; ".join(f"{name}: {plan.skipped[name]}" for name in plan.spectra)
        return BadInput(f"{requested}: {reasons}. Ask for less.")


@dataclass(frozen=True)
class FactorizationPlan:
    """Ranks of the layers to factorise.

    Attributes:
        ranks: Ranks by name of the layers to factorise.
        skipped: Reasons by name of the other layers that have weights.
        spectra: Spectra of all layers that could be factorised.
        undetermined: Names of the layers whose ranks are not known yet; `ranks` holds the highest possible ones.
    """

    ranks: dict[str, Ranks]
    skipped: dict[str, str]
    spectra: dict[str, Spectra]
    undetermined: set[str]

    def make_factors(self) -> dict[str, Factors]:
        """Return the factors of each layer to factorise."""
        return {name: self.spectra[name].factors(ranks) for name, ranks in self.ranks.items()}


def _describe_ranks(shape: Sequence[int], ranks: Ranks) -> str:
    highest = highest_ranks(shape)
    if ranks.inputs < shape[-2]:
        return f"rank {ranks.inputs} of {highest.inputs} inputs, {ranks.outputs} of {highest.outputs} outputs"
    return f"rank {ranks.outputs} of {highest.outputs}"


def _measure_cost(model: Any) -> ModelCost:
    """Return the cost of the model's float32 flatbuffer."""
    from lightexp.backend import converter, flatbuffer
    from lightexp.backend.channels import ModelCost

    with TemporaryDirectory() as folder:
        file = Path(folder) / TFLITE
        file.write_bytes(converter.convert_to_float32(model))
        graph = flatbuffer.read_graph(file)
    return ModelCost(count_macs(graph)[0], sum(math.prod(tensor.shape) for tensor in graph.weights))
