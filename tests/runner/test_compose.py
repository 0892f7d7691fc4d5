"""Composition of configs, compared with Hydra's own, and the user's config folders."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

import lightexp
from lightexp.core.errors import BadInput
from lightexp.runner.compose import add_config_dirs, clear_cache, compose_config
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from tests.special_files import deadline

OVERRIDES = [
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


def compose_with_hydra(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        return hydra_compose(PRIMARY_CONFIG, overrides)


@settings(max_examples=15)
@given(st.lists(st.sampled_from(OVERRIDES), max_size=8))
def test_compose_config_equals_hydra(overrides: list[str]) -> None:
    try:
        expected = compose_with_hydra(overrides)
    except Exception:  # Hydra raises many kinds
        with pytest.raises(BadInput):
            compose_config(overrides)
    else:
        expected_yaml = OmegaConf.to_yaml(expected)
        for _ in range(2):
            composed = compose_config(overrides)
            assert OmegaConf.to_yaml(composed) == expected_yaml
            assert OmegaConf.is_struct(composed) == OmegaConf.is_struct(expected)


def test_unchanged_files_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, load = compose_config(["model=lenet5", "~measure.latency"]), OmegaConf.load

    def load_other(file: Any) -> Any:
        assert find_config_dir() not in Path(file.name).parents, file.name
        return load(file)

    clear_cache()
    monkeypatch.setattr(OmegaConf, "load", load_other)
    assert compose_config(["model=lenet5", "~measure.latency"]) == first


def test_compose_config_returns_a_copy() -> None:
    first = compose_config(["model=lenet5", "seed=1"])
    first.pipeline.stages.train.epochs = 99
    assert compose_config(["model=lenet5", "seed=1"]) != first


def test_clear_cache_reads_edited_files(tmp_path: Path) -> None:
    file = tmp_path / "model" / "mine.yaml"
    file.parent.mkdir()
    overrides = [f"hydra.searchpath=[file://{tmp_path}]", "model=mine"]
    for width in (0.25, 0.5):
        file.write_text(f"defaults: [lenet5]\nwidth: {width}\n")
        clear_cache()
        assert compose_config(overrides).model.width == width
    file.write_text("defaults: [lenet5]\nwidth: nothing\n")
    with pytest.raises(BadInput, match="width"):
        lightexp.run(overrides)


@pytest.fixture
def clear_hydra() -> Iterator[None]:
    """Clear the config folders and Hydra's global state after the test."""
    yield
    add_config_dirs([])
    GlobalHydra.instance().clear()


def test_add_config_dirs_finds_the_users_configs(tmp_path: Path, clear_hydra: None) -> None:
    for name, text in (("mine", "width: 0.25"), ("lenet5", "width: 9")):
        file = tmp_path / "model" / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{text}\n")
    add_config_dirs([str(tmp_path)])
    assert compose_config(["model=mine"]).model.width == 0.25
    assert (
        compose_config(["model=lenet5"]).model.width == 1.0
    )  # lightexp's config takes precedence over one of the same name
    add_config_dirs([])
    with pytest.raises(BadInput, match=r"model=mine: no such choice"):
        compose_config(["model=mine"])


@pytest.mark.parametrize("primary", [PRIMARY_CONFIG, "search"])
def test_preset_sets_what_is_in_no_group(tmp_path: Path, clear_hydra: None, primary: str) -> None:
    (tmp_path / "experiment").mkdir()
    preset = {"seed": 3, "store": {"remote": "file:///shared"}, "paths": {"outputs": "mine"}, "runtime": {"threads": 2}}
    text = f"# @package _global_\n{OmegaConf.to_yaml(OmegaConf.create(preset))}"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    add_config_dirs([str(tmp_path)])
    config = compose_config(["experiment=mine", "runtime.threads=1"], primary)
    assert (config.seed, config.store.remote, config.paths.outputs) == (3, "file:///shared", "mine")
    assert config.runtime.threads == 1
    add_config_dirs([])


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_add_config_dirs_refuses_a_missing_folder(folder: str) -> None:
    with pytest.raises(BadInput, match=f"--config-dir={folder} is not a folder. Name one that holds"):
        add_config_dirs([folder])


def test_config_whose_aliases_have_no_end_is_refused(tmp_path: Path) -> None:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "bomb.yaml").write_text("\n".join(["a0: &a0 [x, x]", *lines]))
    add_config_dirs([str(tmp_path)])
    try:
        with deadline(), pytest.raises(BadInput, match=r"bomb\.yaml cannot be used as a config: its aliases stand for"):
            compose_config(["model=bomb"])
    finally:
        add_config_dirs([])
        GlobalHydra.instance().clear()


@pytest.mark.parametrize("value", ["größe", "a=b", "#1", "(x)", "it's", 'say "x"', "a!b", "x\\y=z"])
def test_wrong_value_is_answered_with_the_right_quotes(value: str) -> None:
    with pytest.raises(BadInput, match=r"between quotes, which the shell must leave alone\. Write ") as error:
        compose_config([f"tracking.experiment={value}"])
    [suggested] = shlex.split(str(error.value).partition("Write ")[2].removesuffix("."))
    assert compose_config([suggested]).tracking.experiment == value


def test_wrong_list_is_not_answered_as_text() -> None:
    with pytest.raises(BadInput, match=r"Quote what holds '='"):
        compose_config(["pipeline.order=[a=b]"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: }", r"mine\.yaml cannot be read as YAML: .* in line 2"),
        ("- a", r"mine\.yaml must hold settings as a m"),
    ],
)
def test_config_that_is_no_mapping_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(text)
    add_config_dirs([str(tmp_path)])
    try:
        with pytest.raises(BadInput, match=message):
            compose_config(["model=mine"])
    finally:
        add_config_dirs([])
        GlobalHydra.instance().clear()
