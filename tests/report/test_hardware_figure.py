"""`experiments/hardware_figure.py`: the committed table and figure of all nets are those of the committed results."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.report.committed import EXPERIMENTS

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """Return the script as a module."""
    spec = importlib.util.spec_from_file_location("hardware_figure", EXPERIMENTS / "hardware_figure.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["hardware_figure"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["hardware_figure"]


@pytest.fixture(scope="module")
def tables(script: ModuleType) -> dict[str, Any]:
    return {net: script.read_table(net) for net in script.NETS}


def test_committed_table_is_that_of_the_results(script: ModuleType, tables: dict[str, Any]) -> None:
    assert (script.OUTPUT / "table.md").read_text(encoding="utf-8") == script.format_table(tables)


def test_all_nets_have_the_same_rows_and_columns(script: ModuleType, tables: dict[str, Any]) -> None:
    files = {path.stem.removeprefix("09_hardware_"): path for path in EXPERIMENTS.glob("09_hardware_*.yaml")}
    assert set(files) == set(script.NETS)
    contents = {net: yaml.safe_load(path.read_text(encoding="utf-8")) for net, path in files.items()}
    for net, content in contents.items():
        assert list(content["rows"]) == list(tables[net]), net
        assert content["columns"] == contents["resnet8"]["columns"]
        assert content["seeds"] == [0, 1, 2]


def test_each_panel_has_every_row_of_its_net(script: ModuleType, tables: dict[str, Any]) -> None:
    panels = script.draw_figure(tables).axes
    assert len(panels) == len(script.NETS) * len(script.TARGETS)
    for panel, (table, target) in zip(panels, ((t, n) for t in tables.values() for n in script.TARGETS), strict=True):
        rows = [row for row, cells in table.items() if script.name_metric(target) in cells]
        assert set(rows) == set(script.LABELS)
        assert sorted(container.lines[0].get_xdata()[0] for container in panel.containers) == sorted(
            table[row][script.name_metric(target)].mean for row in rows
        )
