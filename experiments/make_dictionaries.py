"""Write the dictionaries of the format `.lxe`: what `encode` leaves of lightexp's models once their weights are coded.

Files refer to a dictionary by its version and number, so a version that was released is never written again: raise
`VERSION` in `lightexp/export/dictionaries.py` first, and keep the old file.

    python experiments/make_dictionaries.py
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np

from lightexp.backend import session
from lightexp.backend.flatbuffer import read_constant_spans, read_graph
from lightexp.export import dictionaries, lxe, packing
from lightexp.runner.compose import compose_settings

SMALL = {  # with the shapes of their inputs
    "article_mlp": (28, 28, 1),
    "lenet_300_100": (28, 28, 1),
    "lenet5": (28, 28, 1),
    "small_cnn": (28, 28, 1),
    "tutorial_cnn": (28, 28, 1),
    "cnn_1d": (40, 1),
}
LARGE = {"ds_cnn": (49, 10, 1), "resnet8": (32, 32, 3), "mobilenet_v1": (96, 96, 3)}
SCHEMES = ("float32", "default", "dynamic", "float16", "int8")


def main() -> None:
    """Write one dictionary for all small models of a scheme, and one for each large model."""
    session.start_tensorflow(1)
    contents = []
    for scheme in SCHEMES:
        groups = [SMALL, *({name: shape} for name, shape in LARGE.items())]
        for group in groups:
            content = b"".join(make_frame(name, shape, scheme) for name, shape in group.items())
            contents.append(content[-dictionaries.MAX_SIZE :])
            print(f"{len(contents) - 1} {scheme}, {', '.join(group)}: {len(content):,} bytes", flush=True)
    contents += dictionaries.load(1)[-1 - len(LARGE) :]  # of int8 files as versions before 3 of `quantize` wrote them
    path = dictionaries.write(contents)
    print(f"{path}: {path.stat().st_size:,} bytes")


def make_frame(name: str, shape: tuple[int, ...], scheme: str) -> bytes:
    """Return what is left of a model's file; its weights are random and sparse."""
    from lightexp.backend import converter, edge_quantizer, litert
    from lightexp.backend.stderr import silence_stderr

    session.reset_graph(0)
    model = compose_settings([f"model={name}"]).model.build(shape, 10)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=weight.shape) for weight in model.get_weights()]
    model.set_weights([np.where(np.abs(w) < 1.5, 0, w) if w.ndim > 1 else np.abs(w) + 0.1 for w in weights])
    with tempfile.TemporaryDirectory() as folder, silence_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.tflite"
        path.write_bytes(
            converter.convert_default(model) if scheme == "default" else converter.convert_to_float32(model)
        )
        if scheme in ("dynamic", "float16", "int8"):
            ranges = litert.collect_ranges(path, rng.random((4, *shape), np.float32), 1)
            kernels = [(16 if scheme == "float16" else 8, 0) for _ in read_graph(path).kernels]
            path.write_bytes(edge_quantizer.quantize(path, ranges, scheme, 8, kernels, "float").tobytes())
        encoded = lxe.encode(path.read_bytes(), read_constant_spans(path, quantization=True))
    _, sizes, start = lxe.read_header(encoded)
    return packing.decompress(encoded[start : start + sizes[3]], sizes[1])


if __name__ == "__main__":
    main()
