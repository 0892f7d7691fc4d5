"""Contracts of search presets, of stages' default ranges and of the metrics that measurements declare."""

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


def test_settings_file_holds_the_fields_defaults() -> None:
    node = OmegaConf.to_container(OmegaConf.load(find_config_dir() / "search" / "_settings.yaml"))
    known = {f.name: f.default if f.default is not MISSING else f.default_factory() for f in fields(SearchSettings)}
    presets = {"objectives": ["primary/val", "size/file_bytes"], "corners": ["recipe", "int8", "strongest"]}
    assert node == known | presets


def test_sweeper_has_the_fields_of_the_settings() -> None:
    add_config_dirs([])
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    overrides = ["hydra/sweeper=lightexp"]
    config = hydra.compose_config("run", overrides, RunMode.MULTIRUN, with_log_configuration=False)
    node = OmegaConf.to_container(config.hydra.sweeper)
    assert node.pop("_target_") == "hydra_plugins.lightexp_sweeper.LightexpSweeper"
    assert node == OmegaConf.to_container(OmegaConf.load(find_config_dir() / "search" / "_settings.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_space_and_seed_trials(make_spec: MakeSpec, preset: str) -> None:
    spec = make_spec(f"search={preset}")
    spec.check()
    layers = {name: ["one"] for name in spec.search.per_layer}
    space = spec.make_space(layers)
    assert space.parameters
    seed_trials = spec.make_seed_trials(space)
    assert seed_trials
    for seed_trial in seed_trials:
        check_order(spec.make_trial_settings(seed_trial.config))


@pytest.mark.parametrize("name", STAGES)
def test_default_ranges_name_fields_of_their_stage(name: str) -> None:
    node = OmegaConf.load(find_config_dir() / "stage" / f"{name}.yaml")
    cls = locate(node._target_, name)
    known = {f.name for f in fields(cls)}
    assert set(cls.search) <= known
    changes_model = cls.compresses and name != "sensitivity"
    assert cls.search or not changes_model or not known, "search.space=auto has nothing to search of it"
    for field, default in cls.search.items():
        parameter = parse_parameter((name, field), default.values, node.get(field), default.strongest)
        assert default.strongest is None or parameter.find_strongest() == default.strongest


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("train", "distill", "encode", "sensitivity")])
def test_default_ranges_end_in_valid_values(make_spec: MakeSpec, name: str) -> None:
    make_spec("search.space=auto", f"stage@pipeline.stages.prune={name}", "pipeline.order=[train,prune]").make_space({})


def test_measurements_give_the_metrics_they_declare(tiny_runs: TinyRuns) -> None:
    record = tiny_runs.run("pipeline=control", "measure=default")
    settings = read_settings(OmegaConf.create(record.config))
    declared = {}
    for measurement in settings.measure.values():
        declared |= measurement.list_metrics(settings.task)
    # The runner measures the time; a class's accuracy is named after the class.
    measured = {m.name: m.direction for m in record.stages[-1].metrics if m.name != "time/train_s"}
    assert {name: way for name, way in measured.items() if "class" not in name}.items() <= declared.items()
