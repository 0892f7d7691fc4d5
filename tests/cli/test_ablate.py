"""`lightexp ablate`: what the user hears of a folder that cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.cli.main import main

TABLE = """
claim: Narrow nets are smaller.
control: wide
seeds: [0]
base: [dataset=digits, pipeline=control, tracking=none]
rows: {wide: [model=lenet_300_100], narrow: [model=lenet5]}
"""


def test_outputs_that_cannot_be_written_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "table.yaml").write_text(TABLE)
    assert main(["ablate", str(tmp_path / "table.yaml"), "paths.outputs=/proc/nothing"]) == 1
    assert capfd.readouterr().err.splitlines() == [
        "table: 0 of 2 runs are done, 2 to do",
        "lightexp: /proc/nothing cannot be written: No such file or directory. Set paths.outputs=FOLDER.",
    ]
