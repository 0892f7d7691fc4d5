"""`lightexp export`: what leaves a run for a device."""

from __future__ import annotations

from pathlib import Path

from lightexp.cli.arguments import Arguments
from lightexp.cli.atomic_write import write_files
from lightexp.core.errors import BadInput


def make_parser() -> Arguments:
    """The command's flags."""
    made = Arguments(
        "export",
        description="Writes a run's model with metadata (labels, scaling, how it was made), and as a C array.",
    )
    made.add_argument("run", type=Path, metavar="RUN", help="a run's folder, such as outputs/runs/<time>-<id>")
    made.add_argument("-o", "--output", type=Path, help="the folder to write to (default: RUN/export)")
    made.add_argument("--name", default="model", help="what files and C names begin with (default: %(default)s)")
    made.add_argument("--labels", type=Path, help="a text file of the classes' names, one a line")
    made.add_argument("--force", action="store_true", help="replace files that are there")
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp export` and returns the exit code.

    Args:
        words: The command line after `export`.

    Raises:
        BadInput: If there is no such run, it has no model, or a file cannot be written.
    """
    chosen = make_parser().parse_args(words)
    from lightexp.backend.flatbuffer import read_graph as flat
    from lightexp.core.fingerprint import hash_file
    from lightexp.core.record import read_record
    from lightexp.core.version import __version__
    from lightexp.export.c_array import render_c_array
    from lightexp.export.metadata import add_metadata

    record = read_record(chosen.run)
    if record.status != "done":
        raise BadInput(f"{chosen.run} is {record.status} and ships no model. Give the folder of a run that is done.")
    model = chosen.run / record.files["model"]
    operators = [op.kind for op in flat(model).ops]
    dataset = dict(record.dataset)
    if chosen.labels:
        dataset["labels"] = _labels(chosen.labels, dataset["classes"])
    made = f"lightexp {__version__}: {record.command}"
    about = [f"{record.name}, run {record.id}", made, f"SHA-256 of the .tflite: {hash_file(model)}"]
    header, source = render_c_array(model.read_bytes(), chosen.name, operators, about)
    content = add_metadata(model.read_bytes(), record.name, record.id, made, dataset)
    folder = chosen.output or chosen.run / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error.strerror}. Give another place with -o.") from None
    files = {"tflite": content, "h": header.encode(), "cc": source.encode()}
    write_files({folder / f"{chosen.name}.{ending}": whole for ending, whole in files.items()}, chosen.force)
    return 0


def _labels(path: Path, classes: int) -> list[str]:
    try:
        labels = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}. Give a text file of names, one a line.") from None
    if len(labels) != classes:
        raise BadInput(f"{path} names {len(labels)} classes; the model has {classes}. Give one name a line.")
    return labels
