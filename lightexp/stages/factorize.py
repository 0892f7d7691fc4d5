"""Factorisation: layers become products of smaller ones."""

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
from lightexp.core.sensitivity import SENSITIVITY_FACT, SensitivityTable
from lightexp.core.sensitivity import allocate as shared_out
from lightexp.metrics.graph import count_macs
from lightexp.stages.architecture_stage import ArchitectureStage, require_finite
from lightexp.stages.layer_patterns import check_patterns, resolve_patterns, skip_reason
from lightexp.stages.sensitivity import Sensitivity, sensitivity_table

if TYPE_CHECKING:
    from lightexp.backend.channels import ModelCost
    from lightexp.backend.factors import FactorableLayer

Share = Annotated[float, Field(gt=0, le=1)]
_HALVINGS = 24


@settings_dataclass
class Factorize(ArchitectureStage):
    """Replaces layers by products of smaller ones, and trains these.

    A dense layer or a 1x1 convolution becomes two (truncated SVD: Denton et al. 2014, arXiv 1404.0736), a larger
    convolution up to three: 1x1, itself on fewer channels, 1x1 (Tucker-2: Kim et al. 2016, arXiv 1511.06530). The input
    channels of a convolution that has at most four stay as they are. Depthwise layers are left alone, and so is a layer
    whose factors would have no fewer parameters, or more multiplications.

    Attributes:
        ratio: Share of the highest rank that stays, on either side of a convolution. Defaults to 0.4.
        allocation: How `ratio` is shared out: `uniform` (each layer alike) or `sensitivity` (a mean over the layers by
            their weights, such that it costs the least by the ranks in the table of an earlier stage `sensitivity`, in
            which nothing is trained). Defaults to `uniform`.
        energy: Instead of `ratio`: the lowest ranks are taken that keep this share of a kernel's squared singular
            values (of its squared norm, for a convolution). Defaults to None.
        layers: Ratio of single layers, by pattern of their names; outside the allocation, `energy` and the budget.
        exclude: Patterns of the names of layers that are left alone.
        budget: Instead of `ratio`: the highest ratio is taken that leaves at most `share` of the `macs` or `params` of
            the model that the stage starts from. Defaults to None.
        share: See `budget`. Defaults to 0.5.
    """

    search = {
        **ArchitectureStage.search,
        "ratio": Range("interval(0.1, 0.6)", strongest=0.1),
        "layers": Range("interval(0.1, 0.6)", strongest=0.1),
    }
    ratio: Share = 0.4
    allocation: Literal["uniform", "sensitivity"] = "uniform"
    energy: Share | None = None
    layers: dict[str, Share] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    budget: Literal["macs", "params"] | None = None
    share: Share = 0.5

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
        """Not where weights, or the table of sensitivity, decide which layers are factorised."""
        return self.energy is None and self.allocation == "uniform"

    def inputs(self) -> dict[str, Input]:
        """The teachers, and the table of sensitivity where it shares out the ratio."""
        return {**super().inputs(), **({SENSITIVITY_FACT: Sensitivity} if self.allocation == SENSITIVITY_FACT else {})}

    def preview(self, model: Any, table: SensitivityTable | None = None) -> tuple[Any, list[tuple[str, str]]]:
        """The model in factors; and what becomes of each layer; see `Surgery.foreseen`."""
        from lightexp.backend.factors import factorize_model

        plan = self._plan(model, table, trained=False)
        if not plan.ranks:
            raise self._nothing(plan)
        later = "a rank by the table of sensitivity, if its factors are smaller then"
        if self.energy:
            later = f"the lowest rank that keeps {self.energy:g} of its energy, if its factors are smaller then"
        words = []
        for layer in model.layers:
            does = f"left alone, {plan.left[layer.name]}" if layer.name in plan.left else ""
            if layer.name in plan.ranks:
                does = later if layer.name in plan.later else _words(layer.kernel.shape, plan.ranks[layer.name])
            if does:
                shape = f" {tuple(layer.kernel.shape)}" if layer.name in plan.spectra else ""
                words.append((layer.name, f"{type(layer).__name__}{shape}: {does}"))
        return factorize_model(model, plan.factors()), words

    def apply(self, parent: Artifact | None, context: Context) -> dict[str, Any]:
        """Factorises and trains; see `Stage.apply`."""
        from lightexp.backend import keras_files
        from lightexp.backend.factors import factorize_model

        assert parent is not None  # `accepts` says so
        model = keras_files.load_model(parent.folder, context.seed)
        require_finite(model)
        context.progress.say("factorising")
        plan = self._plan(model, sensitivity_table(context), trained=True)
        if not plan.ranks:
            raise self._nothing(plan)
        factors = plan.factors()
        kept = {name: plan.spectra[name].compute_energy(parts) for name, parts in factors.items()}
        model = factorize_model(model, factors)
        history = self.fit(model, context)
        keras_files.save_model(model, context.out)
        return {"history": history, "ranks": plan.ranks, "energy": kept, "left": plan.left}

    def _plan(self, model: Any, table: SensitivityTable | None, trained: bool) -> FactorizationPlan:
        """What is to become of each layer; of those of which weights or a table decide that are not there, at most.

        Raises:
            BadInput: If a pattern matches no layer, none can be factorised, or the budget cannot be met.
        """
        from lightexp.backend import keras_files
        from lightexp.backend.factors import find_factorable

        layers = keras_files.describe_layers(model)
        check_patterns(self.exclude, layers)
        able, others = find_factorable(model)
        why = {n.name: skip_reason(n, self.exclude, "factorised") or others.get(n.name, "") for n in layers}
        left = {name: words for name, words in why.items() if words}
        able = {name: layer for name, layer in able.items() if name not in left}
        if not able:
            raise BadInput("the model has no layer that can be factorised. Leave the stage out, or exclude less.")
        own = resolve_patterns(list(able), self.layers, "factorised", "ratios")
        rest = {name: float(math.prod(layer.shape)) for name, layer in able.items() if name not in own}
        curves = {name: table.costs([name], "rank") for name in rest} if table else {}
        later = set() if self.is_static or table or (self.energy and trained) else set(rest)
        spectra = {name: Spectra(model.get_layer(name).kernel.numpy()) for name in able}

        def ranks(ratio: float) -> dict[str, Ranks]:
            gone = shared_out(curves, rest, 1 - ratio) if curves else {}
            each = {name: 1 - gone[name] if gone else ratio for name in rest} | own
            return {name: ranks_for_ratio(layer.shape, each[name]) for name, layer in able.items()}

        wanted = ranks(self._ratio(model, able, ranks) if self.budget else self.ratio)
        if self.energy:
            wanted |= {name: spectra[name].ranks(self.energy) for name in rest}
        wanted |= {name: able[name].find_highest_ranks() or wanted[name] for name in later}
        smaller = {name: rank for name, rank in wanted.items() if able[name].compute_savings(rank).params}
        for name in [name for name in wanted if name not in smaller]:
            left[name] = f"its factors would not be smaller ({_words(able[name].shape, wanted[name])})"
        return FactorizationPlan(smaller, left, spectra, later)

    def _ratio(self, model: Any, able: dict[str, FactorableLayer], ranks: Callable[[float], dict[str, Ranks]]) -> float:
        """The highest ratio that keeps the budget."""
        budget = self.budget or "params"
        start = getattr(_cost(model), budget)

        def share(ratio: float) -> float:
            saved = sum(int(getattr(able[name].compute_savings(rank), budget)) for name, rank in ranks(ratio).items())
            return 1 - saved / float(start)

        low, high = 0.0, 1.0
        if share(low) > self.share:
            raise BadInput(
                f"budget={budget}, share={self.share:g}: even rank 1 of every layer leaves {share(low):.3f} of it. "
                "Ask for no less, or exclude less."
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if share(middle) <= self.share else (low, middle)
        return low

    def _nothing(self, plan: FactorizationPlan) -> BadInput:
        asked = f"energy={self.energy:g}" if self.energy else f"ratio={self.ratio:g}"
        asked = f"budget={self.budget}, share={self.share:g}" if self.budget else asked
        return BadInput(f"{asked}: {'; '.join(f'{name}: {plan.left[name]}' for name in plan.spectra)}. Ask for less.")


@dataclass(frozen=True)
class FactorizationPlan:
    """What becomes of each layer.

    Attributes:
        ranks: Of those that are factorised.
        left: Why the others with weights are left alone.
        spectra: Of all that could be factorised.
        later: Those whose ranks are not known yet, and stand here as high as they can be.
    """

    ranks: dict[str, Ranks]
    left: dict[str, str]
    spectra: dict[str, Spectra]
    later: set[str]

    def factors(self) -> dict[str, Factors]:
        """Of each layer that is factorised."""
        return {name: self.spectra[name].factors(ranks) for name, ranks in self.ranks.items()}


def _words(shape: Sequence[int], ranks: Ranks) -> str:
    highest = highest_ranks(shape)
    inputs = f"{ranks.inputs} of {highest.inputs} inputs, " if ranks.inputs < shape[-2] else ""
    return f"rank {inputs}{ranks.outputs} of {highest.outputs}{' outputs' if inputs else ''}"


def _cost(model: Any) -> ModelCost:
    """What the model's float32 flatbuffer costs."""
    from lightexp.backend import converter, flatbuffer
    from lightexp.backend.channels import ModelCost

    with TemporaryDirectory() as folder:
        file = Path(folder) / TFLITE
        file.write_bytes(converter.convert_to_float32(model))
        flat = flatbuffer.read_graph(file)
    return ModelCost(count_macs(flat)[0], sum(math.prod(tensor.shape) for tensor in flat.weights))
