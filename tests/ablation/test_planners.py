"""Row planners: which rows each kind makes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.ablation.planners import enumerate_subsets
from lightexp.ablation.spec import AblationSpec

MakeSpec = Callable[..., AblationSpec]


def own_overrides(spec: AblationSpec) -> dict[str, tuple[str, ...]]:
    """Each row's overrides but the first two, which all rows share: the number of threads, and the file's base."""
    return {row.name: row.overrides[2:] for row in spec.rows}


def stage_names(spec: AblationSpec) -> dict[str, list[str]]:
    return {row.name: list(row.settings.stages) for row in spec.rows}


def test_grid_zip_and_points_combine_values(make_spec: MakeSpec) -> None:
    rows = {
        "control": ["pipeline=control"],
        "g": {
            "grid": {
                "pipeline.stages.prune.sparsity": [0.5, 0.7],
                "pipeline.stages.quantize.scheme": ["int8", "float16"],
            }
        },
        "z": {"zip": {"pipeline.stages.prune.epochs": [1, 2], "pipeline.stages.train.epochs": [3, 4]}},
        "p": {
            "base": ["model=lenet5"],
            "operating_points": {"pipeline.stages.prune.sparsity": [0.1, 0.2, 0.3, 0.4, 0.5]},
        },
    }
    rows_by_name = own_overrides(make_spec(rows=rows))
    assert list(rows_by_name)[1:5] == [f"g sparsity={s} scheme={q}" for s in (0.5, 0.7) for q in ("int8", "float16")]
    assert rows_by_name["z prune.epochs=2 train.epochs=4"] == (
        "pipeline.stages.prune.epochs=2",
        "pipeline.stages.train.epochs=4",
    )
    assert rows_by_name["p sparsity=0.3"] == ("model=lenet5", "pipeline.stages.prune.sparsity=0.3")
    assert sum(name.startswith("p ") for name in rows_by_name) == 5


def test_subset_planners_include_parts(make_spec: MakeSpec) -> None:
    base = ["pipeline=distill_prune_quantize"]
    every = ["distill", "prune", "quantize"]
    rows = {"control": ["pipeline=control"], "all": {"power_set": every}}
    stages = stage_names(make_spec(base=base, rows=rows))
    assert stages["control"] == ["train"]
    assert "all none" not in stages  # it is the control
    subsets = [s for n in (1, 2, 3) for s in itertools.combinations(every, n)]
    assert stages == {"control": ["train"], **{f"all {'+'.join(s)}": ["train", *s] for s in subsets}}
    stages = stage_names(make_spec(base=base, rows={"control": ["pipeline=control"], "out": {"leave_one_out": every}}))
    assert list(stages) == [
        "control",
        "out distill+prune+quantize",
        "out prune+quantize",
        "out distill+quantize",
        "out distill+prune",
    ]
    stages = stage_names(make_spec(base=base, rows={"in": {"add_one_in": every}}, control="in none"))
    assert stages == {"in none": ["train"], **{f"in {s}": ["train", s] for s in every}}
    parts = {"wide": ["model.width=2"], "sparse": ["pipeline.stages.prune.sparsity=0.9"]}
    overrides = own_overrides(make_spec(rows={"control": ["pipeline=control"], "with": {"power_set": parts}}))
    assert overrides["with wide+sparse"] == ("model.width=2", "pipeline.stages.prune.sparsity=0.9")
    assert overrides["with none"] == ()


@given(st.lists(st.text("abc", min_size=1), unique=True, min_size=1, max_size=5))
@settings(max_examples=30)
def test_enumerate_subsets_yields_every_subset_once(parts: list[str]) -> None:
    assert len(set(enumerate_subsets("power_set", parts))) == 2 ** len(parts)
    assert [len(s) for s in enumerate_subsets("leave_one_out", parts)] == [len(parts)] + [len(parts) - 1] * len(parts)
    assert [len(s) for s in enumerate_subsets("add_one_in", parts)] == [0] + [1] * len(parts)


def test_refused_order_is_a_row_with_the_reason(make_spec: MakeSpec) -> None:
    rows = {"control": ["pipeline=control"], "order": {"orders": ["prune", "quantize"]}}
    expanded = make_spec(rows=rows).rows
    assert [row.name for row in expanded] == ["control", "order prune>quantize", "order quantize>prune"]
    assert expanded[1].refused is None
    assert "'prune' cannot follow 'quantize'" in str(expanded[2].refused)
    again = ["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"]
    rows["order"] = {"base": again, "orders": ["prune", "again"]}
    assert ["sparsity" in str(row.refused) for row in make_spec(rows=rows).rows] == [False, True, False]
    rows["order"]["base"] = [*again, "pipeline.waive=[sparsity]"]
    assert [row.refused for row in make_spec(rows=rows).rows] == [None] * 3


def test_equal_budget_control_trains_as_the_row_does(make_spec: MakeSpec) -> None:
    overrides = ["pipeline=distill_prune_quantize", "pipeline.stages.train.epochs=3", "pipeline.stages.prune.epochs=7"]
    overrides += ["pipeline.stages.prune.optimizer=sgd", "pipeline.stages.prune.learning_rate=0.02", "model.width=2"]
    rows = {"control": ["pipeline=control"], "all": overrides, "budget": {"equal_budget": "all"}}
    budget = make_spec(rows=rows).rows[-1].settings
    assert list(budget.stages) == ["train", "as_distill", "as_prune"]
    assert [s.epochs for s in budget.stages.values()] == [3, 10, 7]
    assert (budget.stages["as_prune"].optimizer, budget.stages["as_prune"].learning_rate) == ("sgd", 0.02)
    assert budget.model == make_spec(rows=rows).rows[1].settings.model
    assert not any(stage.compresses for stage in budget.stages.values())
    encoded = ["+stage@pipeline.stages.pack=encode", "pipeline.order=[train,distill,prune,quantize,pack]"]
    rows["all"] = [*overrides, *encoded]
    assert list(make_spec(rows=rows).rows[-1].settings.stages) == ["train", "as_distill", "as_prune", "pack"]
    assert budget.stages["train"] == make_spec(rows=rows).rows[1].settings.stages["train"]  # so the store shares it
