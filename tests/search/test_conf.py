"""The contract of presets, of stages' default ranges and of what measurements say they give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from lightexp.core.config import locate
from lightexp.runner.compose import add_config_dirs
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.order import check_order
from lightexp.runner.settings import read_settings
from lightexp.search.ranges import parse_parameter
from lightexp.search.settings import SearchSettings
from lightexp.search.study_spec import StudySpec
from tests.tiny_runs import TinyRuns

PRESETS = sorted(path.stem for path in (find_config_dir() / "search").glob("[!_]*.yaml"))
STAGES = sorted(path.stem for path in (find_config_dir() / "stage").glob("[!_]*.yaml"))
MakeSpec = Callable[..., StudySpec]


def test_the_settings_are_the_fields_with_their_defaults() -> None:
    node = OmegaConf.to_container(OmegaConf.load(find_config_dir() / "search" / "_settings.yaml"))
    known = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(SearchSettings)}
    presets = {"objectives": ["accuracy/val", "size/file_bytes"], "corners": ["recipe", "int8", "strongest"]}
    assert node == known | presets


def test_the_sweepers_fields_are_the_settings() -> None:
    add_config_dirs([])
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    words = ["hydra/sweeper=lightexp"]
    config = hydra.compose_config("run", words, RunMode.MULTIRUN, with_log_configuration=False)
    node = OmegaConf.to_container(config.hydra.sweeper)
    assert node.pop("_target_") == "hydra_plugins.lightexp_sweeper.LightexpSweeper"
    assert node == OmegaConf.to_container(OmegaConf.load(find_config_dir() / "search" / "_settings.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_space_and_corners_that_can_run(make_spec: MakeSpec, preset: str) -> None:
    spec = make_spec(f"search={preset}")
    spec.check()
    layers = {name: ["one"] for name in spec.search.per_layer}
    space = spec.make_space(layers)
    assert space.parameters
    corners = spec.make_seed_trials(space)
    assert corners
    for corner in corners:
        check_order(spec.make_trial_settings(corner.config))


@pytest.mark.parametrize("name", STAGES)
def test_a_stages_default_ranges_are_of_its_fields_and_can_be_proposed(name: str) -> None:
    node = OmegaConf.load(find_config_dir() / "stage" / f"{name}.yaml")
    cls = locate(node._target_, name)
    known = {f.name for f in fields(cls)}
    assert set(cls.search) <= known
    unchanged = name == "sensitivity"  # leaves the model as it is
    assert cls.search or not cls.compresses or not known or unchanged, "search.space=auto has nothing to search of it"
    for field, values in cls.search.items():
        read_as = parse_parameter((name, field), values.values, node.get(field), values.strongest)
        assert values.strongest is None or read_as.find_strongest() == values.strongest


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("train", "distill", "encode", "sensitivity")])
def test_a_default_ranges_ends_are_values_of_the_field(make_spec: MakeSpec, name: str) -> None:
    make_spec("search.space=auto", f"stage@pipeline.stages.prune={name}", "pipeline.order=[train,prune]").make_space({})


OF_RUNS = ("time/train_s",)  # and a class's accuracy, whose name is the data's


def test_measurements_give_what_they_say(tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run("pipeline=control", "measure=default")
    settings = read_settings(OmegaConf.create(record.config))
    said = {name: way for m in settings.measure.values() for name, way in m.gives.items()}
    found = {f.name: f.direction for f in record.stages[-1].metrics if f.name not in OF_RUNS and "class" not in f.name}
    assert found.items() <= said.items()
