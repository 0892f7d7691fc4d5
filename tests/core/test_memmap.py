"""Tests of arrays on disk: equal to those in memory, and no file is left."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.data import Split
from lightexp.core.errors import RunFailed
from lightexp.datasets.splits import count_fifth, hold_out, make_split


def on_disk(array: NDArray[Any]) -> NDArray[np.generic]:
    copy = memmap.allocate(array.shape, array.dtype, 0)
    copy[...] = array
    return copy


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def measure_peak(function: Callable[[], None]) -> int:
    """Return the peak of allocated bytes of a function of this file, in a process without threads of other tests."""
    code = (
        f"import tracemalloc; from tests.core.test_memmap import {function.__name__} as function\n"
        "tracemalloc.start(); function(); print(tracemalloc.get_traced_memory()[1])"
    )
    folder = Path(__file__).parents[2]
    return int(subprocess.run([sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, check=True).stdout)


def test_allocate_above_limit_uses_unnamed_file(folder: Path) -> None:
    assert type(memmap.allocate((10, 10), np.uint8, 100)) is np.ndarray
    assert type(memmap.allocate((10, 10), np.uint8)) is np.ndarray
    assert memmap.allocate((0, 10), np.uint8, 0).shape == (0, 10)
    array = memmap.allocate((10, 10), np.float32, 399)
    assert isinstance(array, np.memmap)
    assert (array.shape, array.dtype) == ((10, 10), np.float32)
    array[3] = 7
    assert array.sum() == 70
    assert list(folder.iterdir()) == []


def test_allocate_uses_tmpdir(tmp_path: Path) -> None:
    script = "import numpy; from lightexp.core.memmap import allocate; a = allocate((10,), numpy.uint8, 0);"
    script += "print(open('/proc/self/maps').read())"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env={"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True)
    assert f"{tmp_path}/" in done.stdout


def test_allocate_without_room_is_one_line() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(RunFailed, match=r"need 1\.0 kB on disk, in .*: File too large\. Set TMPDIR") as caught:
            memmap.allocate((1001,), np.uint8, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    with pytest.raises(RunFailed, match=r"need 1,000\.0 TB on disk, in .*: No space left on device"):
        memmap.allocate((10**15,), np.uint8, 0)
    with pytest.raises(RunFailed, match=r"TB of memory.*dataset\.memory_mb"):
        memmap.allocate((10**17,), np.uint8)


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from(["u1", "<f4"]), st.integers(0, 3), st.booleans())
def test_splits_on_disk_equal_those_in_memory(count: int, width: int, kind: str, seed: int, fortran: bool) -> None:
    x = np.random.default_rng(seed).integers(0, 99, (count + 1, width, 3)).astype(kind)
    y = np.arange(count + 1) % 3
    disk = make_split(on_disk(x.T.copy()).T if fortran else on_disk(x), y)
    memory = make_split(x, y)
    for on_disk_split, in_memory_split in zip(
        [disk, *hold_out(disk, count_fifth(len(y)), seed)],
        [memory, *hold_out(memory, count_fifth(len(y)), seed)],
        strict=True,
    ):
        assert on_disk_split.on_disk
        assert type(in_memory_split.x) is np.ndarray
        assert on_disk_split.digest == in_memory_split.digest
        assert type(on_disk_split.sample(3)) is np.ndarray


@given(st.integers(0, 50), st.integers(0, 4), st.integers(1, 40))
def test_iterate_chunks_covers_array(count: int, width: int, size: int) -> None:
    array = np.arange(count * width).reshape(count, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memmap, "CHUNK_BYTES", size)
        chunks = [array[chunk] for chunk in memmap.iterate_chunks(array)]
    assert all(len(chunk) for chunk in chunks)
    assert np.array_equal(np.concatenate([array[:0], *chunks]), array)
    assert all(chunk.nbytes <= size or len(chunk) == 1 for chunk in chunks)


def measure_resident_file_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("RssFile:")[1].split()[0])


def test_pages_of_files_do_not_stay_resident() -> None:
    array = memmap.allocate((3_000, 10_000), np.uint8, 0)
    before = measure_resident_file_bytes()
    for chunk in memmap.iterate_chunks(array):
        array[chunk] = 7
        memmap.release_pages(array[chunk])
    rows = np.random.default_rng(0).permutation(len(array))
    held = memmap.read_rows(array, rows[:2_000])
    split = Split(held, rows[:2_000])
    assert split.digest and all((memmap.read_chunk(array, part) == 7).all() for part in np.split(rows, 100))
    assert (memmap.map_chunks(lambda part: part.sum(axis=1), array) == 70_000).all()
    assert measure_resident_file_bytes() - before < 10_000_000


def test_pages_of_large_files_do_not_stay_resident() -> None:
    array = memmap.allocate((12_500_000,), np.float32, 0)  # of 50 MB, Linux maps more than the page that is written
    before = measure_resident_file_bytes()
    for start in range(0, len(array), 1_500):
        array[start : start + 1_500] = 1
        memmap.release_pages(array[start : start + 1_500])
    assert measure_resident_file_bytes() - before < 1_000_000


def use_split_on_disk() -> None:
    array = memmap.allocate((640, 100_000), np.uint8, 0)
    split = make_split(array, np.arange(640) % 2)
    rest, held = hold_out(split, 128, 0)
    assert rest.digest != held.digest
    assert make_split(array.T, np.zeros(100_000)).x.shape == (100_000, 640)
    assert Split(array[:5], split.y[:5]).x.base is not None


def test_split_on_disk_is_never_all_in_memory() -> None:
    assert measure_peak(use_split_on_disk) < 50_000_000


@given(st.integers(1, 5_000), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_sums_of_chunks_equal_numpy_to_the_bit(count: int, width: int, seed: int) -> None:
    array = np.random.default_rng(seed).lognormal(0, 9, (count, width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memmap, "MAPPED_BYTES", 1 << 10)
        total = memmap.sum_chunks(lambda rows, others: (rows[:, 0] * others[:, 0]).sum(), array, array)
    assert total == (array[:, 0] * array[:, 0]).sum()


def sum_array_on_disk() -> None:
    array = memmap.allocate((1_000_000, 4), np.float32, 0)
    sizes: list[int] = []
    memmap.sum_chunks(lambda rows: sizes.append(rows.nbytes) or rows.astype(np.float64).sum(), array)
    assert sum(sizes) == array.nbytes
    assert max(sizes) <= memmap.MAPPED_BYTES


def test_sums_of_chunks_take_little_memory() -> None:
    assert measure_peak(sum_array_on_disk) < 4 * memmap.MAPPED_BYTES
