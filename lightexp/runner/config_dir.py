"""Where the configs are. Imports nothing heavy: `--help` comes through here."""

from __future__ import annotations

from pathlib import Path

import lightexp

PRIMARY_CONFIG = "run"


def find_config_dir() -> Path:
    """The folder of lightexp's own configs: inside an installed package, beside it in a checkout."""
    package = Path(lightexp.__file__).parent
    shipped = package / "_conf"
    return shipped if shipped.is_dir() else package.parent / "conf"
