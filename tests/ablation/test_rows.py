"""Ablation files: what they say, and what is said of those that are wrong."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from lightexp.ablation.override_values import format_override_value
from lightexp.ablation.planners import enumerate_subsets
from lightexp.ablation.spec import AblationSpec, read_spec
from lightexp.core.errors import BadInput
from lightexp.runner.compose import compose_settings as compose

FILE = {
    "claim": "Pruning and quantising together is smaller than either.",
    "control": "control",
    "seeds": [0, 1],
    "base": ["pipeline=prune_quantize"],
    "rows": {"control": ["pipeline=control"], "both": ["pipeline.stages.prune.sparsity=0.9"]},
}


@pytest.fixture
def study(tmp_path: Path):
    def make(*overrides: str, **changes: object) -> AblationSpec:
        path = tmp_path / "07_table.yaml"
        path.write_text(yaml.safe_dump({**FILE, **changes}, sort_keys=False))
        return read_spec(path, list(overrides))

    return make


def named(study: AblationSpec) -> dict[str, tuple[str, ...]]:
    return {row.name: row.overrides[1:] for row in study.rows}


def stages(study: AblationSpec) -> dict[str, list[str]]:
    return {row.name: list(row.settings.stages) for row in study.rows}


def test_rows_have_the_base_then_the_command_line_then_their_own(study) -> None:
    found = study("dataset=mnist")
    assert found.rows[1].overrides == ("pipeline=prune_quantize", "dataset=mnist", "pipeline.stages.prune.sparsity=0.9")
    assert found.name == "07_table-dataset=mnist"
    assert study("paths.outputs=elsewhere", "tracking=none").name == "07_table"
    assert study().results == study().path.parent / "results" / "07_table"
    assert study().show.control == "control"


def test_base_overrides_of_a_stage_are_for_rows_that_have_it(study) -> None:
    base = ["pipeline=prune_quantize", "pipeline.stages.prune.epochs=3", "pipeline.stages.train.epochs=2"]
    found = study(base=base)
    assert found.rows[0].overrides == ("pipeline=prune_quantize", "pipeline.stages.train.epochs=2", "pipeline=control")
    assert found.rows[1].settings.stages["prune"].epochs == 3
    with pytest.raises(BadInput, match=r"base: pipeline.stages.prun.epochs=3: no row's pipeline has a stage 'prun'"):
        study(base=[*base, "pipeline.stages.prun.epochs=3"])


def test_grid_zip_and_operating_points(study) -> None:
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
    found = named(study(rows=rows))
    assert list(found)[1:5] == [f"g sparsity={s} scheme={q}" for s in (0.5, 0.7) for q in ("int8", "float16")]
    assert found["z prune.epochs=2 train.epochs=4"] == (
        "pipeline.stages.prune.epochs=2",
        "pipeline.stages.train.epochs=4",
    )
    assert found["p sparsity=0.3"] == ("model=lenet5", "pipeline.stages.prune.sparsity=0.3")
    assert sum(name.startswith("p ") for name in found) == 5


def test_parts_that_are_in_or_out(study) -> None:
    base = ["pipeline=distill_prune_quantize"]
    every = ["distill", "prune", "quantize"]
    rows = {"control": ["pipeline=control"], "all": {"power_set": every}}
    found = stages(study(base=base, rows=rows))
    assert found["control"] == ["train"]
    assert "all none" not in found  # it is the control
    subsets = [s for n in (1, 2, 3) for s in itertools.combinations(every, n)]
    assert found == {"control": ["train"], **{f"all {'+'.join(s)}": ["train", *s] for s in subsets}}
    found = stages(study(base=base, rows={"control": ["pipeline=control"], "out": {"leave_one_out": every}}))
    assert list(found) == [
        "control",
        "out distill+prune+quantize",
        "out prune+quantize",
        "out distill+quantize",
        "out distill+prune",
    ]
    found = stages(study(base=base, rows={"in": {"add_one_in": every}}, control="in none"))
    assert found == {"in none": ["train"], **{f"in {s}": ["train", s] for s in every}}
    parts = {"wide": ["model.width=2"], "sparse": ["pipeline.stages.prune.sparsity=0.9"]}
    found = named(study(rows={"control": ["pipeline=control"], "with": {"power_set": parts}}))
    assert found["with wide+sparse"] == ("model.width=2", "pipeline.stages.prune.sparsity=0.9")
    assert found["with none"] == ()


@given(st.lists(st.text("abc", min_size=1), unique=True, min_size=1, max_size=5))
@settings(max_examples=30)
def test_subsets_are_as_many_as_their_names_say(parts: list[str]) -> None:
    assert len(set(enumerate_subsets("power_set", parts))) == 2 ** len(parts)
    assert [len(s) for s in enumerate_subsets("leave_one_out", parts)] == [len(parts)] + [len(parts) - 1] * len(parts)
    assert [len(s) for s in enumerate_subsets("add_one_in", parts)] == [0] + [1] * len(parts)


def test_orders_that_are_refused_are_rows_with_the_reason(study) -> None:
    rows = {"control": ["pipeline=control"], "order": {"orders": ["prune", "quantize"]}}
    found = study(rows=rows).rows
    assert [row.name for row in found] == ["control", "order prune>quantize", "order quantize>prune"]
    assert found[1].refused is None
    assert "'prune' cannot follow 'quantize'" in str(found[2].refused)
    again = ["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"]
    rows["order"] = {"base": again, "orders": ["prune", "again"]}
    assert ["sparsity" in str(row.refused) for row in study(rows=rows).rows] == [False, True, False]
    rows["order"]["base"] = [*again, "pipeline.waive=[sparsity]"]
    assert [row.refused for row in study(rows=rows).rows] == [None] * 3


def test_the_equal_budget_control_trains_as_long_and_as_the_row_does(study) -> None:
    words = ["pipeline=distill_prune_quantize", "pipeline.stages.train.epochs=3", "pipeline.stages.prune.epochs=7"]
    words += ["pipeline.stages.prune.optimizer=sgd", "pipeline.stages.prune.learning_rate=0.02", "model.width=2"]
    rows = {"control": ["pipeline=control"], "all": words, "budget": {"equal_budget": "all"}}
    budget = study(rows=rows).rows[-1].settings
    assert list(budget.stages) == ["train", "as_distill", "as_prune"]
    assert [s.epochs for s in budget.stages.values()] == [3, 10, 7]
    assert (budget.stages["as_prune"].optimizer, budget.stages["as_prune"].learning_rate) == ("sgd", 0.02)
    assert budget.model == study(rows=rows).rows[1].settings.model
    assert not any(stage.compresses for stage in budget.stages.values())
    encoded = ["+stage@pipeline.stages.pack=encode", "pipeline.order=[train,distill,prune,quantize,pack]"]
    rows["all"] = [*words, *encoded]
    assert list(study(rows=rows).rows[-1].settings.stages) == ["train", "as_distill", "as_prune", "pack"]
    assert budget.stages["train"] == study(rows=rows).rows[1].settings.stages["train"]  # so the store shares it


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6)
SCALARS |= st.text("ab '\\,:=[]{}\"#", max_size=8) | st.sampled_from(["null", "True", "inf", "1e3", "a.b/c"])


@given(st.lists(st.recursive(SCALARS, lambda value: st.lists(value, max_size=3), max_leaves=4), max_size=3))
def test_values_are_written_as_hydra_reads_them(value: list[object]) -> None:
    assert OverridesParser.create().parse_override(f"a={format_override_value(value)}").value() == value


WRONG = {
    "unknown field": ({"sead": [1]}, "sead is not a setting of AblationFile: did you mean 'seed"),
    "no claim": ({"claim": ""}, "claim: String should have at least 1 character"),
    "control missing": ({"control": "kontrol"}, "control: no row is named 'kontrol'. The rows are: control, both"),
    "seeds twice": ({"seeds": [1, 2, 1]}, "seeds: 1 is there twice"),
    "seeds none": ({"seeds": []}, "seeds: List should have at least 1 item"),
    "seed negative": ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
    "row overrides nothing": ({"rows": {"control": ["pipeline=control"], "x": []}}, "rows.x overrides nothing"),
    "row overrides what is not there": (
        {"rows": {"control": ["pipeline=control"], "x": ["pipeline.stages.prune.sparsty=1"]}},
        "rows.x: pipeline.stages.prune.sparsty is not a setting: did you mean 'sparsity'?",
    ),
    "two rows the same": (
        {"rows": {"control": ["pipeline=control"], "x": ["model=lenet5"], "y": ["seed=3", "model=lenet5"]}},
        "rows.y is the same as 'x'",
    ),
    "row of a strange type": ({"rows": {"control": "pipeline=control"}}, "rows.control must be a list of overrides"),
    "planner misspelt": (
        {"rows": {"control": ["pipeline=control"], "x": {"gird": {}}}},
        "rows.x.gird is not a setting of RowPlanner: did you mean 'grid'?",
    ),
    "two planners": (
        {"rows": {"control": ["pipeline=control"], "x": {"grid": {"seed": [1]}, "orders": ["a", "b"]}}},
        "rows.x: must have exactly one of grid, zip",
    ),
    "too few points": (
        {"rows": {"control": ["pipeline=control"], "x": {"operating_points": {"model.width": [1, 2]}}}},
        "operating_points takes one field with at least 5 values",
    ),
    "zip of two lengths": (
        {"rows": {"control": ["pipeline=control"], "x": {"zip": {"model.width": [1, 2], "seed": [1]}}}},
        "zip takes lists of one length",
    ),
    "order of no stage": (
        {"rows": {"control": ["pipeline=control"], "x": {"orders": ["prune", "quantise"]}}},
        "names 'quantise', but the pipeline's order is ['train', 'prune', 'quantize']: did you mean 'quantize'?",
    ),
    "budget of no row": (
        {"rows": {"control": ["pipeline=control"], "x": {"equal_budget": "bath"}}},
        "rows.x.equal_budget: no row above is named 'bath'",
    ),
    "budget without training": (
        {"rows": {"control": ["pipeline=control"], "x": {"equal_budget": "control"}}},
        "no stage of 'control' trains after its control",
    ),
    "external without source": (
        {"external": {"x": {"figures": {"size/ratio": 40}}}},
        "external.x: External needs more",
    ),
    "external with a row's name": ({"external": {"both": {}}}, "external.both: a row has that name"),
    "column's format": ({"columns": [{"measurement": "size/ratio", "format": "{0}"}]}, "format must be such as .2%"),
    "figure unknown": ({"figures": ["piechart"]}, "figures.0: Input should be 'front'"),
    "margin negative": ({"margin": -1.0}, "margin: Input should be greater than 0"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_one_line_with_its_place(study, changes, words) -> None:
    with pytest.raises(BadInput) as caught:
        study(**changes)
    assert words in str(caught.value)
    assert "07_table.yaml: " in str(caught.value)


@pytest.mark.parametrize("text", ["", "a: [", "- x", "rows: {a: [x=1], a: [y=1]}", "\x00", "a: ${"])
def test_files_that_are_none(tmp_path, text) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"x\.yaml"):
        read_spec(path, [])
    with pytest.raises(BadInput, match="does not exist"):
        read_spec(tmp_path / "y.yaml", [])


def test_compose_of_this_file_is_the_runs(study) -> None:
    assert (
        study().rows[1].settings.stages
        == compose(["pipeline=prune_quantize", "pipeline.stages.prune.sparsity=0.9"]).stages
    )
