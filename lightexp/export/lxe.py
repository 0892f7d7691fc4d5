"""Encode and decode `.lxe` files: a `.tflite` whose constants are range coded and whose rest is compressed by LZMA.

    LXE1 | CRC-32 of what follows | SHA-256 of the .tflite, its first 16 bytes | four sizes | packed | stream

`packed` holds the parameters with which each constant was coded, and the file with these constants cut out; `stream`
holds the constants.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.tflite_graph import ConstantSpan
from lightexp.export.coder import UNIT, RangeCoder, SymbolCounts
from lightexp.export.constants import (
    BYTE_PLANES,
    CODEBOOK,
    DIRECT,
    MAX_CODEBOOK_SIZE,
    Bits,
    CodingParameters,
    code_constant,
    list_candidates,
    max_lines,
    pack_values,
    unpack_values,
)
from lightexp.export.packing import CorruptFile, compress, decompress, estimate_size

_MAGIC = b"LXE1"
HEADER = struct.Struct("<4sI16s4I")
"""Magic, checksum, digest; sizes of the .tflite, of parameters and rest, of the parameters, and of `packed`."""
_DIGEST_LENGTH = 16
_SMALLEST_CONSTANT = 32  # bytes; coding a smaller one costs more than it saves
_NOISE_FACTOR = 1.01  # what LZMA makes of incompressible bytes
_REPETITION_FACTOR = 1.05


@dataclass(frozen=True)
class _Trial:
    """A constant coded in one of the possible ways.

    Attributes:
        size: Bytes that it adds to the file.
        coder: The stream after it.
        models: What has been learnt after it.
        parameters: Its parameters as bytes.
    """

    size: int
    coder: RangeCoder
    models: SymbolCounts
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
    coder, models = RangeCoder(), SymbolCounts()
    parameters, rest, end = b"", [], 0
    for span in constants:
        raw = content[span.start : span.start + span.length]
        best = min(_try_candidates(coder, models, span, raw, span.start - end), default=None, key=lambda t: t.size)
        if best and best.size < _estimate_general_size(raw):
            coder, models = best.coder, best.models
            parameters += best.parameters
            rest.append(content[end : span.start])
            end = span.start + span.length
    plain = b"".join([parameters, *rest, content[end:]])
    packed = compress(plain)
    digest = hashlib.sha256(content).digest()[:_DIGEST_LENGTH]
    header = HEADER.pack(_MAGIC, 0, digest, len(content), len(plain), len(parameters), len(packed))
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
    coder: RangeCoder, models: SymbolCounts, span: ConstantSpan, raw: bytes, gap: int
) -> Iterator[_Trial]:
    """Yield the constant coded in each way that is worth trying."""
    if len(raw) < _SMALLEST_CONSTANT or len(raw) * 8 % span.width:
        return
    values = unpack_values(raw, span.width)
    for parameters, codebook in list_candidates(span, raw, gap):
        trial_coder, trial_models = coder.copy(), SymbolCounts(models)
        serialized = _serialize_parameters(parameters, codebook)
        code_constant(trial_coder, trial_models, parameters, codebook, values)
        yield _Trial(trial_coder.size - coder.size + len(serialized), trial_coder, trial_models, serialized)


def decode(encoded: bytes) -> bytes:
    """Return the `.tflite` file that was encoded, byte for byte.

    Args:
        encoded: The `.lxe` file.

    Raises:
        BadInput: If lightexp did not encode it, or it is truncated or altered.
    """
    if encoded[:4] != _MAGIC:
        raise BadInput(f"This is no encoded model ({len(encoded)} bytes). Give a .lxe file that lightexp wrote.")
    try:
        return _decode(encoded)
    except Exception as error:  # the coders raise many types for bytes that they did not write
        raise BadInput(f"The encoded model is cut off or altered: {error}. Encode the .tflite again.") from None


def _decode(encoded: bytes) -> bytes:
    _, crc, digest, size, plain_size, parameters_size, packed_size = HEADER.unpack_from(encoded)
    if crc != zlib.crc32(encoded[8:]):
        raise CorruptFile("its checksum is another")
    if max(size, plain_size) > max_decoded_size(len(encoded)) or parameters_size > plain_size:
        raise CorruptFile(f"it claims {max(size, plain_size):,} bytes")
    start = HEADER.size
    plain = decompress(encoded[start : start + packed_size], plain_size)
    coder, models = RangeCoder(encoded[start + packed_size :]), SymbolCounts()
    parts, at, total = [], parameters_size, plain_size - parameters_size
    for parameters, codebook in _parse_parameters(plain[:parameters_size]):
        total += parameters.count * parameters.width // 8
        if total > size:
            raise CorruptFile(f"it claims to be {size:,} bytes and is more")
        values = code_constant(coder, models, parameters, codebook, None)
        parts += [plain[at : at + parameters.gap], pack_values(values, parameters.width)]
        at += parameters.gap
    content = b"".join([*parts, plain[at:]])
    if len(content) != size or hashlib.sha256(content).digest()[:_DIGEST_LENGTH] != digest:
        raise CorruptFile("it decodes to something else than was encoded")
    return content


def _serialize_parameters(parameters: CodingParameters, codebook: Bits) -> bytes:
    """Return parameters as bytes: each number 7 bits a byte, lowest first; then the codebook's differences."""
    serialized = bytearray()
    for number in astuple(parameters):
        while number > 127:
            serialized.append(number & 127 | 128)
            number >>= 7
        serialized.append(number)
    if parameters.kind == CODEBOOK:
        serialized += np.diff(codebook, prepend=codebook.dtype.type(0)).tobytes()
    return bytes(serialized)


def _parse_parameters(serialized: bytes) -> Iterator[tuple[CodingParameters, Bits]]:
    """Yield the parameters and codebooks that `_serialize_parameters` wrote, one constant after another."""
    at = 0
    while at < len(serialized):
        numbers = []
        for _ in fields(CodingParameters):
            number = shift = 0
            while serialized[at] > 127 and shift < 63:
                number |= (serialized[at] & 127) << shift
                at, shift = at + 1, shift + 7
            numbers.append(number | serialized[at] << shift)
            at += 1
        parameters = CodingParameters(*numbers)
        if not _is_valid(parameters):
            raise CorruptFile("its parameters are not valid")
        dtype = np.dtype(f"<u{max(8, parameters.width) // 8}")
        if parameters.kind == CODEBOOK:
            size = parameters.codebook_size * dtype.itemsize
            codebook: Bits = np.cumsum(np.frombuffer(serialized[at : at + size], dtype), dtype=dtype)
            at += size
        else:
            codebook = np.arange(1 << parameters.width if parameters.kind == DIRECT else 1).astype(dtype)
        if len(codebook) < max(parameters.zero, 1):
            raise CorruptFile("its parameters end early")
        yield parameters, codebook


def _is_valid(parameters: CodingParameters) -> bool:
    """Return whether `list_candidates` could have made these parameters."""
    return (
        parameters.width in (2, 4, 8, 16, 32, 64)
        and parameters.count > 0
        and parameters.count * parameters.width % 8 == 0
        and parameters.kind in (CODEBOOK, DIRECT, BYTE_PLANES)
        and (parameters.kind != DIRECT or parameters.width <= 8)
        and (parameters.kind != BYTE_PLANES or parameters.width >= 8)
        and 1 <= parameters.lines <= max_lines(parameters.count)
        and parameters.count % parameters.lines == 0
        and parameters.codebook_size <= MAX_CODEBOOK_SIZE
        and 1 <= parameters.share <= UNIT
    )
