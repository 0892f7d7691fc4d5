"""`lightexp decode`: an encoded model back to its `.tflite`."""

from __future__ import annotations

from pathlib import Path

from lightexp.cli.arguments import Arguments
from lightexp.cli.atomic_write import write_files
from lightexp.core.errors import BadInput


def make_parser() -> Arguments:
    """The command's flags."""
    made = Arguments(
        "decode",
        description="Makes the .tflite of an encoded model again, to the bit.",
    )
    made.add_argument("file", type=Path, help="a .lxe file, such as a run's model.lxe")
    made.add_argument("-o", "--output", type=Path, help="where to write it (default: FILE with the ending .tflite)")
    made.add_argument("--force", action="store_true", help="replace a file that is there")
    return made


def run(words: list[str]) -> int:
    """Runs `lightexp decode` and returns the exit code.

    Args:
        words: The command line after `decode`.

    Raises:
        BadInput: If the file cannot be decoded, or its result not be written.
    """
    chosen = make_parser().parse_args(words)
    from lightexp.export.lxe import decode

    try:
        content = decode(chosen.file.read_bytes())
    except OSError as error:
        raise BadInput(f"{chosen.file} cannot be read: {error.strerror}. Give the path of a .lxe file.") from None
    except BadInput as error:
        raise BadInput(f"{chosen.file}: {error}") from None
    write_files({chosen.output or chosen.file.with_suffix(".tflite"): content}, chosen.force)
    return 0
