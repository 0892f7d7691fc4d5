"""Encode and decode `.lxe` files: a `.tflite` whose constants are range coded and whose rest is packed.

    LXE2 | CRC-32 of what follows | SHA-256 of the .tflite, its first 8 bytes | four sizes | packed | stream

The sizes are numbers of 7 bits a byte: of the .tflite, of parameters and rest, of the parameters, and of `packed`.
`packed` holds the parameters with which each constant was coded, and the file with these constants cut out; `stream`
holds the constants. Files of version 1 differ in the header (see `HEADER_1`) and know fewer ways of coding.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.coder import RangeCoder
from lightexp.export.constants import Learned, code, list_candidates, pack_values, unpack_values
from lightexp.export.packing import CorruptFile, UnknownDictionary, compress, decompress, estimate_size
from lightexp.export.parameters import parse, parse_numbers, serialize, serialize_number

VERSION = 2
"""Version of the format that is written; all up to it are read."""
HEADER = struct.Struct("<4sI8s")
"""Magic, checksum, digest; four sizes follow."""
HEADER_1 = struct.Struct("<4sI16s4I")
"""Of version 1: magic, checksum, digest, four sizes."""
_MAGIC = b"LXE%d" % VERSION
_SMALLEST_CONSTANT = 32  # bytes; coding a smaller one costs more than it saves
_NOISE_FACTOR = 1.01  # what LZMA makes of incompressible bytes
_REPETITION_FACTOR = 1.05
_ADVANTAGE = 8  # bytes by which a constant may be longer than estimated, as without it the rest packs better


@dataclass(frozen=True)
class _Trial:
    """A constant coded in one of the possible ways.

    Attributes:
        size: Bytes that it adds to the file.
        coder: The stream after it.
        learned: What has been learnt after it.
        parameters: Its parameters as bytes.
    """

    size: int
    coder: RangeCoder
    learned: Learned
    parameters: bytes


def max_decoded_size(size: int) -> int:
    """Return how many bytes a file of `size` bytes may decode to, which protects against decompression bombs."""
    return (16 << 20) + 1024 * size


def encode(content: bytes, constants: Sequence[ConstantSpan]) -> bytes:
    """Encode a `.tflite` file.

    Args:
        content: The file.
        constants: Where its constants lie, in order and without overlaps.

    Returns:
        The `.lxe` file.

    Raises:
        RunFailed: If the file is so repetitive that `decode` would refuse the result.
    """
    coder, learned = RangeCoder(), Learned()
    parameters, rest, end = b"", [], 0
    for span in constants:
        raw = content[span.start : span.start + span.length]
        best = min(
            _try_candidates(coder, learned, span, raw, span.start - end, constants), default=None, key=lambda t: t.size
        )
        if best and best.size < _estimate_general_size(raw) + _ADVANTAGE:
            coder, learned = best.coder, best.learned
            parameters += best.parameters
            rest.append(content[end : span.start])
            end = span.start + span.length
    plain = b"".join([parameters, *rest, content[end:]])
    packed = compress(plain)
    sizes = b"".join(map(serialize_number, (len(content), len(plain), len(parameters), len(packed))))
    header = HEADER.pack(_MAGIC, 0, hashlib.sha256(content).digest()[:8]) + sizes
    encoded = _add_checksum(header + packed + coder.finish())
    if constants and _repeats_itself(content, len(encoded)):
        return min(encode(content, ()), encoded, key=len)
    if len(content) > max_decoded_size(len(encoded)):
        raise RunFailed(f"The file's {len(content):,} bytes say next to nothing. Pack it with gzip instead.")
    return encoded


def _estimate_general_size(raw: bytes) -> float:
    """Estimate what LZMA makes of a constant in the rest of the file, by zlib."""
    deflated = len(zlib.compress(raw, 6))
    return deflated if deflated < len(raw) else _NOISE_FACTOR * len(raw)


def _repeats_itself(content: bytes, encoded_size: int) -> bool:
    """Return whether LZMA of everything may be smaller, as for files that repeat themselves over long distances."""
    return estimate_size(content) < _REPETITION_FACTOR * encoded_size


def _add_checksum(body: bytes) -> bytes:
    return _MAGIC + struct.pack("<I", zlib.crc32(body[8:])) + body[8:]


def _try_candidates(
    coder: RangeCoder, learned: Learned, span: ConstantSpan, raw: bytes, gap: int, others: Sequence[ConstantSpan]
) -> Iterator[_Trial]:
    """Yield the constant coded in each way that is worth trying."""
    if len(raw) < _SMALLEST_CONSTANT or len(raw) * 8 % span.width:
        return
    values = unpack_values(raw, span.width)
    for parameters, codebook in list_candidates(span, values, gap, learned.values, others):
        trial_coder, trial = coder.copy(), Learned(learned)
        code(trial_coder, trial, parameters, codebook, values)
        serialized = serialize(parameters)
        yield _Trial(trial_coder.size - coder.size + len(serialized), trial_coder, trial, serialized)


def decode(encoded: bytes) -> bytes:
    """Return the `.tflite` file that was encoded, byte for byte.

    Args:
        encoded: The `.lxe` file.

    Raises:
        BadInput: If lightexp did not encode it, or it is truncated or altered.
    """
    magic = re.match(rb"LXE([1-9])", encoded)
    if not magic:
        raise BadInput(f"This is no encoded model ({len(encoded)} bytes). Give a .lxe file that lightexp wrote.")
    version = int(magic[1])
    if version > VERSION:
        raise BadInput(
            f"The encoded model has format {version}, and this lightexp reads up to {VERSION}. Update lightexp."
        )
    try:
        return _decode(encoded, version)
    except UnknownDictionary as error:
        raise BadInput(f"The encoded model {error}. Update lightexp.") from None
    except Exception as error:  # the coders raise many types for bytes that they did not write
        raise BadInput(f"The encoded model is cut off or altered: {error}. Encode the .tflite again.") from None


def _decode(encoded: bytes, version: int) -> bytes:
    if struct.unpack_from("<I", encoded, 4)[0] != zlib.crc32(encoded[8:]):
        raise CorruptFile("its checksum is another")
    digest, sizes, start = read_header(encoded)
    size, plain_size, parameters_size, packed_size = sizes
    if max(size, plain_size) > max_decoded_size(len(encoded)) or parameters_size > plain_size:
        raise CorruptFile(f"it claims {max(size, plain_size):,} bytes")
    plain = decompress(encoded[start : start + packed_size], plain_size)
    coder, learned = RangeCoder(encoded[start + packed_size :]), Learned()
    parts, at, total = [], parameters_size, plain_size - parameters_size
    for parameters, codebook in parse(plain[:parameters_size], version):
        total += parameters.count * parameters.width // 8
        if total > size:
            raise CorruptFile(f"it claims to be {size:,} bytes and is more")
        values = code(coder, learned, parameters, codebook, None)
        parts += [plain[at : at + parameters.gap], pack_values(values, parameters.width)]
        at += parameters.gap
    content = b"".join([*parts, plain[at:]])
    if len(content) != size or hashlib.sha256(content).digest()[: len(digest)] != digest:
        raise CorruptFile("it decodes to something else than was encoded")
    return content


def read_header(encoded: bytes) -> tuple[bytes, list[int], int]:
    """Return the digest, the four sizes, and where the packed part starts."""
    if encoded[:4] == b"LXE1":
        _, _, digest, *sizes = HEADER_1.unpack_from(encoded)
        return digest, sizes, HEADER_1.size
    _, _, digest = HEADER.unpack_from(encoded)
    sizes, start = parse_numbers(encoded, HEADER.size, 4)
    return digest, sizes, start
