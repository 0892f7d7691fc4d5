"""Make `table.csv`: every configuration of a small search space on MNIST-1D, trained, quantised and measured.

    python experiments/benchmarks/search_table/make.py

Or another table: `make.py OUTPUTS TABLE [setting=value ...]`.

A row is a configuration: its settings, and after 1, 3, 9 and 27 epochs (the training's end) following the pruning
schedule, how many of the 800 validation examples its file classifies correctly, and the file's bytes after gzip. Every
number is measured on a real `.tflite` file. The first rows are the control and its int8 file. Started again, the
program continues an incomplete table.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightexp.backend import edge_quantizer, flatbuffer, litert, session
from lightexp.core.data import Data
from lightexp.core.protocols import TFLITE, Context
from lightexp.core.store import Store
from lightexp.runner.execute import Executor
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import Settings
from lightexp.search.samplers import list_grid_values
from lightexp.search.study_spec import StudySpec
from lightexp.stages.prune import Prune

BITS = "pipeline.stages.quantize.layers."
OVERRIDES = [
    "search=_settings",
    "search.objectives=[accuracy/val,size/gzip_bytes]",
    "dataset=mnist1d",
    "model=cnn_1d",
    "pipeline=prune_quantize",
    "pipeline.stages.train.epochs=100",
    "pipeline.stages.train.learning_rate=0.003",
    "pipeline.stages.train.learning_rate_schedule=cosine",
    "pipeline.stages.prune.batch_size=128",
    "pipeline.stages.prune.epochs=30",
    "pipeline.stages.prune.end=0.1",
    "pipeline.stages.prune.learning_rate=0.002",
    "pipeline.stages.quantize.scheme=dynamic",
    "+pipeline.stages.quantize.layers={conv1: 8, conv2: 8, conv3: 8, logits: 8}",
    "runtime.threads=1",
    "tracking=none",
    "pipeline.stages.prune.sparsity=range(0.6,1.0,0.05)",
    "pipeline.stages.prune.allocation=choice(uniform,global,erk)",
    "pipeline.stages.prune.learning_rate=choice(0.0005,0.002,0.008)",
    *(f"{BITS}{layer}=choice(8,4)" for layer in ("conv1", "conv2", "conv3")),
    f"{BITS}logits=choice(8,4,2)",
]
"""`lightexp search` with these overrides runs the configurations of the table."""
SCHEDULED_EPOCHS, RUNGS = 3, (1, 3, 9, 27)
TABLE = Path(__file__).parent / "table.csv"


class ObservedPrune(Prune):
    """Pruning that shows its model to the progress reporter."""

    def fit(self, model: Any, context: Context, masks: Any = None) -> dict[str, list[float]]:
        """See `TrainingStage.fit`."""
        context.progress.model = model  # type: ignore[attr-defined]
        return super().fit(model, context, masks)


class WeightRecorder:
    """Progress reporter that records the weights at each rung."""

    def __init__(self) -> None:
        """Record nothing yet."""
        self.model: Any = None
        self.weights: list[list[Any]] = []

    def step(self, done: float, total: float, **figures: float) -> None:
        """See `Progress`."""
        if done - SCHEDULED_EPOCHS in RUNGS:
            self.weights.append([w + np.float32(0) for w in self.model.get_weights()])  # no -0.0, as in a file

    def say(self, message: str) -> None:
        """See `Progress`."""


class PatchableFile:
    """A float `.tflite` whose weights can be replaced; a conversion takes a hundred times as long."""

    def __init__(self, folder: Path) -> None:
        """Find the weights of the model of `folder` in its file."""
        from lightexp.backend import keras_files  # imports TensorFlow, which the session configures first

        self.content = bytearray((folder / TFLITE).read_bytes())
        stored = flatbuffer.read_constant_spans(folder / TFLITE)
        self.places = []
        for weight in keras_files.load_model(folder).get_weights():
            raw = to_stored_order(weight).tobytes()
            places = [s.start for s in stored if self.content[s.start : s.start + s.length] == raw]
            assert len(places) == 1, places
            self.places.append(places[0])

    def write(self, weights: list[Any], path: Path) -> None:
        """Write the file with other weights."""
        for place, weight in zip(self.places, weights, strict=True):
            raw = to_stored_order(weight).tobytes()
            self.content[place : place + len(raw)] = raw
        path.write_bytes(self.content)


def to_stored_order(weight: Any) -> Any:
    """Return a kernel in the order of a .tflite, outputs first."""
    return np.ascontiguousarray(np.moveaxis(weight, -1, 0)) if weight.ndim > 1 else weight


def measure(path: Path, data: Data) -> tuple[int, int]:
    """Return the number of validation examples that a file classifies correctly, and its bytes after gzip."""
    logits = litert.compute_logits(path, data.val.x, data, 1)
    return int(np.sum(logits.argmax(axis=1) == data.val.y)), len(gzip.compress(path.read_bytes(), 9, mtime=0))


def quantize_and_measure(tflite: Path, bits: list[int], scheme: str, data: Data, out: Path) -> tuple[int, int]:
    """Quantise a file after training and measure the result; see `measure`."""
    ranges = np.empty(0, np.float32)
    if scheme == "int8":
        ranges = litert.collect_ranges(tflite, data.inputs(data.train.sample(200)), 1)
    content = edge_quantizer.quantize(tflite, ranges, scheme, 8, [(b, 0) for b in bits], False)
    out.write_bytes(content.tobytes())
    return measure(out, data)


def make_rows(spec: StudySpec, existing: set[tuple[str, ...]], outputs: Path) -> Iterator[list[Any]]:
    """Yield the rows that the table does not hold yet."""
    space = spec.make_space({})
    names = [p.path for p in space.parameters]
    variant = space.variants[0]
    axes = [[p.from_optuna(v) for v in list_grid_values(p)] for p in space.parameters]
    grids = [axis for axis, path in zip(axes, names, strict=True) if BITS not in ".".join(path)]
    widths = list(itertools.product(*axes[len(grids) :]))
    settings = spec.make_trial_settings(variant.set_values({}))
    plan, data = Runner(SilentReporter()).plan(settings)
    session.start_tensorflow(1)
    executor = Executor(
        replace(plan, nodes=(plan.control,)), settings, data, Store(outputs / "store"), SilentReporter()
    )
    executor.make()
    control = executor.shipped(plan.control)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, small = folder / "float.tflite", folder / "small.tflite"
        if ("control",) not in existing:
            yield ["control", *measure(control.tflite, data)]
            yield ["int8", *quantize_and_measure(control.tflite, [8] * 4, "int8", data, small)]
        file = PatchableFile(control.folder)
        for values in itertools.product(*grids):
            missing = [w for w in widths if tuple(map(str, [*values, *w])) not in existing]
            if missing:
                trial = spec.make_trial_settings(variant.set_values(dict(zip(names, values, strict=False))))
                progress = WeightRecorder()
                out = folder / "out"
                out.mkdir(exist_ok=True)
                stage = observe_pruning(trial)
                stage.apply(control, Context(data, plan.nodes[1].model, trial.seed, 1, out, progress, {}))  # type: ignore[arg-type]
                results: dict[tuple[int, ...], list[tuple[int, int]]] = {w: [] for w in missing}
                for weights in progress.weights:
                    file.write(weights, path)
                    for w in missing:
                        results[w].append(quantize_and_measure(path, list(w), "dynamic", data, small))
                assert path.read_bytes() == (out / TFLITE).read_bytes()  # what the converter makes of the last
                for w, pairs in results.items():
                    yield [*values, *w, *itertools.chain(*pairs)]


def observe_pruning(settings: Settings) -> ObservedPrune:
    """Return the pruning stage of a run as an observed one."""
    stage = settings.stages["prune"]
    return ObservedPrune(**{f.name: getattr(stage, f.name) for f in fields(stage)})  # type: ignore[arg-type]


def main() -> None:
    """Make the table, or the rest of it."""
    outputs = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs").absolute()
    table = Path(sys.argv[2]) if len(sys.argv) > 2 else TABLE
    overrides = [*OVERRIDES, *sys.argv[3:]]
    spec = StudySpec([*overrides, f"paths.outputs={outputs}"], [])
    count = len(spec.make_space({}).parameters)
    existing = set()
    if table.exists():
        with table.open(encoding="utf-8") as file:
            existing = {tuple(row[:count]) if len(row) > 3 else (row[0],) for row in list(csv.reader(file))[2:]}
    with table.open("a", encoding="utf-8") as file:
        if not existing:
            file.write(f"# lightexp search {json.dumps(overrides)}\n")
            names = [p.name for p in spec.make_space({}).parameters]
            file.write(",".join([*names, *(f"{name}_{n}" for n in RUNGS for name in ("right", "bytes"))]))
            file.write("\n")
        start = time.monotonic()
        for number, row in enumerate(make_rows(spec, existing, outputs), start=1):
            file.write(",".join(map(str, row)) + "\n")
            file.flush()
            if number % 24 == 2:
                print(f"{number} rows, {(time.monotonic() - start) / number:.2f} s each", flush=True)


if __name__ == "__main__":
    main()
