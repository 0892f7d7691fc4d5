from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lightexp.ablation.spec import AblationSpec, read_spec

FILE = {
    "claim": "Pruning and quantising together is smaller than either.",
    "control": "control",
    "seeds": [0, 1],
    "base": ["pipeline=prune_quantize"],
    "rows": {"control": ["pipeline=control"], "both": ["pipeline.stages.prune.sparsity=0.9"]},
}


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., AblationSpec]:
    """Reads a small ablation's file, with changes of its fields and overrides of the command line."""

    def make(*overrides: str, **changes: object) -> AblationSpec:
        path = tmp_path / "07_table.yaml"
        path.write_text(yaml.safe_dump({**FILE, **changes}, sort_keys=False))
        return read_spec(path, list(overrides))

    return make
