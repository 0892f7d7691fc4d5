"""`lightexp decode`: turn an encoded model (.lxe) back into its `.tflite`."""

from __future__ import annotations

from pathlib import Path

from lightexp.cli.arguments import Arguments
from lightexp.cli.atomic_write import write_files
from lightexp.core.errors import BadInput


def make_parser() -> Arguments:
    """Make the parser of `lightexp decode`."""
    parser = Arguments("decode", description="Restore the .tflite of an encoded model, bit for bit.")
    parser.add_argument("file", type=Path, help="a .lxe file, such as a run's model.lxe")
    parser.add_argument("-o", "--output", type=Path, help="where to write it (default: FILE with the ending .tflite)")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    return parser


def run(argv: list[str]) -> int:
    """Run `lightexp decode` and return the exit code.

    Args:
        argv: The command line after `decode`.

    Raises:
        BadInput: If the file cannot be decoded, or the result cannot be written.
    """
    options = make_parser().parse_args(argv)
    from lightexp.core.regular_files import read_bytes
    from lightexp.export.lxe import decode

    try:
        content = decode(read_bytes(options.file))
    except OSError as error:
        raise BadInput(f"{options.file} cannot be read: {error.strerror}. Give the path of a .lxe file.") from None
    except BadInput as error:
        raise BadInput(f"{options.file}: {error}") from None
    write_files({options.output or options.file.with_suffix(".tflite"): content}, options.force)
    return 0
