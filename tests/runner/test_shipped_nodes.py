"""Nodes of shipped choices, composed as Hydra does."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from lightexp.runner.compose import compose_config
from lightexp.runner.config_groups import ConfigGroups, sets_complete_config
from lightexp.runner.shipped_nodes import load_shipped_node

GROUPS = ConfigGroups()


@pytest.mark.parametrize("group", GROUPS.list_groups())
def test_nodes_of_a_group_equal_hydras(group: str) -> None:
    names = [name for name in GROUPS.list_choices(group) if not sets_complete_config(GROUPS.find_file(group, name))]
    if group == "search":
        expected = {name: compose_config([f"search={name}"], "search")["search"] for name in names}
    else:
        composed = compose_config([f"+{group}@composed.{name}={name}" for name in names])
        expected = composed.get("composed", {})
    assert set(expected) == set(names)
    for name in names:
        assert load_shipped_node(group, name) == OmegaConf.to_container(expected[name], resolve=False)
