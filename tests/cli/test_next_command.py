"""The command that a finished run proposes can change its results, and can be composed."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from lightexp.cli.next_command import suggest_next
from lightexp.core.record import Record, StageRecord
from lightexp.runner.compose import compose_config

TRAIN = {"_target_": "lightexp.stages.train.Train"}
PRUNE = {"_target_": "lightexp.stages.prune.Prune", "n": None}
QUANTIZE = {"_target_": "lightexp.stages.quantize.Quantize"}
HISTORY = {"history": {"accuracy": [0.5]}}


def make_record(varied: list[str], facts: dict[str, Any], **stages: Any) -> Record:
    """Return the record of a run with some stages, `facts` being those of its first."""
    command = shlex.join(["lightexp", "run", *varied])
    records = [StageRecord(name, name, False, 1.0, facts=facts if n == 0 else {}) for n, name in enumerate(stages)]
    config = {"pipeline": {"stages": {**stages, "unused": PRUNE}}}
    return Record("id", "name", command, config, varied, {}, 0.0, stages=records)


@pytest.mark.parametrize(
    ("record", "sweep"),
    [
        (make_record([], HISTORY, train=TRAIN, prune=PRUNE), "pipeline.stages.prune.sparsity=0.5,0.8,0.95"),
        (make_record([], HISTORY, train=TRAIN, prune=PRUNE | {"n": 2}), "seed=0,1,2"),
        (make_record([], HISTORY, train=TRAIN, prune=QUANTIZE), "seed=0,1,2"),
        (make_record([], {}, file={}, quantize=QUANTIZE), "pipeline.stages.quantize.scheme=float16,dynamic,int8"),
    ],
)
def test_suggest_next_names_a_setting_that_matters(record: Record, sweep: str) -> None:
    suggested = suggest_next(record)
    assert suggested is not None
    assert shlex.split(suggested)[2:] == ["-m", sweep]
    name, _, values = sweep.partition("=")
    compose_config(["pipeline=prune_quantize", f"{name}={values.partition(',')[0]}"])


def test_suggest_next_replaces_what_was_set() -> None:
    record = make_record(["seed=1", "model=lenet5"], HISTORY, train=TRAIN)
    assert suggest_next(record) == "lightexp run -m model=lenet5 seed=0,1,2"


def test_suggest_next_is_silent_where_nothing_would_change() -> None:
    assert suggest_next(make_record([], {}, file={})) is None
