"""Write small files in the formats of MNIST and CIFAR."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lightexp.datasets.cifar import CifarFormat
from lightexp.datasets.mnist_files import IDX_FILES


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return the content of an IDX file, before gzip."""
    return np.array([0x800 + array.ndim, *array.shape], ">u4").tobytes() + array.tobytes()


def write_idx(folder: Path, train: int = 200, test: int = 50, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Write the four files of a data set like MNIST, and return their arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: list[NDArray[np.uint8]] = []
    for count in (train, test):
        arrays.append(rng.integers(0, 256, (count, 28, 28), np.uint8))
        arrays.append((np.arange(count) % 10).astype(np.uint8))
    for name, array in zip(IDX_FILES, arrays, strict=True):
        (folder / name).write_bytes(gzip.compress(idx_bytes(array), 1, mtime=0))
    return arrays


def write_archive(path: Path, arrays: list[NDArray[np.uint8]]) -> None:
    """Write arrays in the order of `write_idx` as Keras' `mnist.npz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x_train, y_train, x_test, y_test = arrays
    np.savez_compressed(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)


def make_pickle(x: NDArray[np.uint8], **others: Sequence[int] | Sequence[str] | str) -> bytes:
    """Return a pickle of images and lists, identical to what Python 2's cPickle writes."""
    memo = iter(range(2**31))

    def put() -> bytes:
        number = next(memo)
        return b"q" + struct.pack("<B", number) if number < 256 else b"r" + struct.pack("<I", number)

    def text(value: str) -> bytes:
        return b"U" + struct.pack("<B", len(value)) + value.encode() + put()

    def number(value: int) -> bytes:
        kinds = ((0, 256, b"K", "<B"), (0, 65_536, b"M", "<H"), (-(2**31), 2**31, b"J", "<i"))
        code, kind = next((code, kind) for low, high, code, kind in kinds if low <= value < high)
        return code + struct.pack(kind, value)

    out = b"\x80\x02}" + put() + b"("
    for name, value in others.items():
        out += text(name)
        if isinstance(value, str):
            out += text(value)
            continue
        out += b"]" + put() + b"("
        out += b"".join(text(item) if isinstance(item, str) else number(item) for item in value) + b"e"
    out += text("data") + b"cnumpy.core.multiarray\n_reconstruct\n" + put() + b"cnumpy\nndarray\n" + put()
    out += b"K\x00\x85U\x01b\x87R" + put()
    out += b"(K\x01" + number(x.shape[0]) + number(x.shape[1]) + b"\x86cnumpy\ndtype\n" + put()
    out += text("u1") + b"K\x00K\x01\x87R" + put()
    out += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    return out + b"T" + struct.pack("<I", x.nbytes) + x.tobytes() + b"tbu."


def cifar_files(form: CifarFormat, per_file: int = 30, seed: int = 0) -> dict[str, bytes]:
    """Return files of CIFAR with random images; the same images in both formats of one seed."""
    rng = np.random.default_rng(seed)
    is_cifar100, is_binary = "100" in form.folder, form.files[0].endswith(".bin")
    files = {}
    for name in form.files:
        x = rng.integers(0, 256, (per_file, 3072), np.uint8)
        fine = rng.permutation(np.arange(per_file) % (100 if is_cifar100 else 10)).astype(np.uint8)
        labels = {"coarse_labels": fine // 5, "fine_labels": fine} if is_cifar100 else {"labels": fine}
        if is_binary:
            files[name] = np.column_stack([*labels.values(), x]).tobytes()
        else:
            names = [f"photo_s_{number:06}.png" for number in range(per_file)]
            lists = {column: values.tolist() for column, values in labels.items()}
            files[name] = make_pickle(x, filenames=names, batch_label=f"batch {name}", **lists)
    return files


def write_cifar(path: Path, form: CifarFormat, per_file: int = 30, seed: int = 0) -> None:
    """Write `cifar_files` to a folder, or to an archive if the path has the name of one."""
    files = cifar_files(form, per_file, seed)
    if path.suffix == ".gz" or path.name.endswith("_archive"):
        others = {f"{form.folder}/readme.html": b"about", f"{form.folder}/batches.meta": b"names"}
        write_tar(path, {**others, **{f"{form.folder}/{name}": content for name, content in files.items()}})
        return
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write files to a `.tar.gz` archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.GzipFile(path, "wb", 1, mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
