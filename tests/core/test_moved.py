"""Resolution of the class paths of earlier versions."""

from __future__ import annotations

import pytest

from lightexp.core.config import locate
from lightexp.core.moved import resolve_target, resolve_targets
from lightexp.metrics.size import Size


def test_resolve_target_finds_moved_modules() -> None:
    assert resolve_target("lightexp.core.inputs.Scaling") == "lightexp.core.preprocessing.Scaling"
    assert resolve_target("lightexp.measure.calibration.Calibration") == "lightexp.metrics.calibration.CalibrationError"
    assert resolve_target("lightexp.stages.distill.Distill") == "lightexp.stages.distill.Distill"
    assert resolve_target("lightexp.measured.Own") == "lightexp.measured.Own"
    assert resolve_target("own.measure.Own") == "own.measure.Own"


def test_resolve_targets_changes_only_targets() -> None:
    node = {"_target_": "lightexp.measure.size.Size", "name": "lightexp.measure.size"}
    moved = {"_target_": "lightexp.metrics.size.Size", "name": "lightexp.measure.size"}
    assert resolve_targets({"measure": {"size": node}, "list": [node, 1]}) == {
        "measure": {"size": moved},
        "list": [moved, 1],
    }


@pytest.mark.parametrize("target", ["objectives.distill.Distill", "tracking.mirror.Nowhere", "core.inputs.Augment"])
def test_renamed_classes_exist(target: str) -> None:
    assert locate(f"lightexp.{target}", "place").__name__ in ("Distillation", "NoTracking", "Augment")


def test_locate_finds_a_class_by_its_old_module() -> None:
    assert locate("lightexp.measure.size.Size", "measure.size") is Size
