"""Dictionaries of the format `.lxe`: files without weights, to which the rest of other files is compared.

A file names the version and the number of its dictionary. `experiments/make_dictionaries.py` writes them.
"""

from __future__ import annotations

import lzma
import struct
from functools import cache
from pathlib import Path

VERSION = 2
"""Of the dictionaries; those of earlier versions stay."""
MAX_SIZE = 32_768 - 262
"""Bytes of a dictionary: as far as Deflate looks back."""


@cache
def load(version: int = VERSION) -> tuple[bytes, ...]:
    """Return the dictionaries of a version; none of a version that is not known.

    Args:
        version: Their version. Defaults to `VERSION`.
    """
    path = _path(version)
    if not path.is_file():
        return ()
    content, parts, at = lzma.decompress(path.read_bytes()), [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        parts.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(parts)


def write(contents: list[bytes]) -> Path:
    """Write the dictionaries of this version and return their file."""
    parts = b"".join(struct.pack("<I", len(content)) + content for content in contents)
    _path(VERSION).write_bytes(lzma.compress(parts, preset=9 | lzma.PRESET_EXTREME))
    return _path(VERSION)


def _path(version: int) -> Path:
    return Path(__file__).parent / f"dictionaries_{version}.xz"
