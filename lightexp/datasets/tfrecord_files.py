"""Read TFRecord files of `tf.train.Example` messages, without TensorFlow."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput, format_reason
from lightexp.core.regular_files import open_regular

Feature = list[bytes] | NDArray[np.generic]
"""Strings of bytes, or an array `(n,)` of float32 or int64."""
_HEADER = struct.Struct("<QI")
_CHECKSUM_BYTES = 4
HEADER_BYTES = _HEADER.size
"""Bytes before the content of a record."""
FRAME_BYTES = HEADER_BYTES + _CHECKSUM_BYTES
"""Bytes before and after it."""
_BATCH_BYTES, _BATCH_RECORDS = 1 << 26, 512
_MAX_RECORD_BYTES = 1 << 30
_MAX_VARINT_BYTES = 10
_REMEDY = "Write it again."
_BYTES_LIST, _FLOAT_LIST, _INT_LIST = 1, 2, 3
_VARINT, _FIXED_8, _BYTES, _FIXED_4 = 0, 1, 2, 5  # wire types of protocol buffers


def read_records(path: Path) -> Iterator[bytes]:
    """Read the records of a file, which is unpacked if its name ends in `.gz`, and compare their checksums.

    Args:
        path: Path of the file.

    Raises:
        BadInput: If the file cannot be read, or is damaged.
    """
    with _open_records(path) as file:
        number = 0
        while batch := _read_batch(file, path, number):
            yield from batch
            number += len(batch)


def count_records(path: Path) -> int:
    """Return the number of records of a file, without comparing checksums.

    Raises:
        BadInput: If the file cannot be read, or ends within a record.
    """
    with _open_records(path) as file:
        count = 0
        while header := file.read(_HEADER.size):
            length = _read_length(header, path, count)
            if path.suffix == ".gz":
                file.read(length + _CHECKSUM_BYTES)
            else:
                file.seek(length + _CHECKSUM_BYTES, os.SEEK_CUR)
            count += 1
    return count


@contextmanager
def _open_records(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open_regular(path) as raw:
            if path.suffix != ".gz":
                yield raw
                return
            with gzip.open(raw) as file:
                yield file  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {format_reason(error)}. {_REMEDY}") from None


def _read_length(header: bytes, path: Path, number: int) -> int:
    """Return the length of a record from its header."""
    length: int = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else _MAX_RECORD_BYTES + 1
    if length > _MAX_RECORD_BYTES:
        raise _make_end_error(path, number)
    return length


def _make_end_error(path: Path, number: int) -> BadInput:
    return BadInput(f"{path} ends within record {number}, or is no TFRecord file. {_REMEDY}")


def _read_batch(file: IO[bytes], path: Path, first: int) -> list[bytes]:
    """Read up to `_BATCH_RECORDS` records."""
    lengths: list[bytes] = []
    records: list[bytes] = []
    checksums: list[int] = []
    size = 0
    while len(records) < _BATCH_RECORDS and size < _BATCH_BYTES:
        header = file.read(_HEADER.size)
        if not header:
            break
        length = _read_length(header, path, first + len(records))
        body = file.read(length + _CHECKSUM_BYTES)
        if len(body) != length + _CHECKSUM_BYTES:
            raise _make_end_error(path, first + len(records))
        lengths.append(header[:8])
        records.append(body[:-_CHECKSUM_BYTES])
        checksums += [_HEADER.unpack(header)[1], int.from_bytes(body[-_CHECKSUM_BYTES:], "little")]
        size += length
    expected = np.array(checksums, np.uint32).reshape(-1, 2)
    for column, parts in enumerate((lengths, records)):
        wrong = np.flatnonzero(compute_checksums(parts) != expected[:, column])
        if len(wrong):
            raise BadInput(f"{path}: record {first + wrong[0]} is damaged, its checksum differs. {_REMEDY}")
    return records


def _make_table() -> NDArray[np.uint32]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table


_TABLE = _make_table()


def compute_checksums(parts: Sequence[bytes]) -> NDArray[np.uint32]:
    """Return the masked CRC-32C of each string of bytes, as TFRecord files store it.

    All strings are computed together, byte by byte, which is fast in NumPy for many of similar lengths.
    """
    lengths = np.array([len(part) for part in parts], np.int64)
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    content = np.frombuffer(b"".join(parts), np.uint8)
    checksums = np.full(len(parts), 0xFFFFFFFF, np.uint32)
    counts = len(parts) - np.searchsorted(np.sort(lengths), np.arange(lengths.max(initial=0)), "right")
    for position, count in enumerate(counts.tolist()):
        active = checksums[:count]
        low = (active ^ content[starts[:count] + position]) & np.uint32(0xFF)
        checksums[:count] = _TABLE[low] ^ (active >> np.uint32(8))
    checksums ^= np.uint32(0xFFFFFFFF)
    masked = ((checksums >> np.uint32(15)) | (checksums << np.uint32(17))) + np.uint32(0xA282EAD8)
    result = np.empty_like(masked)
    result[order] = masked
    return result


def split_features(record: bytes) -> dict[str, bytes]:
    """Return the features of a `tf.train.Example` by name, each for `decode_feature`.

    Raises:
        ValueError: If the record is no such message.
    """
    features: dict[str, bytes] = {}
    for number, value in _iterate_fields(record):
        if number != 1 or not isinstance(value, bytes):
            continue
        for _, entry in _iterate_fields(value):
            if not isinstance(entry, bytes):
                raise ValueError("a feature is no message")
            parts = dict(_iterate_fields(entry))
            name, feature = parts.get(1, b""), parts.get(2, b"")
            if not isinstance(name, bytes) or not isinstance(feature, bytes):
                raise ValueError("a feature has no name")
            features[name.decode("utf-8", "replace")] = feature
    return features


def decode_feature(feature: bytes) -> Feature:
    """Return the values of a feature.

    Raises:
        ValueError: If it is no `tf.train.Feature`.
    """
    for kind, content in _iterate_fields(feature):
        if not isinstance(content, bytes):
            raise ValueError("a feature is no list")
        values: list[Any] = [value for number, value in _iterate_fields(content) if number == 1]
        if kind == _BYTES_LIST:
            return values
        packed = [value for value in values if isinstance(value, bytes)]
        if kind == _FLOAT_LIST:
            return np.frombuffer(b"".join(packed), "<f4").astype(np.float32)
        if kind == _INT_LIST:
            single = [value for value in values if isinstance(value, int)]
            return np.concatenate([np.array(single, np.uint64).astype(np.int64), *map(_decode_varints, packed)])
    return []


def _iterate_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield number and value of each field of a protocol buffer: an integer, or bytes of any other wire type."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        if tag & 7 == _VARINT:
            value, position = _read_varint(message, position)
            yield tag >> 3, value
            continue
        if tag & 7 == _BYTES:
            length, position = _read_varint(message, position)
        elif tag & 7 in (_FIXED_4, _FIXED_8):
            length = 4 if tag & 7 == _FIXED_4 else 8
        else:
            raise ValueError(f"a field has the unknown wire type {tag & 7}")
        if length > len(message) - position:
            raise ValueError("a field is longer than its message")
        yield tag >> 3, message[position : position + length]
        position += length


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 7 * _MAX_VARINT_BYTES:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value & (2**64 - 1), position
    raise ValueError("an integer has no end")


def _decode_varints(packed: bytes) -> NDArray[np.int64]:
    content = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(content < 0x80)
    if not len(content):
        return np.empty(0, np.int64)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if not len(ends) or ends[-1] != len(content) - 1 or (ends - starts).max() >= _MAX_VARINT_BYTES:
        raise ValueError("an integer has no end")
    places = np.arange(len(content)) - np.repeat(starts, ends - starts + 1)
    parts = (content & 0x7F).astype(np.uint64) << (7 * places).astype(np.uint64)
    return np.bitwise_or.reduceat(parts, starts).astype(np.int64)
