"""Tests of MNIST and Fashion-MNIST: where files are searched for, and damaged files."""

from __future__ import annotations

import gzip
import hashlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets.fashion_mnist import FashionMnist
from lightexp.datasets.mnist import Mnist
from lightexp.datasets.mnist_files import IDX_FILES, MnistFiles
from tests.datasets.files import idx_bytes, write_archive, write_idx
from tests.system_packages import require_fashion_mnist

OFFLINE = "http://127.0.0.1:9/"  # the port of the discard protocol: nothing listens


def test_load_real_fashion_mnist() -> None:
    folder = require_fashion_mnist()
    dataset = FashionMnist(folder=str(folder))
    assert dataset.check() == folder
    data = dataset.load()
    assert (len(data.train), len(data.val), len(data.test)) == (50_000, 10_000, 10_000)
    assert (data.name, data.classes, data.shape, data.scale) == ("fashion_mnist", 10, (28, 28, 1), 1 / 255)
    assert np.bincount(data.train.y).tolist() == [5000] * 10
    assert np.bincount(data.val.y).tolist() == [1000] * 10
    assert data.val.digest == "f0447e263537178c0d34b0b8dbd5eaea8bf9ec9cf0d795c04f98ce00ab6f5755"
    assert round(float(data.train.x.mean() * 5 + data.val.x.mean()) / 6 / 255, 4) == 0.2860  # the published mean
    assert FashionMnist().load().key == data.key  # found without naming the folder


def test_digests_match_debian_files() -> None:
    folder = require_fashion_mnist()
    contents = {name: gzip.decompress((folder / name).read_bytes()) for name in IDX_FILES}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()} == FashionMnist.digests


@pytest.mark.parametrize("cls", [FashionMnist, Mnist])
def test_load_from_user_folder(cls: type[FashionMnist], tmp_path: Path, cache: Path) -> None:
    x, y, x_test, y_test = write_idx(tmp_path / "mine")
    dataset = cls(folder=str(tmp_path / "mine"))
    assert dataset.check() == tmp_path / "mine"
    data = dataset.load()
    assert (len(data.train), len(data.val), len(data.test)) == (160, 40, 50)
    assert np.array_equal(data.test.x[..., 0], x_test)
    assert np.array_equal(data.test.y, y_test)
    expected = {image.tobytes(): label for image, label in zip(x, y, strict=True)}
    pairs = [*zip(data.train.x, data.train.y, strict=True), *zip(data.val.x, data.val.y, strict=True)]
    assert {image.tobytes(): label for image, label in pairs} == expected
    assert np.bincount(data.val.y).tolist() == [4] * 10
    assert dataset.load().key == data.key
    assert replace(dataset, split_seed=1).load().key != data.key
    assert not cache.exists()


@pytest.mark.parametrize("cls", [FashionMnist, Mnist])
def test_user_folder_without_a_file_is_refused(cls: type[FashionMnist], tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / IDX_FILES[2]).unlink()
    for method in (cls(folder=str(tmp_path)).check, cls(folder=str(tmp_path)).load):
        with pytest.raises(BadInput, match=rf"lacks {IDX_FILES[2]}[. ].*dataset.folder=FOLDER") as caught:
            method()
        assert "\n" not in str(caught.value)


def test_system_folder_precedes_cache(tmp_path: Path, cache: Path) -> None:
    write_idx(cache / "fashion-mnist", seed=1)
    from_cache = FashionMnist().load()
    write_idx(tmp_path / "system" / "fashion-mnist", seed=2)
    assert FashionMnist().load().key != from_cache.key


def test_load_keras_archive(cache: Path, tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / "mine", seed=3)
    write_archive(cache / "mnist.npz", arrays)
    Mnist().check()
    assert Mnist().load().key == Mnist(folder=str(tmp_path / "mine")).load().key
    assert Mnist(folder=str(cache)).load().key == Mnist().load().key


def test_damaged_keras_archive_is_refused(cache: Path) -> None:
    cache.mkdir(parents=True)
    np.savez(cache / "mnist.npz", x_train=np.zeros((4, 28, 28), np.uint8))
    with pytest.raises(BadInput, match=r"mnist.npz holds no array y_train of bytes. Delete it"):
        Mnist().load()
    (cache / "mnist.npz").write_bytes(b"")
    with pytest.raises(BadInput, match=r"mnist.npz cannot be read .* Delete it"):
        Mnist().load()


@pytest.mark.parametrize("cls", [FashionMnist, Mnist])
def test_offline_without_files_refused(cls: type[FashionMnist], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MnistFiles, "base_url", OFFLINE)
    start = time.perf_counter()
    with pytest.raises(
        BadInput, match=rf"dataset={cls.title} is not on this machine .*{cache}.* dataset.folder=FOLDER"
    ):
        cls().check()
    assert time.perf_counter() - start < 10  # it does not wait for the server, even on a busy machine
    with pytest.raises(BadInput, match=r"could not be fetched .* dataset\.folder=FOLDER"):
        cls().load()


def test_offline_message_names_debian_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MnistFiles, "base_url", OFFLINE)
    with pytest.raises(BadInput, match="apt-get install dataset-fashion-mnist"):
        FashionMnist().check()


GOOD = np.zeros((6, 28, 28), np.uint8)
compress = partial(gzip.compress, mtime=0)  # test names contain these bytes, and must be reproducible


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends within its header"),
        (b"<html>not found</html>", "Not a gzipped file"),
        (compress(idx_bytes(GOOD))[:-12], "ended before"),
        (compress(idx_bytes(GOOD))[:-8] + b"\0" * 8, "CRC check failed"),
        (compress(idx_bytes(GOOD)[:-1]), "holds less than the 4704 bytes"),
        (compress(idx_bytes(GOOD) + b"\0"), "holds more than the 4704 bytes"),
        (compress(idx_bytes(GOOD[0, 0])), "magic number|within its header"),
        (compress(idx_bytes(GOOD[:, :14])), r"6 examples of \(14, 28\)"),
        (compress(idx_bytes(GOOD[:0])), "0 examples"),
        (compress(np.array([0x803, 2**32 - 1, 28, 28], ">u4").tobytes()), "4294967295 examples"),
    ],
)
def test_damaged_images_are_refused(content: bytes, message: str, tmp_path: Path, cache: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / IDX_FILES[0]).write_bytes(content)
    with pytest.raises(BadInput, match=rf"{IDX_FILES[0]} cannot be used: .*({message}).*Put a good copy") as caught:
        FashionMnist(folder=str(tmp_path)).load()
    assert "\n" not in str(caught.value)


def test_damaged_cache_file_message_says_delete(cache: Path) -> None:
    write_idx(cache / "fashion-mnist")
    (cache / "fashion-mnist" / IDX_FILES[3]).write_bytes(b"")
    with pytest.raises(BadInput, match=rf"{IDX_FILES[3]} .*Delete it: it is fetched again"):
        FashionMnist().load()


@pytest.mark.parametrize("labels", [np.full(200, 10, np.uint8), np.zeros(199, np.uint8)])
def test_invalid_labels_are_refused(labels: np.ndarray, tmp_path: Path) -> None:
    write_idx(tmp_path)
    (tmp_path / IDX_FILES[1]).write_bytes(compress(idx_bytes(labels)))
    with pytest.raises(BadInput, match="each with a label of 0 to 9"):
        FashionMnist(folder=str(tmp_path)).load()
