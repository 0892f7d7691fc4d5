"""Configs composed in part from what was composed before are what Hydra composes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose as by_hydra
from hydra import initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

import lightexp
from lightexp.core.errors import BadInput
from lightexp.runner.compose import clear_cache, compose_config
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir

WORDS = [
    "pipeline=prune_quantize",
    "pipeline=distill",
    "model=lenet_300_100",
    "model.width=0.5",
    "seed=3",
    "dataset=arrays",
    "dataset.path=${oc.env:HOME}/x.npz",
    "stage@pipeline.stages.prune=prune_channels",
    "+stage@pipeline.stages.encode=encode",
    "pipeline.order=[train,prune,encode]",
    "pipeline.stages.train.epochs=7",
    "pipeline.stages.train.epochs=2",
    "pipeline.stages.prune.layers={conv*: 0.5}",
    "+pipeline.stages.prune.layers.dense=0.25",
    "++pipeline.stages.train.epochs=9",
    "pipeline.stages.prune.layers={}",
    "~measure.latency",
    "measure.latency.runs=20",
    "experiment=article_prune",
    "tags={a: 1}",
    "paths.outputs='a, b'",
]


def whole(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        return by_hydra(PRIMARY_CONFIG, overrides)


@settings(max_examples=15)
@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_any_overrides_in_any_order_are_what_hydra_makes_of_them(overrides: list[str]) -> None:
    try:
        expected = whole(overrides)
    except Exception:  # of many kinds
        with pytest.raises(BadInput):
            compose_config(overrides)
        return
    for _ in range(2):
        found = compose_config(overrides)
        assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
        assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)


def test_what_one_caller_changes_no_other_sees() -> None:
    first = compose_config(["model=lenet5", "seed=1"])
    first.pipeline.stages.train.epochs = 99
    assert compose_config(["model=lenet5", "seed=1"]) != first


def test_an_edited_config_counts_once_what_was_read_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "model" / "mine.yaml"
    file.parent.mkdir()
    words = [f"hydra.searchpath=[file://{tmp_path}]", "model=mine"]
    for width in (0.25, 0.5):
        file.write_text(f"defaults: [lenet5]\nwidth: {width}\n")
        clear_cache()
        assert compose_config(words).model.width == width
    file.write_text("defaults: [lenet5]\nwidth: nothing\n")
    with pytest.raises(BadInput, match="width"):
        lightexp.run(words)
