"""Rows: the order of their overrides, and shared overrides of stages that only some rows have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lightexp.ablation.spec import AblationSpec
from lightexp.core.errors import BadInput

MakeSpec = Callable[..., AblationSpec]


def test_row_composes_base_then_command_line_then_its_own(make_spec: MakeSpec) -> None:
    spec = make_spec("dataset=mnist")
    shared = ("runtime.threads=1", "pipeline=prune_quantize", "dataset=mnist")
    assert spec.rows[1].overrides == (*shared, "pipeline.stages.prune.sparsity=0.9")
    assert spec.name == "07_table-dataset=mnist"
    assert make_spec("paths.outputs=elsewhere", "tracking=none").name == "07_table"
    assert make_spec().results == make_spec().path.parent / "results" / "07_table"
    assert make_spec().show.control == "control"


def test_stage_overrides_apply_to_rows_with_that_stage(make_spec: MakeSpec) -> None:
    base = ["pipeline=prune_quantize", "pipeline.stages.prune.epochs=3", "pipeline.stages.train.epochs=2"]
    spec = make_spec(base=base)
    shared = ("runtime.threads=1", "pipeline=prune_quantize", "pipeline.stages.train.epochs=2")
    assert spec.rows[0].overrides == (*shared, "pipeline=control")
    assert spec.rows[1].settings.stages["prune"].epochs == 3
    with pytest.raises(BadInput, match=r"base: pipeline.stages.prun.epochs=3: no row's pipeline has a stage 'prun'"):
        make_spec(base=[*base, "pipeline.stages.prun.epochs=3"])
