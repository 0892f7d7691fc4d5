"""Tests of what lightexp relies on in other libraries' private attributes."""

from __future__ import annotations

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from lightexp.core import compat
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir


def test_list_hydra_flags_says_which_have_values() -> None:
    flags = compat.list_hydra_flags()
    assert not flags["--multirun", "-m"]
    assert flags["--cfg", "-c"]
    assert not flags["--info", "-i"]


def test_complete_with_hydra_offers_groups_and_choices() -> None:
    with initialize_config_dir(str(find_config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert "dataset=digits" in compat.complete_with_hydra(loader, PRIMARY_CONFIG, "seed=1 dataset=")
