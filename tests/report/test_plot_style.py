"""Style of all plots: text on logarithmic axes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.formatting import format_binary_bytes
from lightexp.report.plot_style import save_figure, set_log_scale
from tests.documents import ROOT


def test_set_log_scale_writes_plain_text(tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    with save_figure(path) as figure:
        axes = figure.add_subplot()
        axes.plot([1024, 65_536], [0.002, 3.0])
        assert axes.get_axisbelow() is True  # bars hide the grid
        set_log_scale(axes, "x", format_binary_bytes)
        set_log_scale(axes, "y", "{:g}".format, base=10)
    svg = path.read_text()
    assert "mathdefault" not in svg
    assert ">64 KiB<" in svg
    assert ">0.01<" in svg


@pytest.mark.parametrize("folder", ["lightexp", "experiments"])
def test_logarithmic_axes_are_set_in_one_place(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*.py") if path.name != "plot_style.py"]
    scaled = [path for path in files if 'scale("log"' in path.read_text(encoding="utf-8")]
    assert files
    assert scaled == []
