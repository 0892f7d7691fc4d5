"""Where the configs are. Imports nothing heavy: `--help` comes through here."""

from __future__ import annotations

from pathlib import Path

PRIMARY_CONFIG = "run"


def find_config_dir() -> Path:
    """The folder of lightexp's own configs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "_conf"
    return shipped if shipped.is_dir() else package.parent / "conf"
