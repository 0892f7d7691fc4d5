"""An ablation's file: what is refused, and where the message says the mistake is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.ablation.spec import AblationSpec, read_spec
from lightexp.core.errors import BadInput
from lightexp.runner.compose import compose_settings
from tests.fuzz import mutate

MakeSpec = Callable[..., AblationSpec]


WRONG = {
    "unknown field": ({"sead": [1]}, "sead is not a setting of AblationFile: did you mean 'seed"),
    "no claim": ({"claim": ""}, "claim: String should have at least 1 character"),
    "control missing": ({"control": "kontrol"}, "control: no row is named 'kontrol'. The rows are: control, both"),
    "seeds twice": ({"seeds": [1, 2, 1]}, "seeds: 1 is listed twice"),
    "seeds none": ({"seeds": []}, "seeds: List should have at least 1 item"),
    "seed negative": ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
    "row overrides nothing": ({"rows": {"control": ["pipeline=control"], "x": []}}, "rows.x overrides nothing"),
    "row overrides an unknown setting": (
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
    **{
        f"{planner} of nothing": (
            {"rows": {"control": ["pipeline=control"], "x": {planner: {}}}},
            f"rows.x.{planner}: Dictionary should have at least 1 item",
        )
        for planner in ("grid", "zip")
    },
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
        "external.x: PublishedRow needs more",
    ),
    "external with a row's name": ({"external": {"both": {}}}, "external.both: a row has that name"),
    "column's format": ({"columns": [{"measurement": "size/ratio", "format": "{0}"}]}, "format must be such as .2%"),
    "figure unknown": ({"figures": ["piechart"]}, "figures.0: Input should be 'front'"),
    "margin negative": ({"margin": -1.0}, "margin: Input should be greater than 0"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_mistake_is_one_line_with_its_place(make_spec: MakeSpec, changes: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        make_spec(**changes)
    assert message in str(refused.value)
    assert "07_table.yaml: " in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "a: [", "- x", "rows: {a: [x=1], a: [y=1]}", "\x00", "a: ${", "a: &a [*a]", "[" * 10_000]
)
def test_file_that_is_no_ablation_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"x\.yaml"):
        read_spec(path, [])
    with pytest.raises(BadInput, match="does not exist"):
        read_spec(tmp_path / "y.yaml", [])


def test_row_settings_are_those_of_its_overrides(make_spec: MakeSpec) -> None:
    assert (
        make_spec().rows[1].settings.stages
        == compose_settings(["pipeline=prune_quantize", "pipeline.stages.prune.sparsity=0.9"]).stages
    )


def test_runs_compute_with_one_thread_by_default(make_spec: MakeSpec) -> None:
    assert {row.settings.threads for row in make_spec().rows} == {1}
    assert {row.settings.threads for row in make_spec(base=["runtime.threads=3"]).rows} == {3}


def test_mutants_of_a_file_are_read_or_refused_in_one_line(tmp_path: Path, mutants: int) -> None:
    path, refused = tmp_path / "table.yaml", 0
    column = {"measurement": "size/ratio", "heading": "h", "format": ".1f", "direction": "max"}
    published = {"other": {"source": "s", "figures": {"accuracy/test": 0.9}}}
    tree = {
        "claim": "c",
        "control": "a",
        "seeds": [0],
        "margin": 1.0,
        "figures": ["front"],
        "cost": "1 h",
        "rows": {"a": ["pipeline=control"], "b": {"grid": {"model.width": [0.5, 1]}}},
        "columns": [column],
        "base": ["seed=1"],
        "external": published,
    }
    path.write_text(json.dumps(tree), encoding="utf-8")
    assert len(read_spec(path, []).rows) == 3
    for change, mutant in mutate(tree, mutants // 5):
        path.write_text(json.dumps(mutant), encoding="utf-8")
        try:
            read_spec(path, [])
        except BadInput as error:
            refused += len(str(error)) < 2500
        except Exception as error:
            raise AssertionError(change) from error
    assert refused
