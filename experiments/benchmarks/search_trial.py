"""Cost of a trial of a post-training study beyond its evaluation, and two workers against a hand-written script.

`cost`: one `lightexp search` of bits for each layer of LeNet-5, by one worker of one thread, with MLflow, on 96
validation images. A cycle is the wall time from the start of one trial to the start of the next, around trial 100 and
trial 1,000, of trials whose file was not in the store (a setting that changes nothing but the store's key makes enough
of these). The CPU time per trial of the other processes, which supervise and write to MLflow, is added. The evaluation
(accuracy, loss and bytes), measured once more after the study on the same trials' files, is subtracted. The note says
how long all of it takes.

`script`: bits (8 or float) of each layer, int8 activations by the ranges of 100, 200 or 300 examples, 10,000 validation
images: two workers of one thread against Optuna in memory, TensorFlow's converter with the same layers kept float
(`QuantizationDebugger`, as its guide does it) and the guides' evaluation, one image after another. The script runs our
proposals. The sides run in turn; the rate counts from the end of each worker's first trial.

    python experiments/benchmarks/search_trial.py --runs 3
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    Result,
    count_per_hour,
    list_ended_trials,
    load_fashion,
    make_parser,
    print_results,
    run_command,
    run_lightexp,
    write_few,
)

from lightexp.core.data import Data
from lightexp.core.protocols import TFLITE, MeasurementContext
from lightexp.core.record import Record, read_record
from lightexp.core.store import Store
from lightexp.datasets.arrays import Arrays
from lightexp.metrics.accuracy import Accuracy
from lightexp.metrics.size import Size

LAYERS = "pipeline.stages.quantize.layers"
SAMPLES = "pipeline.stages.quantize.calibration_samples"
SEARCH = ["search=mixed_precision", "model=lenet5", "pipeline.stages.train.epochs=1"]
IMAGES = 600
MAX_COST_MS, MAX_GROWTH, MIN_SPEEDUP = 80, 2, 5
GOALS = frozenset({"accuracy/val", "size/file_bytes"})


def main() -> None:
    """Run the chosen comparisons, or the hand-written script in a child process."""
    parser = make_parser(__doc__, runs=3)
    parser.add_argument("--only", choices=["cost", "script"], help="default: both")
    parser.add_argument("--trials", type=int, default=1050, help="of the cost's study (default: 1050)")
    parser.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.by_hand:
        run_script(options.by_hand, options.smoke)
        return
    if options.smoke:
        options.runs, options.trials = 1, 14
    results = []
    if options.only != "script":
        results += measure_cost(options.trials)
    if options.only != "cost":
        results.append(compare_with_script(options))
    print_results(results, options.json)


def measure_cost(trials: int) -> list[Result]:
    """Run a study and compare the cost of an early and of a late trial."""
    width = min(100, trials // 4)
    windows = (width // 2, width // 2 + width), (trials - 1 - 2 * width, trials - 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = [*SEARCH, *write_few(folder, IMAGES), f"{SAMPLES}=range(1,65)", "search.study=cost"]
        with observe_cpu(folder / "outputs/searches/cost/trials") as observations:
            run_lightexp(["search", *overrides, f"search.trials={trials}", "runtime.threads=1"], folder)
        starts = {t.number: t.datetime_start.timestamp() for t in list_ended_trials(folder, "cost")}
        cycles = np.diff([starts[number] for number in sorted(starts)]) * 1e3
        records = [read_record(folder / f"outputs/searches/cost/trials/{n:04d}") for n in range(trials)]
        is_new = [not record.stages[-1].from_store for record in records]
        data = Arrays(str(folder / "few.npz")).load()
        evaluations = [
            measure_evaluation(folder, data, [records[n] for n in range(low, high) if is_new[n]])
            for low, high in windows
        ]
    counts, cpu_seconds = np.array(observations).T
    results = []
    for (low, high), evaluation in zip(windows, evaluations, strict=True):
        cycle = statistics.median(float(cycles[n]) for n in range(low, high) if is_new[n])
        others = np.interp(high, counts, cpu_seconds) - np.interp(low, counts, cpu_seconds)
        others_ms = 1e3 * float(others) / (high - low)
        name, note = (
            f"one trial of those from {low} to {high}",
            f"its cycle {cycle:.1f} ms, other processes {others_ms:.1f} ms",
        )
        note += f"; with its evaluation ({evaluation:.1f} ms) {cycle + others_ms:.1f} ms"
        results.append(Result(name, [cycle + others_ms - evaluation], [], "ms", MAX_COST_MS, at_least=False, note=note))
    early, late = (result.ours for result in results)
    return [*results, Result("a trial, late against early", late, early, "ms", MAX_GROWTH, at_least=False)]


def measure_evaluation(folder: Path, data: Data, records: list[Record]) -> float:
    """Return the median of the milliseconds that the evaluation of a trial's file takes, the faster of two each."""
    store = Store(folder / "outputs/store")
    seconds = []
    for record in records:
        control, file = (store.folder(record.stages[n].key) / TFLITE for n in (0, -1))
        attempts = []
        for _ in range(2):
            start = time.perf_counter()
            for measurement in (Accuracy(), Size()):
                measurement.measure(
                    MeasurementContext(file, control, data, threads=1, splits=("val",), requested=GOALS)
                )
            attempts.append(time.perf_counter() - start)
        seconds.append(min(attempts))
    return 1e3 * statistics.median(seconds)


@contextmanager
def observe_cpu(folder: Path) -> Iterator[list[tuple[int, float]]]:
    """Record the number of trials with a record in a folder, and the CPU seconds of processes other than workers."""
    observations, is_over = [(0, 0.0)], threading.Event()

    def observe() -> None:
        while not is_over.wait(0.2):
            count = sum(1 for _ in folder.glob("*/record.json"))
            if count > observations[-1][0]:
                observations.append((count, sum_cpu_seconds(os.getpid())))

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        yield observations
    finally:
        is_over.set()
        thread.join()


def sum_cpu_seconds(parent: int) -> float:
    """Return the CPU seconds of a process's descendants, without a study's workers and their descendants."""
    children: dict[int, list[tuple[int, float]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has just ended
            fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if "lightexp.search.worker" not in (folder / "cmdline").read_text(encoding="utf-8"):
                children.setdefault(int(fields[1]), []).append((int(folder.name), sum(map(int, fields[11:13]))))
    total, pending = 0.0, [parent]
    while pending:
        processes = children.get(pending.pop(), [])
        total += sum(ticks for _, ticks in processes)
        pending += [pid for pid, _ in processes]
    return total / os.sysconf("SC_CLK_TCK")


def compare_with_script(options: argparse.Namespace) -> Result:
    """Run our study and the hand-written script in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    best: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        data = write_few(start, IMAGES) if options.smoke else ["dataset=fashion_mnist"]
        run_lightexp(["run", *SEARCH[1:], *data, "pipeline=control", "tracking=none"], start)
        (record,) = (start / "outputs/runs").glob("*/record.json")
        key = json.loads(record.read_text(encoding="utf-8"))["stages"][0]["key"]
        overrides = [*SEARCH, *data, "pipeline.stages.quantize.scheme=int8", "search.study=script", "search.corners=[]"]
        overrides += ["search.sampler=grid", f"{LAYERS}=choice(8,32)", f"{SAMPLES}=range(100,301,100)"]
        overrides += [f"search.trials={4 if options.smoke else 99}"]  # a grid ends by itself
        for run in range(options.runs):
            folder = Path(name) / str(run)
            shutil.copytree(start, folder)
            run_lightexp(["search", *overrides, "search.workers=2", "runtime.threads=2"], folder)
            trials = list_ended_trials(folder, "script")
            ours.append(count_per_hour(trials, workers=2))
            shutil.copytree(folder / "outputs/store/entries" / key[:2] / key, folder / "model")
            (folder / "proposals.json").write_text(json.dumps([t.params for t in trials]), encoding="utf-8")
            smoke = ["--smoke"] if options.smoke else []
            output = run_command([sys.executable, __file__, *smoke, "--by-hand", str(folder)], folder)
            rate, theirs_best = output.splitlines()[-1].split()
            theirs.append(float(rate))
            best = [f"{max(t.values[0] for t in trials):.2%}", theirs_best]
    note = f"{len(trials)} trials, the best accuracy: ours {best[0]}, theirs {best[1]}"
    return Result("trials an hour, two workers against a script", ours, theirs, "an hour", MIN_SPEEDUP, True, note)


def run_script(folder: Path, smoke: bool) -> None:
    """Run the hand-written script, and print its trials per hour and its best accuracy."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import optuna
    import tensorflow as tf

    from lightexp.backend import keras_files

    data = load_fashion(IMAGES if smoke else None)
    x, y = data.inputs(data.val.x), data.val.y
    samples = data.inputs(data.train.x[:300])
    model = keras_files.load_model(folder / "model")
    names = find_output_names(tf, model)

    def objective(trial: Any) -> tuple[float, int]:
        bits = {layer: trial.suggest_categorical(f"{LAYERS}.{layer}", [8, 32]) for layer in names}
        count = trial.suggest_int(SAMPLES, 100, 300, step=100)

        def representative() -> Iterator[list[Any]]:
            for sample in samples[:count]:
                yield [sample[None]]

        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        float_layers = [names[layer] for layer, width in bits.items() if width == 32]
        debugging = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=float_layers)
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=representative, debug_options=debugging
        )
        content = debugger.get_nondebug_quantized_model()
        return compute_accuracy(tf, content, x, y), len(content)

    study = optuna.create_study(directions=["maximize", "minimize"])
    proposals = json.loads((folder / "proposals.json").read_text(encoding="utf-8"))[: 2 if smoke else None]
    for proposal in proposals:
        study.enqueue_trial(proposal)
    study.optimize(objective, n_trials=len(proposals))
    print(count_per_hour(study.trials), f"{max(t.values[0] for t in study.trials):.2%}")


def find_output_names(tf: Any, model: Any) -> dict[str, str]:
    """Return the converter's name of the output of each layer with a kernel."""
    interpreter = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    interpreter.allocate_tensors()
    tensors = {t["index"]: t["name"] for t in interpreter.get_tensor_details()}
    kernels = [op for op in interpreter._get_ops_details() if op["op_name"] in ("CONV_2D", "FULLY_CONNECTED")]
    layers = [layer.name for layer in model.layers if layer.count_params()]
    return {layer: tensors[op["outputs"][0]] for layer, op in zip(layers, kernels, strict=True)}


def compute_accuracy(tf: Any, content: bytes, x: Any, y: Any) -> float:
    """Evaluate a file as TensorFlow's guides do."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    predictions = []
    for image in x:
        interpreter.set_tensor(source, np.expand_dims(image, axis=0).astype(np.float32))
        interpreter.invoke()
        predictions.append(np.argmax(interpreter.tensor(sink)()[0]))
    return sum(predicted == label for predicted, label in zip(predictions, y, strict=True)) / len(y)


if __name__ == "__main__":
    main()
