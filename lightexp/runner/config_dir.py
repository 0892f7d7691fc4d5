"""Find the folder of lightexp's configs. Imports nothing slow, since `--help` uses it."""

from __future__ import annotations

from pathlib import Path

PRIMARY_CONFIG = "run"


def find_config_dir() -> Path:
    """Return the folder of lightexp's configs: in the package where installed, next to it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "_conf"
    return shipped if shipped.is_dir() else package.parent / "conf"
