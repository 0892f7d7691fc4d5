"""Table and heat map of a run's `sensitivity` stage."""

from __future__ import annotations

import csv
from pathlib import Path

from lightexp.report import heatmap
from tests.synthetic import synthesize_record

LAYERS = {
    "conv": {"names": ["conv"], "weights": 100, "levels": {"sparsity": {"0.5": 0.9, "0.9": 0.5}, "bits": {"8": 0.875}}},
    "<dense>": {"names": ["<dense>"], "weights": 9, "levels": {"bits": {"8": 0.9}}},
}


def test_write_leaves_a_table_and_a_heat_map(tmp_path: Path) -> None:
    measured = synthesize_record()
    measured.stages[0].facts["sensitivity"] = {"accuracy": 0.9, "chance": 0.1, "examples": 10, "layers": LAYERS}
    assert heatmap.write(measured, tmp_path) == {"sensitivity": "sensitivity.csv", "heat map": "sensitivity.svg"}
    with (tmp_path / "sensitivity.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["layer"], line["kind"], line["level"]) for line in lines] == [
        ("conv", "sparsity", "0.5"),
        ("conv", "sparsity", "0.9"),
        ("conv", "bits", "8"),
        ("<dense>", "bits", "8"),
    ]
    assert float(lines[1]["change"]) == 0.5 - 0.9
    drawing = (tmp_path / "sensitivity.svg").read_text()
    assert "share of zeros" in drawing
    assert "&lt;dense&gt;" in drawing
    assert "-40.0" in drawing.replace("−", "-")


def test_write_leaves_nothing_without_the_stage(tmp_path: Path) -> None:
    assert heatmap.find_last_table(synthesize_record()) is None
    assert heatmap.write(synthesize_record(), tmp_path) == {}
    assert list(tmp_path.iterdir()) == []
