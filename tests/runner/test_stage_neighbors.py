"""Which stages may be next to each other."""

from __future__ import annotations

from lightexp.runner.config_groups import ConfigGroups
from lightexp.runner.stage_neighbors import find_neighbors, load_stages

GROUPS = ConfigGroups()
STAGES = load_stages({name: GROUPS.find_file("stage", name) for name in GROUPS.list_choices("stage")})


def test_load_stages_builds_every_shipped_stage() -> None:
    assert list(STAGES) == GROUPS.list_choices("stage")


def test_neighbors_of_prune() -> None:
    neighbors = find_neighbors("prune", STAGES)
    assert {"train", "prune_channels"} <= set(neighbors.before)
    assert {"cluster", "qat", "quantize", "encode"} <= set(neighbors.after)
    assert neighbors.refused_after["train"] == "train would undo the sparsity"
    assert neighbors.refused_before["quantize"] == "prune starts from the form keras"
    assert {*neighbors.before, *neighbors.refused_before} == set(STAGES)


def test_nothing_follows_encode() -> None:
    assert find_neighbors("encode", STAGES).after == []
