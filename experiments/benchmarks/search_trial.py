"""What a trial of a post-training study costs beyond its evaluation, and two workers against a script by hand.

`cost`: one `lightexp search` of bits for each layer of LeNet-5, by one worker of one thread, with MLflow, on 96 images
of validation. A cycle is the wall time from one trial's start to the next one's, around trial 100 and trial 1,000, of
trials whose file was not in the store yet (a setting that changes nothing but the store's key makes for enough of
these). To it is added the CPU time a trial of the processes beside the worker: the one that watches, and the one that
writes to MLflow. From it is taken the evaluation: accuracy, loss and bytes, measured once more after the study, on
the same trials' files by themselves. The note tells what all of it takes.

`script`: bits (8 or float) of each layer, int8 activations by the ranges of 100, 200 or 300 examples, 10,000 images of
validation: two workers of one thread against Optuna in memory, TensorFlow's converter with the same layers kept float
(`QuantizationDebugger`, as its guide does it) and the guides' evaluation, one image after another. Theirs is given our
proposals. In turn; the rate counts from when each worker has ended its first trial.

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
IMAGES, COST, GROWTH, FASTER = 600, 80, 2, 5
GOALS = frozenset({"accuracy/val", "size/file_bytes"})


def main() -> None:
    """Runs what is asked for, or the hand-written script as its child process."""
    options = make_parser(__doc__, runs=3)
    options.add_argument("--only", choices=["cost", "script"], help="default: both")
    options.add_argument("--trials", type=int, default=1050, help="of the cost's study (default: 1050)")
    options.add_argument("--by-hand", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.by_hand:
        _by_hand(chosen.by_hand, chosen.smoke)
        return
    if chosen.smoke:
        chosen.runs, chosen.trials = 1, 14
    results = [] if chosen.only == "script" else _cost(chosen.trials)
    results += [] if chosen.only == "cost" else [_script(chosen)]
    print_results(results, chosen.json)


def _cost(trials: int) -> list[Result]:
    width = min(100, trials // 4)
    windows = (width // 2, width // 2 + width), (trials - 1 - 2 * width, trials - 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [*SEARCH, *write_few(folder, IMAGES), f"{SAMPLES}=range(1,65)", "search.study=cost"]
        with _watched(folder / "outputs/searches/cost/trials") as seen:
            run_lightexp(["search", *words, f"search.trials={trials}", "runtime.threads=1"], folder)
        begun = [
            t.datetime_start.timestamp()
            for t in sorted(list_ended_trials(folder, "cost"), key=lambda trial: trial.number)
        ]
        cycles = np.diff(begun) * 1e3
        records = [read_record(folder / f"outputs/searches/cost/trials/{n:04d}") for n in range(trials)]
        new = [not record.stages[-1].from_store for record in records]
        data = Arrays(str(folder / "few.npz")).load()
        made = [[record for record in records[low:high] if not record.stages[-1].from_store] for low, high in windows]
        evaluations = [_evaluation(folder, data, some) for some in made]
    counts, seconds = np.array(seen).T
    results = []
    for (low, high), evaluation in zip(windows, evaluations, strict=True):
        cycle = statistics.median(float(cycles[n]) for n in range(low, high) if new[n])
        beside = 1e3 * float(np.interp(high, counts, seconds) - np.interp(low, counts, seconds)) / (high - low)
        name, note = f"one trial of those from {low} to {high}", f"its cycle {cycle:.1f} ms, beside it {beside:.1f} ms"
        note += f"; with its evaluation ({evaluation:.1f} ms) {cycle + beside:.1f} ms"
        results.append(Result(name, [cycle + beside - evaluation], [], "ms", COST, at_least=False, note=note))
    early, late = (result.ours for result in results)
    return [*results, Result("a trial, late against early", late, early, "ms", GROWTH, at_least=False)]


def _evaluation(folder: Path, data: Data, records: list[Record]) -> float:
    """Milliseconds that the evaluation of a trial's file takes, in the median; of each file the faster of two."""
    store, taken = Store(folder / "outputs/store"), []
    for record in records:
        control, file = (store.folder(record.stages[n].key) / TFLITE for n in (0, -1))
        for _ in range(2):
            start = time.perf_counter()
            for measurement in (Accuracy(), Size()):
                measurement.measure(MeasurementContext(file, control, data, threads=1, splits=("val",), wanted=GOALS))
            taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(map(min, zip(taken[::2], taken[1::2], strict=True)))


@contextmanager
def _watched(folder: Path) -> Iterator[list[tuple[int, float]]]:
    """Notes how many trials have a record in a folder, and the CPU seconds so far beside the work on trials."""
    seen, over = [(0, 0.0)], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            count = sum(1 for _ in folder.glob("*/record.json"))
            if count > seen[-1][0]:
                seen.append((count, _cpu(os.getpid())))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def _cpu(parent: int) -> float:
    """CPU seconds of the processes below one, but for a study's workers and what is below them."""
    below: dict[int, list[tuple[int, float]]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            if "lightexp.search.worker" not in (folder / "cmdline").read_text():
                below.setdefault(int(words[1]), []).append((int(folder.name), sum(map(int, words[11:13]))))
    total, rest = 0.0, [parent]
    while rest:
        found = below.get(rest.pop(), [])
        total += sum(ticks for _, ticks in found)
        rest += [one for one, _ in found]
    return total / os.sysconf("SC_CLK_TCK")


def _script(chosen: argparse.Namespace) -> Result:
    ours: list[float] = []
    theirs: list[float] = []
    best: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        data = write_few(start, IMAGES) if chosen.smoke else ["dataset=fashion_mnist"]
        run_lightexp(["run", *SEARCH[1:], *data, "pipeline=control", "tracking=none"], start)
        (record,) = (start / "outputs/runs").glob("*/record.json")
        key = json.loads(record.read_text())["stages"][0]["key"]
        words = [*SEARCH, *data, "pipeline.stages.quantize.scheme=int8", "search.study=script", "search.corners=[]"]
        words += ["search.sampler=grid", f"{LAYERS}=choice(8,32)", f"{SAMPLES}=range(100,301,100)"]
        words += [f"search.trials={4 if chosen.smoke else 99}"]  # a grid ends by itself
        for run in range(chosen.runs):
            folder = Path(name) / str(run)
            shutil.copytree(start, folder)
            run_lightexp(["search", *words, "search.workers=2", "runtime.threads=2"], folder)
            trials = list_ended_trials(folder, "script")
            ours.append(count_per_hour(trials, workers=2))
            shutil.copytree(folder / "outputs/store/entries" / key[:2] / key, folder / "model")
            (folder / "proposals.json").write_text(json.dumps([t.params for t in trials]))
            smoke = ["--smoke"] if chosen.smoke else []
            done = run_command([sys.executable, __file__, *smoke, "--by-hand", str(folder)], folder)
            rate, theirs_best = done.splitlines()[-1].split()
            theirs.append(float(rate))
            best = [f"{max(t.values[0] for t in trials):.2%}", theirs_best]
    note = f"{len(trials)} trials, the best accuracy: ours {best[0]}, theirs {best[1]}"
    return Result("trials an hour, two workers against a script", ours, theirs, "an hour", FASTER, True, note)


def _by_hand(folder: Path, smoke: bool) -> None:
    """The hand-written script; prints its trials an hour and its best accuracy."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import optuna
    import tensorflow as tf

    from lightexp.backend import keras_files

    data = load_fashion(IMAGES if smoke else None)
    x, y = data.inputs(data.val.x), data.val.y
    samples = data.inputs(data.train.x[:300])
    model = keras_files.load_model(folder / "model")
    names = _outputs(tf, model)

    def objective(trial: Any) -> tuple[float, int]:
        bits = {layer: trial.suggest_categorical(f"{LAYERS}.{layer}", [8, 32]) for layer in names}
        count = trial.suggest_int(SAMPLES, 100, 300, step=100)

        def representative() -> Iterator[list[Any]]:
            for sample in samples[:count]:
                yield [sample[None]]

        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        kept = [names[layer] for layer, wide in bits.items() if wide == 32]
        debugging = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=kept)
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=representative, debug_options=debugging
        )
        content = debugger.get_nondebug_quantized_model()
        return _accuracy(tf, content, x, y), len(content)

    study = optuna.create_study(directions=["maximize", "minimize"])
    proposals = json.loads((folder / "proposals.json").read_text())[: 2 if smoke else None]
    for proposal in proposals:
        study.enqueue_trial(proposal)
    study.optimize(objective, n_trials=len(proposals))
    print(count_per_hour(study.trials), f"{max(t.values[0] for t in study.trials):.2%}")


def _outputs(tf: Any, model: Any) -> dict[str, str]:
    """The name of what each layer with a kernel gives, as the converter calls it."""
    interpreter = tf.lite.Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    interpreter.allocate_tensors()
    tensors = {t["index"]: t["name"] for t in interpreter.get_tensor_details()}
    kernels = [op for op in interpreter._get_ops_details() if op["op_name"] in ("CONV_2D", "FULLY_CONNECTED")]
    layers = [layer.name for layer in model.layers if layer.count_params()]
    return {layer: tensors[op["outputs"][0]] for layer, op in zip(layers, kernels, strict=True)}


def _accuracy(tf: Any, content: bytes, x: Any, y: Any) -> float:
    """The guides' evaluation."""
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    found = []
    for image in x:
        interpreter.set_tensor(source, np.expand_dims(image, axis=0).astype(np.float32))
        interpreter.invoke()
        found.append(np.argmax(interpreter.tensor(sink)()[0]))
    return sum(one == other for one, other in zip(found, y, strict=True)) / len(y)


if __name__ == "__main__":
    main()
