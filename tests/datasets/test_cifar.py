"""Tests of CIFAR-10 and CIFAR-100: where files are searched for, both formats, and damaged or malicious files."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.datasets import cifar
from lightexp.datasets.cifar import Cifar
from lightexp.datasets.cifar10 import Cifar10
from lightexp.datasets.cifar100 import Cifar100
from tests.datasets.files import cifar_files, make_pickle, write_cifar, write_tar
from tests.datasets.test_pickles import Malicious

BOTH = [Cifar10, Cifar100]
PYTHON = Cifar100.python


def map_labels(data: Any) -> dict[bytes, int]:
    """Return the label of each image in the train and validation splits."""
    splits = (data.train, data.val)
    return {image.tobytes(): int(label) for split in splits for image, label in zip(split.x, split.y, strict=True)}


def refusal(dataset: Cifar) -> str:
    """Return the one-line message with which the data are refused."""
    with pytest.raises(BadInput) as caught:
        dataset.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", [Cifar10.python, Cifar10.binary])
def test_load_returns_images_of_both_formats(form: cifar.CifarFormat, tmp_path: Path) -> None:
    write_cifar(tmp_path / form.folder, form)
    dataset = Cifar10(folder=str(tmp_path))
    assert dataset.check() == tmp_path
    data = dataset.load()
    assert (data.name, data.classes, data.shape, data.scale) == ("cifar10", 10, (32, 32, 3), 1 / 255)
    assert [len(split) for split in data.splits.values()] == [120, 30, 30]
    rows = [np.frombuffer(content, np.uint8).reshape(-1, 3073) for content in cifar_files(Cifar10.binary).values()]
    planes = np.concatenate(rows)
    expected = planes[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert map_labels(data) == {x.tobytes(): int(y) for x, y in zip(expected[:150], planes[:150, 0], strict=True)}
    assert np.array_equal(data.test.x, expected[150:])
    assert np.array_equal(data.test.y, planes[150:, 0])
    assert np.bincount(data.val.y).tolist() == [3] * 10
    assert data.train.x.flags.c_contiguous
    assert replace(dataset, split_seed=1).load().key != data.key


def test_load_fine_and_coarse_labels(tmp_path: Path) -> None:
    write_cifar(tmp_path / "py", PYTHON, 200)
    write_cifar(tmp_path / "bin", Cifar100.binary, 200)
    for labels, classes in (("fine", 100), ("coarse", 20)):
        loaded: list[Any] = [Cifar100(folder=str(tmp_path / form), labels=labels).load() for form in ("py", "bin")]  # type: ignore[arg-type]
        assert [data.classes for data in loaded] == [classes] * 2
        assert loaded[0].key == loaded[1].key
        assert len(np.unique(loaded[0].test.y)) == classes
    assert compute_key(Cifar100()) != compute_key(Cifar100(labels="coarse"))


PLACES = ["{f}", "{f}-target/{f}", "{f}.tar.gz", "{f}-target.tar.gz", "{f}-target_archive", "{a}", ""]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cls", BOTH)
def test_check_finds_names_of_keras_and_authors(cls: type[Cifar], place: str, cache: Path, tmp_path: Path) -> None:
    write_cifar(tmp_path / "plain", cls.python)
    for form in (cls.python, cls.binary):
        folder = cache if form is cls.python and place else tmp_path / form.folder
        if place:
            folder.mkdir(parents=True, exist_ok=True)
        write_cifar(folder / place.format(f=form.folder, a=form.archive), form)
        dataset = cls() if folder == cache else cls(folder=str(folder))
        dataset.check()
        assert dataset.load().key == cls(folder=str(tmp_path / "plain")).load().key


def test_system_folder_precedes_cache(tmp_path: Path, cache: Path) -> None:
    write_cifar(cache / "cifar-10-batches-py", Cifar10.python, seed=1)
    from_cache = Cifar10().load()
    write_cifar(tmp_path / "system" / "cifar-10", Cifar10.binary, seed=2)
    assert Cifar10().load().key != from_cache.key


def test_incomplete_folder_does_not_hide_archive(cache: Path) -> None:
    write_cifar(cache / "cifar-10-batches-py.tar.gz", Cifar10.python)
    expected = Cifar10().load()
    write_cifar(cache / "cifar-10-batches-py", Cifar10.python, seed=1)
    (cache / "cifar-10-batches-py" / "test_batch").unlink()
    assert Cifar10().load().key == expected.key


@pytest.mark.parametrize("cls", BOTH)
def test_offline_without_files_is_refused(cls: type[Cifar], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cifar, "base_url", "http://127.0.0.1:9/")
    start = time.perf_counter()
    with pytest.raises(BadInput, match=rf"dataset={cls.title} is not on this machine .*{cache}.*put .*tar\.gz.*FOLDER"):
        cls().check()
    assert time.perf_counter() - start < 10  # it does not wait for the server, even on a busy machine
    assert "could not be fetched" in refusal(cls())


def test_user_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    dataset = Cifar10(folder=str(tmp_path))
    assert "test_batch (or cifar-10-python.tar.gz). To get it" in refusal(dataset)
    write_cifar(tmp_path / "cifar-10-batches-py", Cifar10.python)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    assert "lacks data_batch_3 (or cifar" in refusal(Cifar10(folder=str(tmp_path / "cifar-10-batches-py")))


X = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in train, pickle exhausted"),
        (make_pickle(X, fine_labels=[0, 1, 2, 3])[:-10], "in train, expected 12288 bytes"),
        (pickle.dumps([1]), "in train, there is no dict of data and fine_labels"),
        (make_pickle(X, labels=[0, 1, 2, 3]), "in train, there is no dict of data and fine_labels"),
        (pickle.dumps({"data": X.astype(object), "fine_labels": [0] * 4}), "in train, it holds something else than"),
        (make_pickle(X, fine_labels=["a", "b", "c", "d"]), "fine_labels is no list of whole numbers"),
        (make_pickle(X, fine_labels=[0, 1, 2]), r"images of shape (4, 3072) have 3 labels"),
        (make_pickle(X[:, :3000], fine_labels=[0, 1, 2, 3]), r"images of shape (4, 3000) have 4 labels"),
        (
            make_pickle(X, fine_labels=[0, 1, 2, 100]),
            "up to 100; cifar100 has 32x32 images, each with a label of 0 to 99",
        ),
        (make_pickle(X, fine_labels=[0, 1, 2, -1]), "each with a label of 0 to 99"),
        (pickle.dumps(Malicious(Path("/nowhere")), 2), "in train, it names 'posix.mkdir', which"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_damaged_pickles_are_refused(content: bytes, message: str, packed: bool, tmp_path: Path) -> None:
    files = cifar_files(PYTHON) | {"train": content}
    if packed:
        write_tar(tmp_path / PYTHON.archive, {f"{PYTHON.folder}/{name}": data for name, data in files.items()})
    else:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
    line = refusal(Cifar100(folder=str(tmp_path)))
    assert message in line
    assert line.endswith("Put a good copy in its place.")


def test_damaged_cache_file_message_says_delete(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "cifar-10-batches-py.tar.gz").write_bytes(b"")
    line = refusal(Cifar10())
    assert "cifar-10-batches-py.tar.gz cannot be used: " in line
    assert line.endswith("Delete it: it is fetched again.")


@pytest.mark.parametrize("size", [0, 3072, 3073 * 2 + 1])
def test_binary_file_of_other_size_is_refused(size: int, tmp_path: Path) -> None:
    write_cifar(tmp_path / "bin", Cifar10.binary)
    (tmp_path / "bin" / "data_batch_2.bin").write_bytes(bytes(size))
    assert f"in data_batch_2.bin, {size} bytes are not whole images of 3073" in refusal(
        Cifar10(folder=str(tmp_path / "bin"))
    )


def make_member(name: str, **values: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for setting, value in values.items():
        setattr(info, setting, value)
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])
def test_archive_links_are_not_followed(kind: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in cifar_files(PYTHON).items():
        (tmp_path / name).write_bytes(content)
    with tarfile.open(folder / PYTHON.archive, "w:gz") as archive:
        archive.addfile(make_member(f"{PYTHON.folder}/train", type=kind, linkname=str(tmp_path / "train")))
        archive.addfile(make_member("../escaped", size=2), io.BytesIO(b"me"))
        archive.add(tmp_path / "test", f"{PYTHON.folder}/test")
    assert f"it holds no {PYTHON.folder}/train" in refusal(Cifar100(folder=str(folder)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "test", "train"]
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.AREGTYPE])
def test_archive_above_size_limit_is_refused(kind: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MAX_BYTES", 2**20)
    header = make_member(f"{PYTHON.folder}/train", type=kind, size=2**33).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / PYTHON.archive).write_bytes(gzip.compress(header + bytes(2**22)))
    assert "there are more than 1048576 bytes" in refusal(Cifar100(folder=str(tmp_path)))


def test_sparse_archive_member_is_not_read(tmp_path: Path) -> None:
    header = bytearray(make_member(f"{PYTHON.folder}/train", type=tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" * 2
    header[483:495] = b"77777777777\0"  # 8 GB, by the header
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / PYTHON.archive).write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    with tarfile.open(tmp_path / PYTHON.archive) as archive:
        assert [(info.size, info.issparse()) for info in archive] == [(2**33 - 1, True)]
    assert f"it holds no {PYTHON.folder}/train" in refusal(Cifar100(folder=str(tmp_path)))


def test_nested_archive_headers_are_refused(tmp_path: Path) -> None:
    header = make_member("././@LongLink", type=tarfile.GNUTYPE_LONGNAME, size=1).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / PYTHON.archive).write_bytes(gzip.compress((header + b"a" + bytes(511)) * 2000))
    assert "cannot be used: maximum recursion depth" in refusal(Cifar100(folder=str(tmp_path)))


def test_file_above_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path / "py", PYTHON)
    monkeypatch.setattr(cifar, "MAX_BYTES", 1000)
    assert "there are more than 1000 bytes" in refusal(Cifar100(folder=str(tmp_path / "py")))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / PYTHON.archive
    write_cifar(path, PYTHON, 10)
    return path.read_bytes()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data(), st.integers(1, 255), st.booleans())
def test_altered_archive_is_refused_or_harmless(packed: bytes, tmp_path: Path, draw: Any, mask: int, cut: bool) -> None:
    path = tmp_path / PYTHON.archive
    path.write_bytes(packed)
    expected = Cifar100(folder=str(tmp_path)).load()
    at = draw.draw(st.integers(0, len(packed) - 1))
    path.write_bytes(packed[:at] if cut else packed[:at] + bytes([packed[at] ^ mask]) + packed[at + 1 :])
    message = ""
    try:
        data = Cifar100(folder=str(tmp_path)).load()
    except BadInput as error:
        message = str(error)
    else:  # a flag or a date in gzip's header
        assert (data.key, data.test.digest) == (expected.key, expected.test.digest)
        assert not cut
    assert "\n" not in message
