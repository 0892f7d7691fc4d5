"""Latency of models with pruned channels or factorised layers against their control's, float32 on one thread.

`prune_channels` and `factorize` at half the MACs, on Fashion-MNIST: the control is trained for a few epochs on the
first images of the train split, then channels are removed or layers factorised, and the result is trained again. The
two files are timed in turn on one image, under the lock that every timing on this host takes. Layers keep multiples of
16 channels, as many as XNNPACK computes at once with AVX-512; ranks are not rounded.

    python experiments/benchmarks/channels.py --runs 15
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import Result, load_fashion, make_parser, print_results

import lightexp
from lightexp.backend.litert import time_single_example
from lightexp.core.protocols import TFLITE
from lightexp.core.store import Store
from lightexp.execution.locks import host_lock

MODELS = ["small_cnn", "resnet8"]
SETTINGS = {"prune_channels": ["round_to=16"], "factorize": []}
TARGETS = {"prune_channels": 0.7, "factorize": 1.0}


def main() -> None:
    """Train, compress and time each model."""
    options = make_parser(__doc__, runs=15)
    options.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="default: all")
    options.add_argument("--methods", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default: all")
    options.add_argument("--epochs", type=int, default=2, help="of each stage (default: 2)")
    options.add_argument("--images", type=int, default=20_000, help="to train on (default: 20000)")
    chosen = options.parse_args()
    data = load_fashion(200 if chosen.smoke else chosen.images)
    example, results = data.inputs(data.val.x[:1])[0], []
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "fashion.npz"
        both = [data.train, data.val]
        np.savez(arrays, x=np.concatenate([s.x for s in both]), y=np.concatenate([s.y for s in both]))
        cases = [(method, model) for method in chosen.methods for model in chosen.models]
        for method, model in cases[: 1 if chosen.smoke else None]:
            files, note = compress_model(method, model, 1 if chosen.smoke else chosen.epochs, arrays)
            with host_lock():
                pairs = [[measure_median(f, example) for f in files] for _ in range(1 if chosen.smoke else chosen.runs)]
            control, smaller = ([pair[side] for pair in pairs] for side in (0, 1))
            name = f"one image, {model} at half the MACs by {method}"
            results.append(Result(name, smaller, control, "µs", TARGETS[method], at_least=False, note=note))
    print_results(results, chosen.json)


def compress_model(method: str, model: str, epochs: int, arrays: Path) -> tuple[list[Path], str]:
    """Return the control's file and the smaller one's, and a note on MACs and accuracy."""
    outputs = arrays.parent / "outputs"
    trained = [f"pipeline.stages.{name}.epochs={epochs}" for name in ("train", method)]
    data = ["dataset=arrays", f"dataset.path={arrays}", f"paths.outputs={outputs}"]
    overrides = [
        f"model={model}",
        f"pipeline={method}",
        *(f"pipeline.stages.{method}.{value}" for value in ("budget=macs", "share=0.5", *SETTINGS[method])),
        *trained,
        *data,
    ]
    stages = lightexp.run([*overrides, "tracking=none", "measure=quick"]).stages
    macs, accuracies = ([s.metric(n) or 0 for s in stages] for n in ("compute/macs", "accuracy/val"))
    note = f"{macs[1] / macs[0]:.2f}x the MACs, accuracy {accuracies[1]:.1%} (control {accuracies[0]:.1%})"
    return [Store(outputs / "store").folder(stage.key) / TFLITE for stage in stages], note


def measure_median(file: Path, example: np.ndarray) -> float:
    """Return the median latency on one example, in microseconds."""
    return float(np.median(time_single_example(file, example, warmup=50, runs=500)))


if __name__ == "__main__":
    main()
