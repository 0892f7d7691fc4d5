"""What `lightexp.core.hydra_mode` relies on; `test_compat.py` tests it with Hydra."""

from __future__ import annotations

from omegaconf import OmegaConf

from lightexp.runner.config_dir import find_config_dir


def test_no_shipped_config_sets_the_mode() -> None:
    files = sorted(find_config_dir().rglob("*.yaml"))
    assert files
    assert [file for file in files if OmegaConf.select(OmegaConf.load(file), "hydra.mode") is not None] == []
