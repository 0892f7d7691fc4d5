"""Tests of the data set of a user's `.npz` file."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightexp.core.config import build
from lightexp.core.errors import BadInput
from lightexp.core.fingerprint import compute_key
from lightexp.core.preprocessing import Augment, Scaling
from lightexp.core.protocols import Dataset
from lightexp.datasets.arrays import Arrays
from tests.datasets.npz_files import FLOATS, X, Y, refusal, save

BRIGHTEST = X == 255


def test_load_splits_train_in_three(file: Path) -> None:
    dataset = save(file, x_train=X, y_train=Y)
    assert dataset.check() == file
    data = dataset.load()
    assert (data.name, data.classes, data.shape, data.scale, data.offset) == ("mine", 3, (4, 5, 1), 1 / 255, 0.0)
    splits = (data.train, data.val, data.test)
    assert [len(split) for split in splits] == [38, 10, 12]
    labels = {image.tobytes(): int(label) for split in splits for image, label in zip(split.x, split.y, strict=True)}
    assert labels == {image.tobytes(): int(label) for image, label in zip(X, Y, strict=True)}
    assert all(np.ptp(np.bincount(split.y)) <= 1 for split in splits)
    assert dataset.load().key == data.key
    assert Arrays(str(file), split_seed=1).load().key != data.key


def test_load_keeps_existing_splits(file: Path) -> None:
    data = save(file, x=X[:40], y=Y[:40], x_val=X[40:50], y_val=Y[40:50], x_test=X[50:], y_test=Y[50:]).load()
    assert (len(data.train), len(data.val), len(data.test)) == (40, 10, 10)
    assert np.array_equal(data.train.x[..., 0], X[:40])
    assert np.array_equal(data.val.y, Y[40:50])
    assert np.array_equal(data.test.x[..., 0], X[50:])


@pytest.mark.parametrize("part", ["val", "test"])
def test_load_holds_out_missing_split_only(part: str, file: Path) -> None:
    data = save(file, x_train=X[:50], y_train=Y[:50], **{f"x_{part}": X[50:], f"y_{part}": Y[50:]}).load()
    existing, held_out = (data.val, data.test) if part == "val" else (data.test, data.val)
    assert np.array_equal(existing.x[..., 0], X[50:])
    assert (len(held_out), len(data.train)) == (10, 40)


@pytest.mark.parametrize(
    ("x", "shape", "scale"),
    [
        (X.reshape(60, 20), (20,), 1 / 255),
        (X[..., None].repeat(3, 3), (4, 5, 3), 1 / 255),
        (FLOATS, (4, 5, 1), 1.0),
        (FLOATS.astype(">f8"), (4, 5, 1), 1.0),
        (np.asfortranarray(FLOATS), (4, 5, 1), 1.0),
    ],
)
def test_load_accepts_shapes_and_types(x: Any, shape: tuple[int, ...], scale: float, file: Path) -> None:
    data = save(file, x=x, y=Y, x_test=x, y_test=Y).load()
    assert (data.shape, data.scale) == (shape, scale)
    assert data.train.x.dtype == (np.uint8 if x.dtype == np.uint8 else np.float32)
    assert np.allclose(data.inputs(data.test.x).reshape(60, -1), x.reshape(60, -1) * scale)


def test_scaling_changes_inputs(file: Path) -> None:
    save(file, x=X, y=Y)
    scaling = {"_target_": "lightexp.core.preprocessing.Scaling", "range": [-1.0, 1.0]}
    node = {"_target_": "lightexp.datasets.arrays.Arrays", "path": str(file), "scaling": scaling}
    data = build(node, Dataset, "dataset").load()  # type: ignore[type-abstract]
    inputs = data.inputs(data.train.x)
    assert -1 <= inputs.min() < -0.9
    assert 0.9 < inputs.max() <= 1


@pytest.mark.parametrize("shape", [(60, 7), (60, 9, 1)])
@pytest.mark.parametrize("augment", [Augment(flip=True), Augment(shift=1), Augment(cutout=1)], ids=str)
def test_augment_of_series_allows_mixup_only(augment: Augment, shape: tuple[int, ...], file: Path) -> None:
    dataset = save(file, x=np.ones(shape, np.float32), y=Y)
    message = refusal(replace(dataset, augment=replace(augment, mixup=0.2)))
    assert re.match(r"dataset\.augment\.(flip|shift|cutout) needs images", message)
    assert str(shape[1:]) in message
    assert replace(dataset, augment=Augment(mixup=0.2)).load().augment.active


@pytest.mark.parametrize("augment", [Augment(shift=4), Augment(cutout=4)], ids=str)
def test_augment_refuses_removing_entire_image(augment: Augment, file: Path) -> None:
    assert "must be smaller than the image, (4, 5)" in refusal(replace(save(file, x=X, y=Y), augment=augment))


def test_scaling_range_of_floats_is_refused(file: Path) -> None:
    save(file, x=FLOATS, y=Y)
    assert "dataset.scaling.range" in refusal(Arrays(str(file), scaling=Scaling(range=[0.0, 1.0])))


@pytest.mark.parametrize("x", [X, FLOATS.astype(float), np.asfortranarray(FLOATS)])
@pytest.mark.parametrize("compress", [True, False])
def test_data_on_disk_equal_data_in_memory(x: Any, compress: bool, file: Path) -> None:
    x = x.repeat(300, 1).repeat(10, 2)  # a train split of over a megabyte
    (np.savez_compressed if compress else np.savez)(file, x=x, y=Y, x_val=x[:3], y_val=Y[:3])
    memory, disk = Arrays(str(file)).load(), Arrays(str(file), memory_mb=1).load()
    assert [type(split.x) for split in memory.splits.values()] == [np.ndarray] * 3
    assert [split.on_disk for split in disk.splits.values()] == [True, False, True]
    assert disk.key == memory.key
    assert disk.test.digest == memory.test.digest


def test_train_examples_of_data_on_disk(file: Path) -> None:
    np.savez(file, x=X.repeat(300, 1).repeat(10, 2), y=Y + 1)
    memory, disk = Arrays(str(file), train_examples=12).load(), Arrays(str(file), train_examples=12, memory_mb=1).load()
    assert disk.train.digest == memory.train.digest
    assert [note for note in memory.notes if "12 of the" in note]
    assert len(memory.notes) > 1, "the notes of the labels are lost"


def test_nan_on_disk_is_refused(file: Path) -> None:
    x = np.zeros((60, 10_000), np.float32)
    x[-1, -1] = np.nan
    np.savez(file, x=x, y=Y)
    assert "x holds NaN" in refusal(Arrays(str(file), memory_mb=1))


def test_memory_mb_is_not_keyed(file: Path) -> None:
    assert compute_key(Arrays(str(file))) == compute_key(Arrays(str(file), memory_mb=7))


def test_class_with_one_example_loads(file: Path) -> None:
    labels = Y.copy()
    labels[7] = 3
    data = save(file, x=X, y=labels).load()
    assert data.classes == 4
    assert sum(int((split.y == 3).sum()) for split in (data.train, data.val, data.test)) == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X}, "no array y_train: it holds x_train."),
        ({"X_train": X, "y_train": Y}, "no array x_train: did you mean 'X_train'?"),
        ({"x": X}, "no array y: it holds x."),
        ({}, "no array x_train: it holds none."),
        ({"x": X, "y": Y, "x_val": X}, "no array y_val"),
        ({"x": X, "y": Y, "y_test": Y}, "no array x_test"),
        ({"x": X, "y": Y[:-1]}, "x holds 60 examples, y 59 labels"),
        ({"x": X, "y": Y + 2}, "goes up to 4 but is never 0"),
        ({"x": X, "y": Y * 2}, "goes up to 4 but is never 1"),
        ({"x": X, "y": Y - 1}, "goes from -1 to 1"),
        ({"x": X, "y": Y.astype(np.uint64) + np.uint64(2**63)}, "Number the classes from 0"),
        ({"x": X, "y": Y / 2}, "y holds 0.5. Labels are classes"),
        ({"x": X, "y": np.where(Y == 1, np.nan, Y)}, "y holds nan. Labels are classes"),
        ({"x": X, "y": Y.astype(complex)}, "of type complex128. Labels are whole numbers or strings"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y.astype(str)}, "strings in some splits and numbers in others"),
        ({"x": X, "y": Y.astype(str), "x_test": X, "y_test": (Y + 1).astype(str)}, "y_test holds '3', which y does"),
        ({"x": X, "y": np.eye(3)[Y] * 0.9}, "y has shape (60, 3), but its row 0 is not one-hot"),
        ({"x": X, "y": np.eye(3)[Y] * np.where(Y == 0, np.nan, 1)[:, None]}, "its row 0 is not one-hot"),
        ({"x": X, "y": np.eye(3, dtype=int)[Y] | np.eye(3, dtype=int)[Y // 2]}, "its row 1 is not one-hot"),
        ({"x": X, "y": np.stack([Y, Y], 1)}, "its row 0 is not one-hot"),
        ({"x": X, "y": np.eye(3)[Y].astype(str)}, "y holds strings of shape (60, 3)"),
        ({"x": X, "y": Y[:, None, None]}, "y has shape (60, 1, 1)"),
        ({"x_test": X, "y_test": Y}, "no array x_train: it holds x_test, y_test."),
        (
            {"x_val": X, "y_val": Y, "x_test": X, "y_test": Y},
            "no array x_train: it holds x_val, y_val, x_test, y_test.",
        ),
        ({"x": X, "y": Y, "x_val": X, "y_val": np.eye(5)[Y + 2]}, "y_val goes up to 4, y only to 2. Set dataset.cl"),
        ({"x": X, "y": Y * 0}, "one class only"),
        ({"x": X[:0], "y": Y[:0]}, "x is empty, of shape (0, 4, 5)"),
        ({"x": X[:, :0], "y": Y}, "x is empty, of shape (60, 0, 5)"),
        ({"x": X, "y": Y[:0]}, "y is empty"),
        ({"x": X[:2], "y": Y[:2]}, "too few examples"),
        (
            {"x": X, "y": Y, "x_val": X[:, :3], "y_val": Y},
            "x_val holds examples of shape (3, 5), x of (4, 5)",
        ),
        ({"x": X, "y": Y, "x_test": FLOATS, "y_test": Y}, "x_test holds float32 examples"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test goes up to 3, y only to 2"),
        ({"x": X[:, 0, 0], "y": Y}, "x has shape (60,)"),
        ({"x": X[0, 0, 0], "y": Y}, "x has shape ()"),
        ({"x": X[..., None, None], "y": Y}, "x has shape (60, 4, 5, 1, 1)"),
        ({"x": X.astype(complex), "y": Y}, "x is of type complex128"),
        ({"x": X.astype("S3"), "y": Y}, "x is of type |S3"),
        ({"x": np.where(BRIGHTEST, np.nan, FLOATS), "y": Y}, "x holds NaN, infinity"),
        ({"x": np.where(BRIGHTEST, -np.inf, FLOATS), "y": Y}, "x holds NaN, infinity"),
        ({"x": FLOATS.astype(float) * 1e300, "y": Y}, "too large for float32"),
        ({"x": X.astype(object), "y": Y}, "x holds Python objects, which are never unpickled"),
        ({"x": X, "y": Y.astype(object)}, "y holds Python objects, which are never unpickled"),
    ],
)
def test_unusable_arrays_are_refused(arrays: dict[str, Any], message: str, file: Path) -> None:
    assert message in refusal(save(file, **arrays))


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"x,y\n1,2\n", b"\x93NUMPY\x01\x00"])
def test_other_file_types_are_refused(content: bytes, file: Path) -> None:
    file.write_bytes(content)
    assert "cannot be read as .npz" in refusal(Arrays(str(file)))


def test_missing_file_is_refused(tmp_path: Path) -> None:
    for path in (str(tmp_path / "none.npz"), str(tmp_path), "", "\0"):
        for method in (Arrays(path).check, Arrays(path).load):
            with pytest.raises(BadInput, match=r"is not a file\. Set dataset\.path=FILE\.npz"):
                method()
    with pytest.raises(BadInput, match=r"dataset\.path=FILE\.npz"):
        Arrays().check()


def write_with_header(path: Path, header: str, body: bytes, version: bytes = b"\x01\x00") -> Arrays:
    """Write a file whose array `x` has a hand-written header."""
    text = header.encode().ljust(117) + b"\n"
    y = io.BytesIO()
    np.save(y, Y)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + body)
        archive.writestr("y.npy", y.getvalue())
    return Arrays(str(path))


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ("(60, 1000000, 1000000)", "|u1"),
        ("(60, 1000000000000000000000)", "|u1"),
        ("(1000000000000,)", "|S0"),
        ("(-60, -2)", "|u1"),
        ("(0, 1000000000000000000000000)", "|u1"),
        ("(60, 3)", "|u1"),
        ("(60, 1)", "|u1"),
        ("(60, True)", "nonsense"),
    ],
)
def test_header_of_other_size_is_refused(shape: str, kind: str, file: Path) -> None:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}"
    body = b"" if shape.startswith(("(0", "(1")) else bytes(120)
    assert "cannot be read as .npz" in refusal(write_with_header(file, header, body))


def test_header_of_unknown_version_is_refused(file: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (60, 2)}"
    assert write_with_header(file, header, bytes(120)).load().shape == (2,)
    assert "version (3, 0)" in refusal(write_with_header(file, header, bytes(120), b"\x03\x00"))


def make_file(compress: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, x_train=FLOATS[:12, :2, :2], y_train=Y[:12])
    return buffer.getvalue()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_altered_bytes_are_refused_or_harmless(file: Path, draw: Any, compress: bool, cut: bool) -> None:
    content = make_file(compress)
    file.write_bytes(content)
    expected = Arrays(str(file)).load()
    at = draw.draw(st.integers(0, len(content) - 1))
    mask = draw.draw(st.integers(1, 255))
    file.write_bytes(content[:at] if cut else content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :])
    message = ""
    try:
        data = Arrays(str(file)).load()
    except BadInput as error:
        message = str(error)
    else:  # a date, a flag or a comment in zip's records
        assert not cut
        assert data.key == expected.key
    assert "\n" not in message


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=40), st.integers(0, 100))
def test_altered_header_is_refused_or_read(file: Path, junk: bytes, at: int) -> None:
    """The zip's checksums are right here, so that numpy's parser reads the junk."""
    buffer = io.BytesIO()
    np.save(buffer, X)
    content = buffer.getvalue()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", content[:at] + junk + content[at + len(junk) :])
        archive.writestr("y.npy", content)
    message = ""
    try:
        Arrays(str(file)).load()
    except BadInput as error:
        message = str(error)
    assert "\n" not in message


def test_small_file_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros((1000, 100, 100), np.uint8), y=np.arange(1000) % 2)
    message = r"bomb.npz unpacks to 10\.0 MB or more; the limit is 9\.0 MB.*set dataset\.max_gb=GIGABYTES"
    with pytest.raises(BadInput, match=message):
        Arrays(str(path), max_gb=0.009).load()
    assert len(Arrays(str(path), max_gb=0.011).load().train) == 640
    assert compute_key(Arrays(str(path))) == compute_key(Arrays(str(path), max_gb=1))
