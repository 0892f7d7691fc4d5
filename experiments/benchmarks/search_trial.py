"""What a trial of a post-training study costs beyond its evaluation, and two workers against the script one would write.

`cost`: one `lightexp search` of bits for each layer of LeNet-5, by one worker of one thread, with MLflow. The data set is
a few images of Fashion-MNIST, so that the evaluation takes next to nothing, and all that a trial takes is counted:
proposing, quantising, evaluating 96 images, recording, logging. A cycle is the wall time from one trial's start to the
next one's, around trial 100 and around trial 1,000, of trials whose file was not in the store yet (a setting that
changes nothing but the store's key makes for enough of these). CPU time is that of all processes of the command, so
also of the one that writes to MLflow.

`script`: bits (8 or float) of each layer, int8 activations, 10,000 images of validation: two workers of one thread against
Optuna in memory, TensorFlow's converter with the same layers kept float (`QuantizationDebugger`, as its guide does it) and
the guides' evaluation, one image after another. Theirs is given ours' proposals. In turn; the rate counts from when each
worker has ended its first trial.

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import Result, ended, fashion, few, hourly, lightexp, output, parser, report

LAYERS = "pipeline.stages.quantize.layers"
SAMPLES = "pipeline.stages.quantize.calibration_samples"
SEARCH = ["search=mixed_precision", "model=lenet5", "pipeline.stages.train.epochs=1"]
IMAGES, COST, GROWTH, FASTER = 600, 80, 2, 5


def main() -> None:
    """Runs what is asked for, or the hand-written script as its child process."""
    options = parser(__doc__, runs=3)
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
    report(results, chosen.json)


def _cost(trials: int) -> list[Result]:
    width = min(50, trials // 6)
    early, late = (min(100, trials // 3) - width, min(100, trials // 3) + width), (trials - 2 * width, trials - 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = [*SEARCH, *few(folder, IMAGES), f"{SAMPLES}=range(1,65)", "search.study=cost"]
        with _watched(folder / "outputs/searches/cost/trials") as seen:
            lightexp(["search", *words, f"search.trials={trials}", "runtime.threads=1"], folder)
        begun = [t.datetime_start.timestamp() for t in sorted(ended(folder, "cost"), key=lambda trial: trial.number)]
        cycles = np.diff(begun) * 1e3
        new = [_was_made(folder / f"outputs/searches/cost/trials/{n:04d}/record.json") for n in range(trials)]
    results, costs = [], []
    for low, high in (early, late):
        cycle = statistics.median(cycles[n] for n in range(low, high) if new[n])
        counts, seconds = np.array(seen).T
        cpu = 1e3 * float(np.interp(high, counts, seconds) - np.interp(low, counts, seconds)) / (high - low)
        costs.append((cycle, cpu))
        what = f"around trial {(low + high) // 2}"
        results.append(Result(f"cycle of a trial, {what}", [cycle], [], "ms", COST, at_least=False))
        results.append(Result(f"CPU time of all processes a trial, {what}", [cpu], [], "ms", COST, at_least=False))
    for kind, first, last in zip(("cycle", "CPU time"), *costs, strict=True):
        results.append(Result(f"{kind}, late against early", [last], [first], "ms", GROWTH, at_least=False))
    return results


def _was_made(record: Path) -> bool:
    return not json.loads(record.read_text())["stages"][-1]["from_store"]


@contextmanager
def _watched(folder: Path) -> Iterator[list[tuple[int, float]]]:
    """Notes how many trials have a record in a folder, and the CPU seconds of this process's children so far."""
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
    """CPU seconds of all processes below one, those that they have waited for included."""
    ticks: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        ticks[int(path.parent.name)] = int(words[1]), sum(map(int, words[11:15]))
    below, total = {parent}, 0
    while found := {one for one, (its, _) in ticks.items() if its in below} - below:
        total += sum(ticks[one][1] for one in found)
        below |= found
    return total / os.sysconf("SC_CLK_TCK")


def _script(chosen: argparse.Namespace) -> Result:
    ours: list[float] = []
    theirs: list[float] = []
    best: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        start = Path(name) / "start"
        start.mkdir()
        data = few(start, IMAGES) if chosen.smoke else ["dataset=fashion_mnist"]
        lightexp(["run", *SEARCH[1:], *data, "pipeline=control"], start)
        (record,) = (start / "outputs/runs").glob("*/record.json")
        key = json.loads(record.read_text())["stages"][0]["key"]
        words = [*SEARCH, *data, "pipeline.stages.quantize.scheme=int8", "search.study=script", "search.corners=[]"]
        words += ["search.sampler=grid", f"{LAYERS}=choice(8,32)", f"{SAMPLES}=choice(100,200)", "search.trials=100"]
        for run in range(chosen.runs):
            folder = Path(name) / str(run)
            shutil.copytree(start, folder)
            lightexp(["search", *words, "search.workers=2", "runtime.threads=2"], folder)
            trials = ended(folder, "script")
            ours.append(hourly(trials, workers=2))
            shutil.copytree(folder / "outputs/store/entries" / key[:2] / key, folder / "model")
            (folder / "proposals.json").write_text(json.dumps([t.params for t in trials]))
            smoke = ["--smoke"] if chosen.smoke else []
            done = output([sys.executable, __file__, *smoke, "--by-hand", str(folder)], folder)
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

    data = fashion(IMAGES if smoke else None)
    x, y = data.inputs(data.val.x), data.val.y
    samples = data.inputs(data.train.x[:200])
    model = keras_files.load(folder / "model")
    names = _outputs(tf, model)

    def objective(trial: Any) -> tuple[float, int]:
        bits = {layer: trial.suggest_categorical(f"{LAYERS}.{layer}", [8, 32]) for layer in names}
        count = trial.suggest_categorical(SAMPLES, [100, 200])

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
    proposals = json.loads((folder / "proposals.json").read_text())
    for proposal in proposals:
        study.enqueue_trial(proposal)
    study.optimize(objective, n_trials=len(proposals))
    print(hourly(study.trials), f"{max(t.values[0] for t in study.trials):.2%}")


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
