"""Seconds to encode and to decode a million weights, and bytes against xz, gzip and the order-0 entropy.

One layer of 1,000 x 1,000 normally distributed weights (in random order, so that nothing is gained from neighbours):
as float32 with 90% zeros and 16 shared values, and as int8 by `quantize` with `scheme: default`.
lightexp does what the stage `encode` and `lightexp decode` do; the bytes are compared with `xz -9`.

    python experiments/benchmarks/encoding.py --runs 5
"""

from __future__ import annotations

import gzip
import lzma
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Result, make_parser, print_results

from lightexp.backend.flatbuffer import read_constant_spans
from lightexp.export import lxe
from lightexp.export.constants import unpack_values

SECONDS = 2.0
WEIGHTS = 1000  # inputs, and outputs, of the layer


def main() -> None:
    """Write both files, then encode and decode each."""
    options = make_parser(__doc__, runs=5)
    chosen = options.parse_args()
    runs, side = (1, 60) if chosen.smoke else (chosen.runs, WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        print_results(
            [result for file in write_files(side, Path(folder)) for result in measure_file(file, runs)], chosen.json
        )


def write_files(side: int, folder: Path) -> list[Path]:
    """Write the layer in both forms."""
    from lightexp.backend import session

    session.start_tensorflow(1)
    session.reset_graph(0)
    from lightexp.backend import converter

    kl = session.import_keras().layers
    model = session.import_keras().Sequential([kl.Input((side,)), kl.Dense(side, use_bias=False)])
    weights = np.random.default_rng(0).normal(0, 0.05, (side, side)).astype(np.float32)
    model.set_weights([weights])
    files = {"int8": converter.convert_default(model)}
    step = np.abs(weights).max() / 8
    shared = np.clip(np.round(weights / step), -8, 7) * step
    model.set_weights([np.where(np.abs(weights) < np.quantile(np.abs(weights), 0.9), 0, shared + 0.0)])
    files["float32, pruned and clustered"] = converter.convert_to_float32(model)
    paths = []
    for name, content in files.items():
        paths.append(folder / f"{name}.tflite")
        paths[-1].write_bytes(content)
    return paths


def measure_file(file: Path, runs: int) -> list[Result]:
    """Time encoding and decoding of a file; the first time of each is not counted."""
    content = file.read_bytes()
    encoding, decoding = [], []
    for _ in range(runs + 1):
        start = time.perf_counter()
        encoded = lxe.encode(content, read_constant_spans(file, quantization=True))
        between = time.perf_counter()
        decoded = lxe.decode(encoded)
        decoding.append(time.perf_counter() - between)
        encoding.append(between - start)
        if decoded != content:
            sys.exit(f"{file.stem}: it does not decode to the same bytes.")
    ours, xz = float(len(encoded)), float(len(lzma.compress(content, preset=9)))
    entropy = sum(
        compute_entropy(unpack_values(content[c.start : c.start + c.length], c.width))
        for c in read_constant_spans(file, quantization=True)
    )
    note = f"the file {len(content):,}, gzip -9 {len(gzip.compress(content, 9)):,}, constants' entropy {entropy:,.0f}"
    return [
        Result(f"encode a million weights, {file.stem}", encoding[1:], [], "s", SECONDS, at_least=False),
        Result(f"decode a million weights, {file.stem}", decoding[1:], [], "s", SECONDS, at_least=False),
        Result(f"bytes of a million weights, {file.stem}", [ours], [xz], "bytes", 1.0, at_least=False, note=note),
    ]


def compute_entropy(values: np.ndarray) -> float:
    """Return the order-0 entropy in bytes."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


if __name__ == "__main__":
    main()
