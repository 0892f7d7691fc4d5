"""Measure time and memory of a network that Keras 3 made: MobileNetV2, alpha 0.35, 96x96 pixels, random weights.

A process with Keras 3 writes the file. Each row is one `lightexp run` in a process and a store of its own; training is
one step of 64 images. The table is printed as Markdown.

    python experiments/mobilenet_v2.py [STAGE ...]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES = 100  # of which 64 are to train on
STAGES = {"": "", "train": "train", "prune_channels": "prune_channels", "qat": "qat", "int8": "quantize"}
"""Config of the stage after loading, by its name in the table."""


def write_files(folder: Path) -> None:
    """Write the network, as Keras 3 makes it, and images; to be run in a process of its own."""
    import keras
    import numpy as np

    rng, classes = np.random.default_rng(0), 4
    model = keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3), classes=classes, alpha=0.35)
    model.save(folder / "mobilenet_v2.keras")
    x = rng.integers(0, 256, (IMAGES, 96, 96, 3), np.uint8)
    np.savez(folder / "images.npz", x=x, y=np.arange(IMAGES) % classes)


def measure(command: list[str], folder: Path) -> tuple[float, float, float]:
    """Run a command; return seconds, seconds of processors, and GB of its largest process at its peak."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    output = process.stdout.read().decode()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def main() -> None:
    """Write the files, measure each stage and print the table."""
    if sys.argv[1:2] == ["--write"]:
        write_files(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        subprocess.run([sys.executable, __file__, "--write", path], check=True, capture_output=True)
        shared = ["dataset=arrays", "dataset.path=images.npz", "model=from_file", "model.path=mobilenet_v2.keras"]
        shared += ["tracking=none", "measure=quick", "runtime.threads=2"]
        lightexp = [str(Path(sys.executable).parent / "lightexp"), "run", *shared]
        print("| One run | seconds | of processors | peak memory |\n|---|---|---|---|", flush=True)
        for name in sys.argv[1:] or STAGES:
            overrides = ["pipeline=control", f"paths.outputs=outputs_{name}"]
            if name:
                stage = "pipeline.stages.it"
                overrides += [f"+stage@{stage}={STAGES[name]}", "pipeline.order=[train,it]"]
                overrides += [f"{stage}.epochs=1", f"{stage}.batch_size=64"] if name != "int8" else []
            seconds, processor, memory = measure([*lightexp, *overrides], folder)
            print(
                f"| loading{name and f', `{name}`'} | {seconds:.0f} | {processor:.0f} | {memory:.2f} GB |", flush=True
            )


if __name__ == "__main__":
    main()
