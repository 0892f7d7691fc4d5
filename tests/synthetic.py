"""Make records that look like real ones from a seed, for tests and benchmarks of reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.core.protocols import Metric
from lightexp.core.record import Record, StageRecord

STAGES = {"train": (112_960, 0.0), "prune": (112_960, -0.004), "quantize": (28_240, -0.003)}
"""File size in bytes and change of accuracy by stage."""
_TARGETS = {
    "train": "lightexp.stages.train.Train",
    "prune": "lightexp.stages.prune.Prune",
    "quantize": "lightexp.stages.quantize.Quantize",
}


def synthesize_record(
    row: str = "prune",
    seed: int = 0,
    stages: Sequence[str] = ("train", "prune", "quantize"),
    sparsity: float = 0.8,
    lost: float = 0.0,
    number: int = 0,
    **changes: Any,
) -> Record:
    """Return the record of a finished run.

    Args:
        row: Tag of its row.
        seed: Seed of the run and of its metrics.
        stages: Names of its stages.
        sparsity: Sparsity that it was pruned to.
        lost: Accuracy that its last stage costs in addition to the usual cost.
        number: Number of the run, for its id.
        changes: Fields of the record to replace.
    """
    varied = [f"pipeline={'_'.join(stages[1:]) or 'control'}", f"seed={seed}"]
    splits = {name: {"n": n, "digest": name[-1] * 64} for name, n in (("train", 60), ("val", 20), ("test", 10))}
    values: dict[str, Any] = {
        "id": f"2026-01-01_00-00-00-{number:06x}",
        "name": f"small_cnn digits {'-'.join(stages)}",
        "command": f"lightexp run {' '.join(varied)}",
        "config": _config(seed, stages, sparsity),
        "varied": varied,
        "environment": {"host": "here", "python": "3.11.7", "processor": "a processor", "threads": 1},
        "started": 1_700_000_000.0 + number,
        "ended": 1_700_000_060.0 + number,
        "status": "done",
        "control": "train",
        "dataset": {"name": "digits", "classes": 10, "splits": splits},
        "stages": _stage_records(seed, stages, sparsity, lost),
        "tags": {"row": row},
    }
    return Record(**{**values, **changes})


def _config(seed: int, stages: Sequence[str], sparsity: float) -> dict[str, Any]:
    nodes = {name: {"_target_": _TARGETS[name], "epochs": 10} for name in stages}
    if "prune" in nodes:
        nodes["prune"]["sparsity"] = sparsity
    return {
        "seed": seed,
        "dataset": {"_target_": "lightexp.datasets.digits.Digits"},
        "model": {"_target_": "lightexp.models.small_cnn.SmallCnn", "width": 1.0},
        "pipeline": {"order": list(stages), "stages": nodes, "waive": []},
    }


def _stage_records(seed: int, stages: Sequence[str], sparsity: float, lost: float) -> list[StageRecord]:
    """Return stages whose accuracy varies with the seed and falls with each stage."""
    rng = np.random.default_rng([seed, len(stages)])
    base = 0.97 + np.random.default_rng(seed).normal(0, 0.003)
    records = []
    for index, name in enumerate(stages):
        noise = rng.normal(0, 0.001)
        accuracy = base + sum(STAGES[s][1] for s in stages[: index + 1]) + (noise if index else 0.0)
        if index == len(stages) - 1:
            accuracy -= lost
        size = int(STAGES[name][0])
        if name == "quantize":
            size = int(size * (1 - 0.3 * sparsity))
        zeros = sparsity if index and "prune" in stages[: index + 1] else 0.0
        metrics = [
            Metric("accuracy/val", accuracy + 0.004, "", "max", "val"),
            Metric("accuracy/test", accuracy, "", "max", "test"),
            Metric("size/file_bytes", size, "bytes", "min"),
            Metric("size/gzip_bytes", size * (1 - 0.8 * zeros), "bytes", "min"),
            Metric("size/ratio", 112_960 / size, "", "max"),
            Metric("model/sparsity", zeros),
            Metric("compute/macs", 84_224, "", "min"),
            Metric("latency/p50_us", 4.0 - index + rng.normal(0, 0.1), "µs", "min"),
        ]
        curve = [float(1 / (1 + epoch)) for epoch in range(10)]
        history = {"loss": curve, "val_accuracy": [1 - v / 3 for v in curve]} if name != "quantize" else {}
        key = f"{seed}{name}{sparsity}".ljust(64, "0")
        records.append(StageRecord(name, key, False, 2.5, metrics, {"history": history}))
    return records


ROWS: dict[str, dict[str, Any]] = {
    "control": {"stages": ("train",)},
    "prune": {"stages": ("train", "prune")},
    "quantize": {"stages": ("train", "quantize"), "sparsity": 0.0},
    "both": {},
    "both, harder": {"sparsity": 0.95, "lost": 0.02},
}


def synthesize_records(seeds: int = 5) -> Iterator[Record]:
    """Yield the records of an ablation of five rows with `seeds` seeds each."""
    for number, (row, settings) in enumerate(ROWS.items()):
        for seed in range(seeds):
            yield synthesize_record(row, seed, number=number * seeds + seed, **settings)


def write_records(outputs: Path, records: Iterator[Record]) -> Path:
    """Write records below an outputs folder, and return the folder."""
    for record in records:
        folder = outputs / "runs" / record.id
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder)
    return outputs
