"""Classes that have been moved or renamed: configs and records of version 0.1 use their old names."""

from __future__ import annotations

from typing import Any

_MOVED_MODULES = {
    "lightexp.core.inputs": "lightexp.core.preprocessing",
    "lightexp.measure": "lightexp.metrics",
    "lightexp.stages.model_file": "lightexp.models.file_stages",
}
_RENAMED_CLASSES = {
    "lightexp.metrics.calibration.Calibration": "lightexp.metrics.calibration.CalibrationError",
    "lightexp.objectives.distill.Distill": "lightexp.objectives.distill.Distillation",
    "lightexp.tracking.mirror.Nowhere": "lightexp.tracking.mirror.NoTracking",
}


def resolve_target(target: str) -> str:
    """Return the present qualified name of a class that `_target_` names.

    Example:
        >>> resolve_target("lightexp.measure.accuracy.Accuracy")
        'lightexp.metrics.accuracy.Accuracy'
    """
    for before, now in _MOVED_MODULES.items():
        if target.startswith(f"{before}."):
            target = now + target.removeprefix(before)
    return _RENAMED_CLASSES.get(target, target)


def resolve_targets(config: Any) -> Any:
    """Return a config of plain types with every `_target_` in it replaced by the present name."""
    if isinstance(config, dict):
        return {
            name: resolve_target(value) if name == "_target_" and isinstance(value, str) else resolve_targets(value)
            for name, value in config.items()
        }
    return [resolve_targets(item) for item in config] if isinstance(config, list) else config
