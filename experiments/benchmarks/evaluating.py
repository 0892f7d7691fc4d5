"""Images a second of evaluating a `.tflite` against the guides' loop, one image at a time.

LeNet-5 (untrained: weights do not change the time), as float32 and as int8 with float inputs, on Fashion-MNIST's
10,000 test images. The other side is the loop of TensorFlow's guides to quantisation: an interpreter with default
settings, and for each image `set_tensor`, `invoke`, `get_tensor` and `argmax`; its images are scaled before the clock
starts. lightexp does what a run does for each split, from the raw bytes to the accuracy. The two take turns, and must
find the same accuracy.

    python experiments/benchmarks/evaluating.py --runs 5
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from common import Result, load_fashion, make_parser, print_results
from numpy.typing import NDArray
from training import build_model

from lightexp.backend.litert import compute_logits
from lightexp.core.data import Data

TARGET = 1.5


def main() -> None:
    """Write both files and evaluate each."""
    options = make_parser(__doc__, runs=5)
    options.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of lightexp; the loop takes one (default: all)"
    )
    chosen = options.parse_args()
    runs, data = (1, load_fashion(200)) if chosen.smoke else (chosen.runs, load_fashion())
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(data, Path(folder), chosen.threads)
        print_results([compare(file, data, runs, chosen.threads) for file in files], chosen.json)


def write_files(data: Data, folder: Path, threads: int) -> list[Path]:
    """Write the model in both forms."""
    from lightexp.backend import session

    session.start_tensorflow(threads)
    session.reset_graph(0)
    from lightexp.backend import converter, edge_quantizer, flatbuffer, litert

    exact, small = folder / "float32.tflite", folder / "int8.tflite"
    exact.write_bytes(converter.convert_to_float32(build_model("lenet5", data.shape, data.classes)))
    ranges = litert.collect_ranges(exact, data.inputs(data.train.sample(200)), threads)
    kernels = [(8, 0)] * len(flatbuffer.read_graph(exact).kernels)
    small.write_bytes(edge_quantizer.quantize(exact, ranges, "int8", 8, kernels, io="float").tobytes())
    return [exact, small]


def compare(file: Path, data: Data, runs: int, threads: int) -> Result:
    """Let both sides evaluate in turn; the first time of each is not counted."""
    images, labels = data.inputs(data.test.x), data.test.y
    ours, theirs = [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        accuracy = np.mean(compute_logits(file, data.test.x, data, threads).argmax(axis=1) == labels)
        between = time.perf_counter()
        expected = np.mean(predict_one_by_one(file, images) == labels)
        end = time.perf_counter()
        if abs(accuracy - expected) > 0.01:  # sums in another order may change the class of an image or two
            sys.exit(f"{file.stem}: the accuracies differ, {accuracy} and {expected}.")
        ours.append(len(labels) / (between - start))
        theirs.append(len(labels) / (end - between))
    return Result(f"evaluate lenet5, {file.stem}", ours[1:], theirs[1:], "images/s", TARGET, at_least=True)


def predict_one_by_one(file: Path, images: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the class of each image, by one invocation per image."""
    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    source, sink = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    classes = []
    for image in images:
        interpreter.set_tensor(source, np.expand_dims(image, axis=0))
        interpreter.invoke()
        classes.append(np.argmax(interpreter.get_tensor(sink)[0]))
    return np.array(classes)


if __name__ == "__main__":
    main()
