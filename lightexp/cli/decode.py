"""`lightexp decode`: an encoded model back to its `.tflite`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import NoReturn

from lightexp.core.errors import BadInput


def run(words: list[str]) -> int:
    """Runs `lightexp decode` and returns the exit code.

    Args:
        words: The command line after `decode`.

    Raises:
        BadInput: If the file cannot be decoded, or its result not be written.
    """
    options = _Words("lightexp decode", description="Makes the .tflite of an encoded model again.")
    options.add_argument("file", type=Path, help="a .lxe file, such as a run's model.lxe")
    options.add_argument("-o", "--output", type=Path, help="where to write it (default: FILE with the ending .tflite)")
    options.add_argument("--force", action="store_true", help="replace a file that is there")
    chosen = options.parse_args(words)
    from lightexp.export.lxe import decode

    try:
        content = decode(chosen.file.read_bytes())
    except OSError as error:
        raise BadInput(f"{chosen.file} cannot be read: {error.strerror}. Give the path of a .lxe file.") from None
    except BadInput as error:
        raise BadInput(f"{chosen.file}: {error}") from None
    target = chosen.output or chosen.file.with_suffix(".tflite")
    if target.exists() and not (chosen.force and target.is_file()):
        raise BadInput(f"{target} exists. Give --force to replace it, or another place with -o.")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BadInput(f"{target} cannot be written: {error.strerror}. Give another place with -o.") from None
    print(f"{target} ({len(content):,} bytes)")
    return 0


class _Words(argparse.ArgumentParser):
    """Whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}. See {self.prog} --help.")
