"""`lightexp export`: a run's model for a device, as a `.tflite` with metadata and as a C array, or for Keras."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lightexp.cli.arguments import Arguments
from lightexp.cli.atomic_write import write_files
from lightexp.cli.keras_export import ENDINGS, export_keras_forms
from lightexp.cli.npu_export import compile_for_target
from lightexp.cli.printing import print_line
from lightexp.core.errors import BadInput, format_reason
from lightexp.core.regular_files import read_bytes, read_text

if TYPE_CHECKING:
    from lightexp.core.record import Record
    from lightexp.core.tflite_graph import TFLiteGraph


def make_parser() -> Arguments:
    """Make the parser of `lightexp export`."""
    parser = Arguments(
        "export",
        description="Write a run's model with metadata (labels, scaling, how it was made), and as a C array; or with "
        "--keras, --keras2 or --saved-model the last model of the run that has Keras layers, to go on with.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder, such as outputs/runs/<time>-<id>")
    parser.add_argument("-o", "--output", type=Path, help="the folder to write to (default: RUN/export)")
    parser.add_argument("--name", default="model", help="what files and C names begin with (default: %(default)s)")
    parser.add_argument("--labels", type=Path, help="a text file of the classes' names, one a line")
    parser.add_argument("--vela", metavar="TARGET", help="also compile it for an NPU, such as ethos_u55_128")
    parser.add_argument("--keras", type=Path, metavar="OUT.keras", help="write a file of Keras 3 instead")
    parser.add_argument("--keras2", type=Path, metavar="OUT.h5", help="write a file of Keras 2 (tf_keras) instead")
    parser.add_argument("--saved-model", type=Path, metavar="FOLDER", help="write TensorFlow's SavedModel instead")
    parser.add_argument("--force", action="store_true", help="replace existing files")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp export` and return the exit code.

    Args:
        argv: The command line after `export`.

    Raises:
        BadInput: If there is no such run, it has no model of the form, or a file cannot be written.
    """
    options = make_parser().parse_args(argv)
    from lightexp.core.record import read_record

    record = read_record(options.run)
    model = record.locate_model(options.run)
    if targets := {option: path for option in ENDINGS if (path := getattr(options, option))}:
        export_keras_forms(record, options.run, targets, options.force)
        return 0
    dataset = dict(record.dataset)
    if options.labels:
        dataset["labels"] = _read_labels(options.labels, len(dataset.get("labels") or range(dataset.get("classes", 0))))
    contents = _build_files(record, model, options.name, dataset)
    if options.vela is not None:
        compiled = f"{options.name}_vela.tflite"
        contents[compiled], description = compile_for_target(record, model, options.vela)
    folder = options.output or options.run / "export"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{folder} cannot be made: {error.strerror}. Give another place with -o.") from None
    write_files({folder / name: content for name, content in contents.items()}, options.force)
    if options.vela is not None:
        print_line(f"{compiled}: {description}")
    return 0


def _build_files(record: Record, model: Path, name: str, dataset: dict[str, Any]) -> dict[str, bytes]:
    """Return the content of each exported file by its name.

    Args:
        record: The run's record.
        model: The run's `.tflite`.
        name: What the files' names and the C names begin with.
        dataset: The record's `dataset`, with the labels that the user may have given.
    """
    from lightexp.backend.embedded_format import make_embeddable
    from lightexp.core.version import __version__
    from lightexp.export.c_array import render_c_array
    from lightexp.export.c_model import CModel
    from lightexp.export.metadata import add_metadata

    try:
        content = read_bytes(model)
    except OSError as error:
        raise BadInput(f"{model} cannot be read: {error.strerror}. Run the pipeline again.") from None
    try:
        content = make_embeddable(content)
    except Exception as error:  # the flatbuffer's reader raises anything on a file that is cut off or edited
        raise BadInput(f"{model} is cut off or broken: {error!s:.200}. Run the pipeline again.") from None
    graph, arena = _inspect(content)
    firmware = CModel(graph, tuple(dataset.get("labels") or ()), arena)
    origin = f"lightexp {__version__}: {record.command}"
    comments = [f"{record.name}, run {record.id}", origin, f"SHA-256 of the .tflite: {sha256(content).hexdigest()}"]
    header, source = render_c_array(content, name, firmware, comments)
    return {
        f"{name}.tflite": add_metadata(content, record.name, record.id, origin, dataset),
        f"{name}.h": header.encode(),
        f"{name}.cc": source.encode(),
    }


def _inspect(content: bytes) -> tuple[TFLiteGraph, int | str]:
    """Return a file's graph, and the bytes of its smallest arena or the reason why it is not known."""
    from lightexp.backend import micro
    from lightexp.backend.flatbuffer import read_graph
    from lightexp.metrics.board_advice import explain_refusal

    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.tflite"
        file.write_bytes(content)
        graph = read_graph(file)
        if reason := micro.find_unavailable_reason():
            return graph, reason
        try:
            return graph, micro.measure_arena(file).minimum
        except BadInput as error:
            return graph, explain_refusal(str(error), graph)


def _read_labels(path: Path, classes: int) -> list[str]:
    try:
        labels = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        advice = "Give a text file of names, one a line."
        raise BadInput(f"{path} cannot be read: {format_reason(error)}. {advice}") from None
    if not classes:
        raise BadInput(f"--labels={path}: the model's outputs are numbers, which have no classes. Leave it out.")
    if len(labels) != classes:
        raise BadInput(f"{path} names {len(labels)} classes; the model has {classes}. Give one name a line.")
    return labels
