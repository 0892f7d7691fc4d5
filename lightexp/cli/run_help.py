"""The help of `lightexp run`, printed without Hydra, which takes most of a second for it."""

from __future__ import annotations

import yaml  # type: ignore[import-untyped]

from lightexp.cli.printing import print_line
from lightexp.runner.config_dir import PRIMARY_CONFIG, find_config_dir
from lightexp.runner.config_groups import ConfigGroups

HELP_FLAGS = ("-h", "--help")


def print_help() -> None:
    """Print the template that Hydra would print, with the groups and their choices."""
    text = (find_config_dir() / f"{PRIMARY_CONFIG}.yaml").read_text(encoding="utf-8")
    template = yaml.load(text, Loader=yaml.CSafeLoader)["hydra"]["help"]["template"]
    shipped = ConfigGroups()
    groups = (f"{group}: {', '.join(shipped.list_choices(group))}" for group in shipped.list_groups())
    print_line(template.rstrip().replace("$APP_CONFIG_GROUPS", "\n".join(groups) + "\n"))
