"""images of a data set that neither memory nor disk holds decoded: calibration and evaluation against reading.

JPEG images of 96x96x3 in TFRecord files, which are links to one file, so that 1.2 million (33 GB decoded) take the disk
of 2,000. `dataset=tf_records` keeps none of them (`disk_gb`). A child process for each size loads them, calibrates and
quantises a file to int8 on the train split, runs the result on the validation split, and computes the metrics of
classification. Another only decodes the validation split, with the same code. `streaming.tflite` has Conv2D(8, 8,
strides=8), GlobalAveragePooling2D and Dense(10), so that little but the reading takes time.
"""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lightexp.core import memmap
from lightexp.core.artifact import Artifact
from lightexp.core.metrics import MeasurementContext
from lightexp.core.protocols import TFLITE, Context
from lightexp.datasets.tf_records import TfRecords
from lightexp.datasets.tfrecord_files import compute_checksums
from lightexp.metrics.accuracy import Accuracy
from lightexp.metrics.calibration import CalibrationError
from lightexp.metrics.per_class import PerClass
from lightexp.models.from_file import FromFile
from lightexp.runner.progress import SilentReporter
from lightexp.stages.calibration import Calibration
from lightexp.stages.quantize import Quantize

FILE = Path(__file__).with_suffix(".tflite")
SIDE, CLASSES, PER_FILE = 96, 10, 2_000
SIZES, RUNS = (12_000, 60_000, 1_200_000), 3


def measure(smoke: bool) -> list[Any]:
    """Measure small, medium and large data sets; time is compared at the medium size, memory at the largest."""
    from common import Result

    sizes, runs = ((PER_FILE // 10, PER_FILE // 5, PER_FILE // 5), 1) if smoke else (SIZES, RUNS)
    per_file = min(PER_FILE, *sizes)
    with tempfile.TemporaryDirectory() as name:
        shard = Path(name) / "images"
        shard.write_bytes(make_records(per_file))
        small, medium, large = (
            measure_size(shard, images, per_file, repeats, in_process=smoke)
            for images, repeats in zip(sizes, (1, runs, 0), strict=True)
        )
    figures = f"{sizes[2]:,} images: loaded in {large['load_s']:.0f} s, then {large['work_s'][0]:.0f} s; peaks "
    figures += ", ".join(f"{size['peak_mb']:.0f} MB" for size in (small, medium, large))
    note = f"{sizes[1]:,} images, each {1e6 * min(medium['read_s']) / sizes[1]:.0f} us to read; {figures}"
    peaks = f"peak resident set at {sizes[2]:,} images against {sizes[0]:,}"
    return [
        Result("calibrate and evaluate against reading", medium["work_s"], medium["read_s"], "s", 1.2, False, note),
        Result(peaks, [large["peak_mb"]], [small["peak_mb"]], "MB", 1.1, False),
    ]


def make_records(count: int) -> bytes:
    """Return a TFRecord file of JPEG images of smooth noise, with labels."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        label = _encode_field(3, _encode_field(1, bytes([number % CLASSES])))
        records.append(
            _encode_example({"image": _encode_field(1, _encode_field(1, buffer.getvalue())), "label": label})
        )
    lengths = [struct.pack("<Q", len(record)) for record in records]
    checksums = [compute_checksums(parts).tolist() for parts in (lengths, records)]
    rows = zip(lengths, records, *checksums, strict=True)
    return b"".join(length + struct.pack("<I", a) + record + struct.pack("<I", b) for length, record, a, b in rows)


def _encode_example(features: dict[str, bytes]) -> bytes:
    entries = (_encode_field(1, name.encode()) + _encode_field(2, value) for name, value in features.items())
    return _encode_field(1, b"".join(_encode_field(1, entry) for entry in entries))


def _encode_field(number: int, content: bytes) -> bytes:
    """Return a field of a protocol buffer that holds bytes."""
    length, encoded = len(content), bytearray([number << 3 | 2])
    while length >= 0x80:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(encoded) + bytes([length]) + content


def measure_size(shard: Path, images: int, per_file: int, repeats: int, in_process: bool = False) -> dict[str, Any]:
    """Measure a data set of some validation images and one file of others, by default in a separate process."""
    print(f"streaming: {images:,} images", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=shard.parent) as name:
        for part in ("train", "test"):
            os.link(shard, Path(name) / f"{part}.tfrecord")
        for number in range(images // per_file):
            os.link(shard, Path(name) / f"val-{number:05d}.tfrecord")
        if in_process:  # cheaper, but the peak is that of all sizes so far
            return measure_folder(Path(name), repeats)
        command = [sys.executable, __file__, name, str(repeats)]
        done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure_folder(folder: Path, repeats: int) -> dict[str, Any]:
    """Load the images of a folder, and time reading and working on them; if `repeats` is 0, the work alone, once."""
    start = time.perf_counter()
    data = TfRecords(path=str(folder), memory_mb=1, disk_gb=1e-6, max_gb=100.0).load()
    load_s = time.perf_counter() - start
    assert data.val.on_disk
    read_s, work_s = [], []
    for _ in range(max(repeats, 1)):
        start = time.perf_counter()
        if repeats:
            for _ in memmap.read_in_chunks(data.val.x):
                pass
        between = time.perf_counter()
        evaluate(data, folder)
        read_s.append(between - start)
        work_s.append(time.perf_counter() - between)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
    return {"load_s": load_s, "read_s": read_s, "work_s": work_s, "peak_mb": peak_mb}


def evaluate(data: Any, folder: Path) -> None:
    """Calibrate, quantise to int8, and compute the metrics of classification on the validation split."""
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=folder.parent) as name, SilentReporter().stage("", 1, 1) as progress:
        folders = {stage: Path(name) / stage for stage in ("source", "calibration", "quantized")}
        for each in folders.values():
            each.mkdir()
        (folders["source"] / TFLITE).write_bytes(FILE.read_bytes())
        source = Artifact("tflite", folders["source"], {}, "source")
        model = FromFile(path=str(FILE))
        facts = Calibration().apply(source, Context(data, model, 0, threads, folders["calibration"], progress))
        inputs = {"calibration": Artifact("tflite", folders["calibration"], facts, "calibration")}
        context = Context(data, model, 0, threads, folders["quantized"], progress, inputs)
        Quantize(scheme="int8").apply(source, context)
        shipped = folders["quantized"] / TFLITE
        measured = MeasurementContext(shipped, source.tflite, data, threads, ("val",))
        for measurement in (Accuracy(), CalibrationError(), PerClass()):
            measurement.measure(measured)


if __name__ == "__main__":
    print(json.dumps(measure_folder(Path(sys.argv[1]), int(sys.argv[2]))))
