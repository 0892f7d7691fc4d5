"""What is said of a choice's settings: its composed values, class texts, comments, ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.runner.choice_settings import (
    SettingDescription,
    compose_choice,
    describe_settings,
    list_changes,
    read_comments,
)
from lightexp.runner.config_groups import ConfigGroups, read_purpose

GROUPS = ConfigGroups()


def describe(group: str, choice: str) -> dict[str, SettingDescription]:
    """Return the settings of a shipped choice by name."""
    path = GROUPS.find_file(group, choice)
    settings = describe_settings(compose_choice(group, path), path)
    return {setting.name: setting for setting in settings}


def test_stage_has_composed_defaults_and_ranges() -> None:
    settings = describe("stage", "rate")
    assert settings["epochs"].default == "60"  # of the file, where the class has 10
    assert settings["objective"].type == "choice of the group objective"
    assert settings["objective"].default == "cross_entropy"
    sparsity = describe("stage", "prune")["sparsity"]
    assert (sparsity.bounds, sparsity.search) == ("≥ 0, < 1", "interval(0.5, 0.98)")


def test_nested_settings_have_dotted_names() -> None:
    settings = describe("dataset", "digits")
    assert settings["scaling.range"].type == "list of numbers or null"
    assert "mirrored" in settings["augment.flip"].text


def test_pipeline_names_its_stages_and_their_changes() -> None:
    settings = describe("pipeline", "prune_int8")
    assert settings["stages.quantize"].default == "quantize"
    assert settings["stages.quantize"].text == "Here with scheme=int8."
    assert settings["order"].default == "[train, prune, quantize]"


def test_node_without_class_has_comments() -> None:
    settings = describe("search", "mixed_precision")
    assert settings["trials"].text == "of the complete study, over all commands and hosts"
    assert settings["space.pipeline.stages.quantize.layers"].default == "choice(32, 8, 4)"


def test_read_comments_follows_indentation_and_includes(tmp_path: Path) -> None:
    (tmp_path / "_part.yaml").write_text("a: 1 # from the part\n")
    file = tmp_path / "x.yaml"
    file.write_text("# purpose\ndefaults:\n  - _part\n  - _self_\nb:\n  c: 'x#y' # inner\nd: 2\n")
    assert read_comments(file) == {"a": "from the part", "b.c": "inner"}
    assert read_purpose(file) == ["purpose"]


def test_list_changes_of_a_preset() -> None:
    changes = list_changes(GROUPS.find_file("experiment", "article_prune"))
    assert list(changes)[:3] == ["dataset", "model", "pipeline"]
    assert changes["pipeline.stages.prune.sparsity"] == "0.9"


def test_config_groups_include_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "stage" / "round.yaml").write_text("_target_: x.Y\n")
    (tmp_path / "stage" / "prune.yaml").write_text("_target_: x.Prune\n")
    groups = ConfigGroups([str(tmp_path)])
    assert "round" in groups.list_choices("stage")
    assert groups.find_file("stage", "prune") == GROUPS.find_file("stage", "prune")  # lightexp's own counts
    assert "mine" not in groups.list_groups()  # it holds no choice
    with pytest.raises(BadInput, match="'round'"):
        groups.find_file("stage", "roundd")
