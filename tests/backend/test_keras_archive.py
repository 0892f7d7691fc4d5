"""Small Keras files that unpack to gigabytes: refused before anything is unpacked."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lightexp.backend import foreign_keras
from lightexp.core.errors import BadInput
from tests.special_files import deadline

CONFIG = {"class_name": "Sequential", "config": {"name": "net", "layers": []}}
TOO_LARGE = r"unpacks to .* or more; the limit is .*set model\.max_gb=GIGABYTES"


def write_h5(path: Path, fill: Callable[[Any], None]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(CONFIG)
        fill(file.create_group("model_weights"))


def write_archive(path: Path, config: bytes = json.dumps(CONFIG).encode(), weights: bytes = b"") -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", weights)


def fill_unwritten(group: Any) -> None:
    for name in "abc":
        group.create_dataset(name, (10**10,), "float32", chunks=(1000,), compression="gzip")


def fill_linked(group: Any) -> None:
    for _ in range(10):  # ten thousand million ways to one array
        child = group.create_group("0")
        for link in range(1, 10):
            group[str(link)] = child
        group = child
    group["w"] = np.zeros(10, np.float32)


def fill_linked_to_itself(group: Any) -> None:
    group["again"] = group


def fill_large_chunk(group: Any) -> None:
    group.create_dataset("w", (1,), "float32", maxshape=(None,), chunks=(2**29,), compression="gzip")


def fill_understated_chunk(group: Any) -> None:
    array = group.create_dataset("w", (100,), "float32", chunks=(100,), compression="gzip")
    packer = zlib.compressobj(1)
    start, block = (packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    checksum = ((1000 << 20) % 65521 << 16 | 1).to_bytes(4, "big")  # of 1000 MB of zeros
    content = start + 999 * block + packer.flush()[:-4] + checksum
    array.id.write_direct_chunk((0,), content)


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "unwritten arrays": (lambda path: write_h5(path, fill_unwritten), TOO_LARGE),
    "hard links": (lambda path: write_h5(path, fill_linked), TOO_LARGE),
    "endless groups": (lambda path: write_h5(path, fill_linked_to_itself), "groups within groups without end"),
    "large chunk": (lambda path: write_h5(path, fill_large_chunk), TOO_LARGE),
    "understated chunk": (lambda path: write_h5(path, fill_understated_chunk), r"is broken|unpacks to"),
    "archive": (lambda path: write_archive(path, weights=bytes(10**8)), TOO_LARGE),
    "weights in an archive": (lambda path: write_archive(path, weights=make_bytes(fill_unwritten)), TOO_LARGE),
    "architecture": (lambda path: write_archive(path, b" " * 17_000_000), "its architecture is too large"),
}


def make_bytes(fill: Callable[[Any], None]) -> bytes:
    """Return the bytes of an HDF5 file."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return bytes(file.id.get_file_image())


@pytest.mark.parametrize("bomb", BOMBS)
def test_small_file_that_unpacks_to_much_is_refused(bomb: str, tmp_path: Path) -> None:
    write, message = BOMBS[bomb]
    path = tmp_path / "net.any"
    write(path)
    with deadline(), pytest.raises(BadInput, match=message):
        foreign_keras.check_file(path, trust=False, max_gb=0.05)


def test_compressed_file_is_read_if_the_user_allows_it(tmp_path: Path) -> None:
    path = tmp_path / "net.h5"
    options = {"chunks": (10**6,), "compression": "gzip"}
    write_h5(path, lambda group: group.create_dataset("w", data=np.zeros(10**7, np.float32), **options))
    with pytest.raises(BadInput, match=TOO_LARGE):
        foreign_keras.check_file(path, trust=False, max_gb=0.03)
    foreign_keras.check_file(path, trust=False, max_gb=0.05)
    foreign_keras.check_file(path, trust=False)  # 256 MB for any file


def test_file_that_keeps_hdf5_busy_is_refused() -> None:
    path = Path(__file__).with_name("endless.h5")  # a block of a saved model was copied to another place
    with pytest.raises(BadInput, match=r"endless\.h5 killed the process that read it \(SIGXCPU\): it is broken"):
        foreign_keras.check_file(path, trust=False, max_gb=0.001)
