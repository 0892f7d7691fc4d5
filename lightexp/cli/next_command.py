"""Propose a command that may follow a run, and whose results can differ from the run's."""

from __future__ import annotations

import shlex

from lightexp.core.record import Record

_PRUNE, _QUANTIZE = "lightexp.stages.prune.Prune", "lightexp.stages.quantize.Quantize"
_SPARSITIES = ("0.5", "0.8", "0.95")
_SEEDS = ("0", "1", "2")
_SCHEMES = ("float16", "dynamic", "int8")


def suggest_next(record: Record) -> str | None:
    """Return a sweep over one setting of a finished run; None where no setting is known to change its results."""
    sweep = _select_sweep(record)
    if sweep is None:
        return None
    name, values = sweep
    arguments = shlex.split(record.command)
    flags = arguments[2 : len(arguments) - len(record.varied)]
    others = [override for override in record.varied if override.lstrip("+").partition("=")[0] != name]
    return shlex.join(["lightexp", "run", *flags, "-m", *others, f"{name}={','.join(values)}"])


def _select_sweep(record: Record) -> tuple[str, tuple[str, ...]] | None:
    """Return a setting and the values to try: a sparsity, else seeds if anything was trained, else a scheme."""
    nodes = record.config.get("pipeline", {}).get("stages", {})
    ran = {stage.name: nodes[stage.name] for stage in record.stages if nodes.get(stage.name)}
    for name, node in ran.items():
        if node.get("_target_") == _PRUNE and node.get("n") is None:  # n and m fix the sparsity
            return f"pipeline.stages.{name}.sparsity", _SPARSITIES
    if any("history" in stage.facts for stage in record.stages):
        return "seed", _SEEDS
    for name, node in ran.items():
        if node.get("_target_") == _QUANTIZE:
            return f"pipeline.stages.{name}.scheme", _SCHEMES
    return None
