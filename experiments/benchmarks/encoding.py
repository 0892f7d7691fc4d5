"""Processor seconds to encode and to decode a million weights, and bytes against other coders of the same tensors.

One layer of 1,000 x 1,000 normally distributed weights (in random order, so that nothing is gained from neighbours):
as float32 with 90% zeros and 16 shared values, and as int8 by `quantize` with `scheme: default`.
lightexp does what the stage `encode` and `lightexp decode` do; the bytes are compared with `xz -9`.

Then the kernels of the trained models in `encoding_models/`, as integers, are coded by lightexp (without checksum and
digest), by gzip, xz and, where they are installed, zstd, brotli and DeepCABAC (the coder of ISO/IEC 15938-17, package
nncodec, at the best of its settings). The files are of the format's first version, which must stay readable.

    python experiments/benchmarks/encoding.py --runs 5
"""

from __future__ import annotations

import gzip
import importlib
import lzma
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import Result, make_parser, print_results

from lightexp.backend.flatbuffer import read_constant_spans
from lightexp.export import lxe, sparse
from lightexp.export.constants import unpack_values

SECONDS = 1.0
DEEPCABAC = "nncodec.extensions.deepCABAC"
MODELS = Path(__file__).parent / "encoding_models"
DEEPCABAC_RATIO = 0.9  # of our bytes to DeepCABAC's, or else to those of xz
WEIGHTS = 1000  # inputs, and outputs, of the layer


def main() -> None:
    """Write both files, then encode and decode each."""
    options = make_parser(__doc__, runs=5)
    chosen = options.parse_args()
    runs, side = (1, 60) if chosen.smoke else (chosen.runs, WEIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        results = [result for file in write_files(side, Path(folder)) for result in measure_file(file, runs)]
        for encoded in sorted(MODELS.glob("*.lxe"))[: 1 if chosen.smoke else None]:
            file = Path(folder) / f"{encoded.stem}.tflite"
            file.write_bytes(lxe.decode(encoded.read_bytes()))
            results.append(compare_coders(file, encoded.stat().st_size))
        print_results(results, chosen.json)


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
        start = time.process_time()
        encoded = lxe.encode(content, read_constant_spans(file, quantization=True))
        between = time.process_time()
        decoded = lxe.decode(encoded)
        decoding.append(time.process_time() - between)
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


def compare_coders(file: Path, before: int) -> Result:
    """Compare the bytes that a model's kernels take; `before` is the size of its file in the first format."""
    content, kernels, raw, spans = file.read_bytes(), [], b"", []
    for span in read_constant_spans(file):
        part = content[span.start : span.start + span.length]
        values = unpack_values(part, span.width)
        scans = sparse.list_scans(values, span)
        if len(span.shape) > 1 and (scans or span.width == 8):
            levels = sparse.find_levels(*scans[0], values) if scans else values.view(np.int8)
            kernels.append(levels.astype(np.int32).reshape(span.shape[0], -1))
            spans.append(replace(span, start=len(raw)))
            raw += part
    ours = len(lxe.encode(raw, spans)) - lxe.HEADER.size
    plain = b"".join(kernel.astype(np.int8).tobytes() for kernel in kernels)
    others = {"gzip -9": len(gzip.compress(plain, 9)), "xz -9": len(lzma.compress(plain, preset=9))}
    with suppress(ImportError):
        others["zstd -19"] = len(importlib.import_module("zstandard").ZstdCompressor(level=19).compress(plain))
    with suppress(ImportError):
        others["brotli"] = len(importlib.import_module("brotli").compress(plain))
    with suppress(ImportError):
        others["DeepCABAC"] = encode_with_deepcabac(importlib.import_module(DEEPCABAC), kernels)
    rival = "DeepCABAC" if "DeepCABAC" in others else "xz -9"
    start = time.process_time()
    encoded = lxe.encode(content, read_constant_spans(file, quantization=True))
    seconds = time.process_time() - start
    note = ", ".join(f"{name} {size:,}" for name, size in {"lightexp": ours, **others}.items())
    entropy = sum(compute_entropy(kernel) for kernel in kernels)
    note += f"; order-0 entropy of each kernel, its values' shares known, {entropy:,.0f}"
    note += f"; the file {len(content):,}, encoded {len(encoded):,} in {seconds:.1f} s (before {before:,})"
    note += f", of which not constants {len(encoded) - count_stream_bytes(encoded):,}"
    name = f"bytes of the kernels of {file.stem}, compared with {rival}"
    return Result(name, [ours], [others[rival]], "bytes", DEEPCABAC_RATIO, at_least=False, note=note)


def count_stream_bytes(encoded: bytes) -> int:
    """Return the bytes of the constants in an encoded file."""
    _, sizes, start = lxe.read_header(encoded)
    return len(encoded) - start - sizes[-1]


def encode_with_deepcabac(coder: Any, kernels: list[np.ndarray]) -> int:
    """Return the bytes by the best of DeepCABAC's settings for all kernels: contexts, orders, and skipping of rows."""
    sizes = []
    for unary, adaptive, scan, skip in product((1, 2, 4, 8, 11, 16), (0, 1), range(5), (0, 1)):
        encoder = coder.Encoder()
        for kernel in kernels:
            encoder.initCtxModels(unary, adaptive)
            empty = (~kernel.any(axis=1)).astype(np.int32) * skip
            off = coder.HdspMode.AlwaysOff, np.zeros(2, np.int8)
            encoder.encodeLayer(kernel, 0, scan, skip, 0, skip, empty, *off, 0, 0)
        sizes.append(len(encoder.finish()))
    return min(sizes)


def compute_entropy(values: np.ndarray) -> float:
    """Return the order-0 entropy in bytes."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


if __name__ == "__main__":
    main()
