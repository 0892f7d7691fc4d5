"""Peak memory of a complete `lightexp run` against a plain Keras script on the same `.npz`.

50,000 images of 32x32x3 bytes (noise, brighter by class; 154 MB), or the same as float32 (614 MB), in one file of `x`
and `y`. Both hold out 10,000 to test and 8,000 to validate, train small_cnn for an epoch in batches of 128, and
evaluate. The script is what one writes by hand: `numpy.load`, inputs as one scaled float32 array, `fit`, `evaluate`.
lightexp is the command, which also converts, measures and records. Compared is the largest resident set of each
process (of the command, which runs without tracking, of its largest process); the two run in turn.

    python experiments/benchmarks/memory.py --runs 3
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Result, make_parser, print_results

IMAGES, BATCH, TARGET = 50_000, 128, 1.6
CASES = ("uint8", "float32")


def main() -> None:
    """Run the comparison, or as its child process the plain script or the writing of the file."""
    options = make_parser(__doc__, runs=3)
    options.add_argument("--only", choices=CASES, action="append", help="this type of examples (default: both)")
    options.add_argument("--images", type=int, default=IMAGES, help="how many (default: %(default)s)")
    options.add_argument("--as-child", nargs=2, metavar=("PART", "FILE"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    cases = chosen.only or CASES
    if chosen.as_child:
        part, file = chosen.as_child
        if part == "write":
            write_images(Path(file), cases[0], chosen.images)
        else:
            train_by_hand(Path(file))
        return
    runs, images = (1, 300) if chosen.smoke else (chosen.runs, chosen.images)
    print_results([compare(case, runs, images) for case in cases], chosen.json)


def compare(case: str, runs: int, images: int) -> Result:
    """Run both sides in turn on examples of one type."""
    ours, theirs, seconds = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / f"{case}.npz"
        itself = [sys.executable, __file__, "--only", case, "--images", str(images)]
        # In another process, because a child process starts with the peak of its parent.
        measure_peak([*itself, "--as-child", "write", str(file)], folder)
        overrides = ["dataset=arrays", f"dataset.path={file}", "model=small_cnn", "pipeline=control", "tracking=none"]
        overrides += ["pipeline.stages.train.epochs=1", f"pipeline.stages.train.batch_size={BATCH}"]
        command = [str(Path(sys.executable).parent / "lightexp"), "run", *overrides]
        for run in range(runs):
            start = time.perf_counter()
            ours.append(measure_peak([*command, f"paths.outputs={folder / str(run)}"], folder))  # an empty store
            between = time.perf_counter()
            theirs.append(measure_peak([*itself, "--as-child", "by-hand", str(file)], folder))
            seconds.append((between - start, time.perf_counter() - between))
    fastest = [min(side) for side in zip(*seconds, strict=True)]
    note = f"shortest wall time: ours {fastest[0]:.1f} s, theirs {fastest[1]:.1f} s"
    return Result(f"a run on {images:,} images, {case}", ours, theirs, "MB", TARGET, at_least=False, note=note)


def measure_peak(command: list[str], folder: Path) -> float:
    """Run a command and return its largest resident set in MB; of several processes, the largest one's."""
    with tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            err.seek(0)
            sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{err.read().decode()}")
    return used.ru_maxrss * 1024 / 1e6


def write_images(file: Path, case: str, images: int) -> None:
    """Write noise that is brighter by class."""
    import numpy as np

    rng = np.random.default_rng(0)
    y = np.arange(images) % 10
    x = rng.integers(0, 156, (images, 32, 32, 3), np.uint8) + (10 * y[:, None, None, None]).astype(np.uint8)
    np.savez(file, x=x if case == "uint8" else x / np.float32(255), y=y)


def train_by_hand(file: Path) -> None:
    """Load, train and evaluate with Keras alone."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import numpy as np
    import tf_keras
    from training import build_model

    with np.load(file) as arrays:
        x, y = arrays["x"], arrays["y"]
    if x.dtype == np.uint8:
        x = x / np.float32(255)
    test, val = len(x) // 5, len(x) // 5 + len(x) * 4 // 25
    model = build_model("small_cnn", x.shape[1:], 10)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(), loss, metrics=["accuracy"])
    validation = x[test:val], y[test:val]
    model.fit(x[val:], y[val:], batch_size=BATCH, epochs=1, validation_data=validation, verbose=2)
    model.evaluate(x[:test], y[:test], batch_size=BATCH, verbose=2)


if __name__ == "__main__":
    main()
