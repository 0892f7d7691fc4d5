"""Files of others that are damaged, or of wrong types and sizes: each is read, or refused in one line."""

from __future__ import annotations

import json
import random
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from fault_kinds.attempts import Attempt, Lost, call, damage, require_accepted, run_command
from lightexp.core.data import Data, Split
from lightexp.core.record import RECORD_FILE, read_record
from lightexp.datasets.arrays import Arrays
from lightexp.datasets.image_folder import ImageFolder
from lightexp.export import lxe
from lightexp.models.file_stages import make_file_stage
from lightexp.models.from_file import FromFile, try_on_example
from lightexp.runner.compose import compose_config
from lightexp.runner.settings import read_settings
from tests.fuzz import draw_mutant
from tests.report.record_views import make_tree, show

SHAPE, CLASSES = (8, 8, 1), 4
COLUMN = {"measurement": "size/ratio", "heading": "h", "format": ".1f", "direction": "max"}
ABLATION = {
    "claim": "c",
    "control": "a",
    "seeds": [0],
    "margin": 1.0,
    "figures": ["front"],
    "cost": "1 h",
    "rows": {
        "a": ["pipeline=control"],
        "b": {"grid": {"model.width": [0.5, 1]}},
        "c": {"zip": {"model.width": [0.5, 1], "dataset.split_seed": [1, 2]}, "base": ["pipeline=prune"]},
        "d": {"leave_one_out": ["prune", "quantize"]},
        "e": {"power_set": {"pruned": ["pipeline=prune"], "narrow": ["model.width=0.25"]}},
        "f": {"orders": ["prune", "quantize"]},
        "g": {"equal_budget": "c width=0.5 split_seed=1"},
    },
    "columns": [COLUMN],
    "base": ["seed=1"],
    "external": {"other": {"source": "s", "figures": {"accuracy/test": 0.9}}},
}


@contextmanager
def prepare_records(folder: Path) -> Iterator[Attempt]:
    """Each attempt reads a mutant of a record, and shows it in every form if it is not refused."""
    tree = make_tree(folder)
    require_accepted(call(lambda: show(read_record(folder), folder)))

    def attempt(rng: random.Random) -> None:
        (folder / RECORD_FILE).write_text(json.dumps(draw_mutant(tree, rng)), encoding="utf-8")
        call(lambda: show(read_record(folder), folder))

    yield attempt


@contextmanager
def prepare_ablations(folder: Path) -> Iterator[Attempt]:
    """Each attempt plans a mutant of an ablation's file."""
    path = folder / "table.yaml"
    command = ["ablate", str(path), "--plan", f"paths.outputs={folder / 'outputs'}"]
    path.write_text(json.dumps(ABLATION), encoding="utf-8")
    require_accepted(run_command(*command))

    def attempt(rng: random.Random) -> None:
        text = json.dumps(draw_mutant(ABLATION, rng))
        path.write_text(text if rng.random() < 0.8 else damage(text.encode(), rng).decode("latin-1"), encoding="utf-8")
        run_command(*command)

    yield attempt


@contextmanager
def prepare_configs(folder: Path) -> Iterator[Attempt]:
    """Each attempt reads the settings of a mutant of a complete config."""
    overrides = ["tracking=none", "pipeline=distill_prune_quantize", f"paths.outputs={folder}"]
    tree = OmegaConf.to_container(compose_config(overrides))
    require_accepted(call(lambda: read_settings(OmegaConf.create(tree))))

    def attempt(rng: random.Random) -> None:
        mutant = draw_mutant(tree, rng)
        call(lambda: read_settings(OmegaConf.create(mutant)))

    yield attempt


@contextmanager
def prepare_encoded(folder: Path) -> Iterator[Attempt]:
    """Each attempt decodes an encoded model that was damaged, and perhaps given a right checksum again."""
    from lightexp.backend.flatbuffer import read_constant_spans

    content = _find_tflite().read_bytes()
    encoded = lxe.encode(content, read_constant_spans(_find_tflite()))
    path = folder / "model.lxe"

    def attempt(rng: random.Random) -> None:
        altered = damage(encoded, rng)
        if forged := rng.random() < 0.6:
            altered = altered[:4] + struct.pack("<I", zlib.crc32(altered[8:])) + altered[8:]
        path.write_bytes(altered)
        code = run_command("decode", str(path), "--force")
        if not code and not forged and path.with_suffix(".tflite").read_bytes() != content:
            raise Lost("other bytes were decoded")

    yield attempt


@contextmanager
def prepare_models(folder: Path) -> Iterator[Attempt]:
    """Each attempt reads a Keras file or a `.tflite` that was damaged, or whose architecture is a mutant."""
    originals = _write_models(folder)
    data = _make_data()
    for name in originals:
        require_accepted(call(partial(_use_model, folder / name, data)))

    def attempt(rng: random.Random) -> None:
        name = rng.choice(["net.h5", "net.keras", "net.tflite", "architecture"])
        if name == "architecture":
            path = _write_mutant(folder / "mutant.h5", originals["net.h5"], rng)
        else:
            path = folder / name
            path.write_bytes(damage(originals[name], rng))
        call(lambda: _use_model(path, data))

    yield attempt


@contextmanager
def prepare_data(folder: Path) -> Iterator[Attempt]:
    """Each attempt reads arrays, or a folder of images, of which a file was damaged."""
    arrays, image = folder / "mine.npz", folder / "images" / "cat" / "0.png"
    x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % CLASSES
    np.savez_compressed(arrays, x=x, y=y)
    for number in range(20):
        path = folder / "images" / ("cat" if number % 2 == 0 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[number]).save(path)
    datasets = {arrays: Arrays(str(arrays)), image: ImageFolder(str(folder / "images"))}
    originals = {path: path.read_bytes() for path in datasets}
    for dataset in datasets.values():
        require_accepted(call(dataset.load))

    def attempt(rng: random.Random) -> None:
        path = rng.choice(list(datasets))
        path.write_bytes(damage(originals[path], rng))
        call(datasets[path].load)

    yield attempt


def _find_tflite() -> Path:
    return Path(__file__).parents[3] / "tests" / "search" / "plugin" / "tiny.tflite"


def _make_data() -> Data:
    x = np.random.default_rng(0).random((6, *SHAPE), np.float32)
    split = Split(x, np.arange(6, dtype=np.int32) % CLASSES)
    return Data("noise", split, split, split, CLASSES, 1.0, 0.0)


def _write_models(folder: Path) -> dict[str, bytes]:
    """Write a network in every format, and return the files' contents by name."""
    from lightexp.backend import session

    session.start_tensorflow(1)
    keras = session.import_keras()
    kl = keras.layers
    inputs = kl.Input(SHAPE)
    x = kl.ReLU(6.0)(kl.BatchNormalization()(kl.Conv2D(4, 3, padding="same", use_bias=False)(inputs)))
    x = kl.Add()([x, kl.DepthwiseConv2D(3, padding="same")(x)])
    outputs = kl.Dense(CLASSES, activation="softmax")(kl.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras warns about legacy formats
        for name in ("net.h5", "net.keras"):
            model.save(folder / name)
    shutil.copyfile(_find_tflite(), folder / "net.tflite")
    return {name: (folder / name).read_bytes() for name in ("net.h5", "net.keras", "net.tflite")}


def _write_mutant(path: Path, content: bytes, rng: random.Random) -> Path:
    """Write a `.h5` whose architecture is a mutant that an attribute of HDF5 can hold."""
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        tree = json.loads(file.attrs["model_config"])
        while len(text := json.dumps(draw_mutant(tree, rng))) > 60_000:
            pass
        file.attrs["model_config"] = text
    return path


def _use_model(path: Path, data: Data) -> None:
    model = FromFile(str(path))
    make_file_stage(model)
    model.check(SHAPE, CLASSES)
    if model.is_tflite:
        try_on_example(path, data)
    else:
        model.load(SHAPE, CLASSES)
