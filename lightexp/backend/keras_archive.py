"""Extract architecture and weights from a Keras file as plain data; runs in the sandbox.

A damaged HDF5 file can crash the process that reads it.
"""

from __future__ import annotations

import io
import json
import math
import resource
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lightexp.core.errors import BadInput
from lightexp.core.json_text import encode_json
from lightexp.core.regular_files import open_regular
from lightexp.core.size_limits import check_unpacked_size

ARCHITECTURE = "architecture.json"
LEGACY_WEIGHTS, ARCHIVE_WEIGHTS = "weights.h5", "model.weights.h5"
"""Weights in the layout of `.h5` files, and in that of `.keras` archives, whose file name is fixed."""
VERSION = "keras_version"
"""File with the first number of the version of Keras that wrote the file."""
_HDF5_MAGIC, _ZIP_MAGIC = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_SETTING = "model.max_gb"
_MAX_DEPTH = 20  # of nested HDF5 groups
_OBJECT_BYTES = 20_000  # counted for a group or an array besides its content, as it takes time
_MAX_ARCHITECTURE_BYTES = 16 * 10**6  # a hundred times what large networks take
_CPU_MARGIN_S, _BYTES_PER_CPU_SECOND = 1.0, 50e6
_MEMORY_MARGIN = 512 * 10**6  # bytes of the libraries' own


def extract(path: Path, unused: NDArray[Any], out: str, limit: int) -> NDArray[Any]:
    """Write a file's architecture, unchecked, and a copy of its weights that holds arrays and strings but no links.

    Args:
        path: An `.h5` file or a `.keras` archive.
        unused: An array; calls of the sandbox pass one.
        out: Folder to write `ARCHITECTURE`, `VERSION` and either `LEGACY_WEIGHTS` or `ARCHIVE_WEIGHTS` into.
        limit: Bytes that the file may unpack to.

    Returns:
        `unused`.

    Raises:
        BadInput: If the file is of another kind, is damaged, lacks an architecture, was written by a later Keras than
            3 or unpacks to more than the limit.
    """
    with open_regular(path) as file:
        start = file.read(8)
    if start != _HDF5_MAGIC and start[:4] != _ZIP_MAGIC:
        raise BadInput(f"{path} is no Keras file: neither HDF5 (.h5) nor a .keras archive. Save the model again.")
    extract_from = _extract_hdf5 if start == _HDF5_MAGIC else _extract_archive
    try:
        with _limited_resources(limit):
            extract_from(path, Path(out), limit)
    except BadInput:
        raise
    except MemoryError:
        check_unpacked_size(path, math.inf, limit, _SETTING)
    except Exception as error:  # h5py and zipfile raise many types for damaged files
        raise BadInput(f"{path} is broken ({' '.join(str(error).split())[:120]}). Get or save it again.") from error
    return unused


@contextmanager
def _limited_resources(limit: int) -> Iterator[None]:
    """Limit this process in a block, since a damaged file can say less than it unpacks to, or keep HDF5 busy for ever.

    Memory and files raise an exception; the processor time ends the process, as HDF5 returns to no other code.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = math.ceil(usage.ru_utime + usage.ru_stime + _CPU_MARGIN_S + limit / _BYTES_PER_CPU_SECOND)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    previous = {
        kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
    }
    limits = {
        resource.RLIMIT_AS: used + 2 * limit + _MEMORY_MARGIN,
        resource.RLIMIT_FSIZE: 2 * limit,
        resource.RLIMIT_CPU: seconds,
    }
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing raises an OSError
    try:
        for kind, bound in limits.items():
            _, hard = previous[kind]
            resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))
        yield
    finally:
        for kind, bounds in previous.items():
            resource.setrlimit(kind, bounds)
        signal.signal(signal.SIGXFSZ, handler)


def _extract_hdf5(path: Path, out: Path, limit: int) -> None:
    with h5py.File(path, "r") as file:
        _write_version(path, _decode(file.attrs.get("keras_version", "2")), out)
        if "model_config" not in file.attrs:
            raise BadInput(f"{path} holds weights alone, without an architecture. Save the whole model: model.save().")
        _check_group(path, file["model_weights"], 0, limit)
        _write_architecture(_decode(file.attrs["model_config"]), out)
        with h5py.File(out / LEGACY_WEIGHTS, "w") as clean:
            _copy_group(file["model_weights"], clean)


def _extract_archive(path: Path, out: Path, limit: int) -> None:
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        check_unpacked_size(path, unpacked, limit, _SETTING)
        _write_version(path, _decode(json.loads(archive.read("metadata.json"))["keras_version"]), out)
        if archive.getinfo("config.json").file_size > _MAX_ARCHITECTURE_BYTES:
            raise ValueError("its architecture is too large")
        _write_architecture(archive.read("config.json").decode(), out)
        weights = io.BytesIO(archive.read(ARCHIVE_WEIGHTS))
        with h5py.File(weights, "r") as file, h5py.File(out / ARCHIVE_WEIGHTS, "w") as clean:
            _check_group(path, file, unpacked, limit)
            _copy_group(file, clean)


def _write_architecture(text: str, out: Path) -> None:
    if len(text) > _MAX_ARCHITECTURE_BYTES:
        raise ValueError("its architecture is too large")
    (out / ARCHITECTURE).write_text(encode_json(json.loads(text)), encoding="utf-8")


def _write_version(path: Path, version: str, out: Path) -> None:
    first = version.split(".")[0]
    if first not in ("1", "2", "3"):
        raise BadInput(
            f"{path} was written by Keras {version[:20]}; lightexp reads Keras 1 to 3. Where it was made, run "
            'model.export("model.tflite", format="litert") and set model.path to the float .tflite'
        )
    (out / VERSION).write_text(first, encoding="ascii")


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_group(path: Path, group: h5py.Group, unpacked: int, limit: int) -> None:
    """Refuse links, data outside the file, and arrays that together are larger than the limit; reads no array."""
    for size in _iterate_sizes(group):
        unpacked += size
        check_unpacked_size(path, unpacked, limit, _SETTING)


def _iterate_sizes(group: h5py.Group, depth: int = 0) -> Iterator[int]:
    """Yield the bytes of every object as often as a copy would hold it, which hard links can multiply."""
    if depth > _MAX_DEPTH:
        raise ValueError("groups within groups without end")
    attributes = [group.attrs.get_id(name) for name in group.attrs]
    yield _OBJECT_BYTES + sum(math.prod(attribute.shape) * attribute.dtype.itemsize for attribute in attributes)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a link to elsewhere")
        child = group[name]
        if isinstance(child, h5py.Group):
            yield from _iterate_sizes(child, depth + 1)
            continue
        if child.external or child.is_virtual or child.dtype.kind not in "biuf":
            raise ValueError(f"{name} is not an array of numbers")
        # A chunk is unpacked as one, however small the array is.
        count = max(math.prod(child.shape or ()), math.prod(child.chunks or ()))
        yield _OBJECT_BYTES + count * child.dtype.itemsize


def _copy_group(source: h5py.Group, target: h5py.Group) -> None:
    """Copy attributes, groups and arrays, which `_check_group` has checked."""
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name in source:
        child = source[name]
        if isinstance(child, h5py.Group):
            _copy_group(child, target.create_group(name))
        else:
            target.create_dataset(name, data=np.asarray(child))
