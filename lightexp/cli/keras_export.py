"""The options of `lightexp export` that write a run's model as Keras has it."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lightexp.cli.printing import print_line
from lightexp.core.artifact import WEIGHTS
from lightexp.core.errors import BadInput, format_reason
from lightexp.core.json_text import encode_json
from lightexp.core.store import Store

if TYPE_CHECKING:
    from lightexp.core.record import Record, StageRecord

ENDINGS = {"keras": ".keras", "keras2": ".h5", "saved_model": ""}
"""The options, by their names in Python, and how the names of their files end."""


def export_keras_forms(record: Record, run: Path, targets: dict[str, Path], force: bool) -> None:
    """Write the last model of a run that has Keras layers, and print what was written.

    Args:
        record: The run's record.
        run: The run's folder.
        targets: Where to write, by option of `ENDINGS`.
        force: Whether existing files are replaced.

    Raises:
        BadInput: If a name has another ending, exists or cannot be written; if no stage of the run has Keras layers, or
            the store has lost its result.
    """
    for option, path in targets.items():
        _check_target(option, path, force)
    stage, folder = _find_model(record, Store(run.absolute().parent.parent / "store"))
    from lightexp.backend.keras_export import WRITERS

    later = [other.name for other in record.stages[record.stages.index(stage) + 1 :]]
    for option, path in targets.items():
        with ExitStack() as cleanup:
            draft = path.with_name(f".{os.getpid()}.{path.name}")  # Keras wants the ending
            cleanup.callback(_remove, draft)
            try:
                WRITERS[option](folder, draft)
                if path.is_dir():
                    shutil.rmtree(path)
                draft.replace(path)
            except OSError as error:
                raise BadInput(f"{path} cannot be written: {format_reason(error)}. Give another place.") from None
        print_line(f"{path} (after {stage.name}; {_describe_ends(record)})")
    if later:
        print_line(f"Not in it, as the result has no Keras layers: {', '.join(later)}.")


def _check_target(option: str, path: Path, force: bool) -> None:
    ending, flag = ENDINGS[option], f"--{option.replace('_', '-')}"
    if path.suffix != ending:
        expected = f"a file name that ends in {ending}" if ending else "a folder's name"
        raise BadInput(f"{flag} needs {expected}. Received: {path}.")
    is_ours = path.is_file() if ending else (path / "saved_model.pb").is_file()
    if os.path.lexists(path) and not (force and is_ours):
        raise BadInput(f"{path} exists. Give --force to replace it, or another place to {flag}.")
    if not path.absolute().parent.is_dir():
        raise BadInput(f"{path.parent} is not a folder. Give another place to {flag}.")


def _find_model(record: Record, store: Store) -> tuple[StageRecord, Path]:
    """Return the last stage whose result has Keras layers, and the folder of that."""
    for stage in reversed(record.stages):
        entry = store.load(stage.key)
        if entry is None:
            raise BadInput(
                f"The result of {stage.name} is not in {store.root} any more. Run it again, which makes it: "
                f"{record.command}"
            )
        if (entry.folder / WEIGHTS).is_file():
            return stage, entry.folder
    raise BadInput(f"{record.id} has no stage whose result has Keras layers. Its model is a .tflite throughout.")


def _describe_ends(record: Record) -> str:
    """Return what the model takes and gives."""
    scale, offset = record.dataset.get("scale", 1.0), record.dataset.get("offset", 0.0)
    scaled = "" if (scale, offset) == (1.0, 0.0) else f" * {encode_json(scale)} + {encode_json(offset)}"
    return f"inputs: the data{scaled}; outputs: the .tflite's, without a softmax"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
