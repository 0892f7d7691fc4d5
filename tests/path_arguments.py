"""Every argument and setting that takes a path, and files at known places, for tests and the benchmark of faults."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lightexp.cli.main import main
from lightexp.core.record import Record
from lightexp.datasets.mnist_files import IDX_FILES
from lightexp.runner.compose import compose_settings
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.search.storage import count_trials, open_storage


def plan(*overrides: str) -> Callable[[Path], object]:
    """Return a function that plans a run; `PATH` and `FOLDER` in an override are the file's path and its folder."""

    def attempt(path: Path) -> object:
        outputs = path.parent / "outputs"
        words = [word.replace("PATH", f"'{path}'").replace("FOLDER", f"'{path.parent}'") for word in overrides]
        settings = compose_settings([f"paths.outputs='{outputs}'", "tracking=none", *words])
        return Runner(SilentReporter()).plan(settings)

    return attempt


def command(*words: str) -> Callable[[Path], object]:
    """Return a function that runs a command; `PATH` and `FOLDER` in a word are the file's path and its folder."""

    def attempt(path: Path) -> object:
        return main([word.replace("PATH", str(path)).replace("FOLDER", str(path.parent)) for word in words])

    return attempt


def export_run(path: Path) -> object:
    record = Record("run", "name", "lightexp run", {}, [], {}, started=time.time(), status="done")
    record.files, record.dataset = {"model": "model.tflite"}, {"classes": 2}
    record.write(path.parent)
    labels = [f"--labels={path}"] if path.suffix == ".txt" else []
    return main(["export", str(path.parent), *labels])


def open_journal(path: Path) -> object:
    count_trials(str(path), path.parent, "study")
    return open_storage(str(path), path.parent, "study", print)


def plan_images(path: Path) -> object:
    for name in ("cat", "dog"):
        (path.parent / name).mkdir(exist_ok=True)
    path.rename(path.parent / "cat" / path.name)
    return plan("dataset=image_folder", "dataset.path=FOLDER")(path)


def plan_mnist(path: Path) -> object:
    for name in IDX_FILES:
        if name != path.name:
            (path.parent / name).write_bytes(b"")
    return plan("dataset=mnist", "dataset.folder=FOLDER")(path)


def bench_file(path: Path) -> object:
    (path.parent / "net.tflite").write_bytes(b"")
    return command("bench", "FOLDER/net.tflite", "--adb=x", "--benchmark-model=PATH")(path)


PATH_ARGUMENTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "model.path .h5": ("net.h5", plan("model=from_file", "model.path=PATH")),
    "model.path .keras": ("net.keras", plan("model=from_file", "model.path=PATH", "pipeline=control")),
    "model.path .tflite": ("net.tflite", plan("model=from_file", "model.path=PATH", "model.trust=true")),
    "model.path, SavedModel": ("saved_model.pb", plan("model=from_file", "model.path=FOLDER")),
    "teacher": ("net.tflite", plan("pipeline=distill", "pipeline.stages.distill.objective.teacher=PATH")),
    "dataset.path, arrays": ("mine.npz", plan("dataset=arrays", "dataset.path=PATH")),
    "dataset.path, table": ("mine.csv", plan("dataset=table", "dataset.path=PATH")),
    "dataset.path, Parquet": ("mine.parquet", plan("dataset=table", "dataset.path=PATH")),
    "dataset.path, images": ("images", plan("dataset=image_folder", "dataset.path=PATH")),
    "dataset.labels": (
        "labels.csv",
        plan("dataset=image_folder", "dataset.path=FOLDER", "task=multilabel", "dataset.labels=PATH"),
    ),
    "dataset.path, an image": ("1.png", plan_images),
    "dataset.folder, a file": (IDX_FILES[0], plan_mnist),
    "dataset.folder, mnist": ("mnist", plan("dataset=mnist", "dataset.folder=PATH")),
    "dataset.folder, cifar10": ("cifar", plan("dataset=cifar10", "dataset.folder=PATH")),
    "paths.outputs": ("there", plan("paths.outputs=PATH")),
    "search.storage": ("journal.log", open_journal),
    "ablate FILE": ("table.yaml", command("ablate", "PATH", "--plan")),
    "report FILE": ("table.yaml", command("report", "PATH")),
    "report FOLDER": ("runs", command("report", "PATH")),
    "report FOLDER, record": ("record.json", command("report", "FOLDER")),
    "report --compare": ("runs", command("report", "--compare", "PATH", "PATH")),
    "decode FILE": ("model.lxe", command("decode", "PATH")),
    "export RUN": ("run", command("export", "PATH")),
    "export RUN, record": ("record.json", command("export", "FOLDER")),
    "export RUN, model": ("model.tflite", export_run),
    "export --labels": ("labels.txt", export_run),
    "bench RUN": ("run", command("bench", "PATH")),
    "bench FILE": ("net.tflite", command("bench", "PATH")),
    "bench --benchmark-model": ("program", bench_file),
    "--config-dir": ("conf", command("store", "ls", "--config-dir", "PATH")),
    "track sync": ("runs", command("track", "sync", "paths.outputs=FOLDER")),
    "ui": ("mlflow.db", command("ui", "--port=0", "paths.outputs=FOLDER")),
    "tracking.uri": ("mine.db", command("track", "sync", "paths.outputs=FOLDER", "tracking.uri='sqlite:///PATH'")),
}
"""The name of a file, and what is done with it. Each is refused unless it is a file."""
