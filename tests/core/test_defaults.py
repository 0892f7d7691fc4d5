"""Removal of default values from a config."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.defaults import drop_defaults

PRUNE = {"_target_": "lightexp.stages.prune.Prune"}
DIGITS = {"_target_": "lightexp.datasets.digits.Digits"}
SCALING = {"_target_": "lightexp.core.preprocessing.Scaling"}


@pytest.mark.parametrize(
    ("config", "reduced"),
    [
        ({**PRUNE, "sparsity": 0.8, "epochs": 10, "layers": {}, "n": None}, PRUNE),
        ({**PRUNE, "sparsity": 0.9, "end": 0.5}, {**PRUNE, "sparsity": 0.9}),
        ({**PRUNE, "initial_sparsity": 0}, PRUNE),
        ({**PRUNE, "from_scratch": 0}, {**PRUNE, "from_scratch": 0}),
        ({**PRUNE, "unknown": 1}, {**PRUNE, "unknown": 1}),
        ({**DIGITS, "scaling": {**SCALING, "range": None, "mean": None}}, DIGITS),
        ({**DIGITS, "scaling": {**SCALING, "mean": 0.5}}, {**DIGITS, "scaling": {**SCALING, "mean": 0.5}}),
        ({"seed": 0, "deploy": {}, "list": [{**PRUNE, "epochs": 10}]}, {"seed": 0, "deploy": {}, "list": [PRUNE]}),
        ({"_target_": "lightexp.gone.Gone", "a": 1}, {"_target_": "lightexp.gone.Gone", "a": 1}),
        ({"_target_": "own.Own", "a": 1}, {"_target_": "own.Own", "a": 1}),
    ],
)
def test_drop_defaults_keeps_changed_settings(config: dict[str, Any], reduced: dict[str, Any]) -> None:
    assert drop_defaults(config) == reduced
    assert drop_defaults({"model": {"inner": config}}) == {"model": {"inner": reduced}}


def test_drop_defaults_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_defaults.py").write_text(
        "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Own:\n    a: int = 1\n    added: float = 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "own_defaults.Own", "a": 3, "added": 2.0}
    assert drop_defaults(node) == node
    assert "own_defaults" not in sys.modules  # a package that is not allowed is not imported
    assert drop_defaults(node, ("own_defaults",)) == {"_target_": "own_defaults.Own", "a": 3}
    del sys.modules["own_defaults"]
