"""Pipeline variants: which combinations of stages a study chooses among, and the parameters of each."""

from __future__ import annotations

from collections.abc import Callable

from optuna.trial import FixedTrial

from lightexp.search.space import VARIANT
from lightexp.search.study_spec import StudySpec

PRUNE = "pipeline.stages.prune"
MakeSpec = Callable[..., StudySpec]


def test_stage_that_is_off_has_no_parameters(make_spec: MakeSpec) -> None:
    space = make_spec(f"{PRUNE}=choice(on,off)").make_space({})
    off = next(s for s in space.variants if "prune" not in s.config.pipeline.order)
    trial = FixedTrial({VARIANT: off.label, "pipeline.stages.quantize.scheme": "int8"})
    variant, values = space.propose(trial)
    assert variant is off
    assert list(variant.config.pipeline.order) == ["train", "quantize"]
    assert values == {("pipeline", "stages", "quantize", "scheme"): "int8"}
    assert "prune" not in variant.set_values(values).pipeline.stages


def test_variants_are_valid_and_distinct(make_spec: MakeSpec) -> None:
    orders = "pipeline.order=choice([train,prune,quantize],[train,quantize,prune])"
    variants = make_spec(f"{PRUNE}=choice(on,off)", orders).variants
    assert [list(v.config.pipeline.order) for v in variants] == [["train", "prune", "quantize"], ["train", "quantize"]]


def test_each_method_has_its_parameters(make_spec: MakeSpec) -> None:
    space = make_spec(
        "stage@pipeline.stages.prune=choice(prune,distill)", "pipeline.stages.prune.width=interval(0.2,0.5)"
    ).make_space({})
    prune, distill = space.variants
    assert {p.path[-1] for p in space.select_parameters(prune)} == {"sparsity", "allocation", "scheme"}
    assert {p.path[-1] for p in space.select_parameters(distill)} == {"width", "scheme"}
