"""Tests of tables of paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightexp.datasets import path_table
from lightexp.datasets.path_table import PathTable

names = st.binary(min_size=1, max_size=6).filter(lambda name: b"/" not in name and b"\0" not in name and name != b".")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(names.map(os.fsdecode)))), st.booleans())
def test_table_returns_the_paths(folders: list[tuple[str, list[str]]], in_memory: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if not in_memory:
            patch.setattr(path_table, "MAX_TABLE_BYTES", 0)
        table = PathTable((Path(folder), files) for folder, files in folders)
    expected = [Path(folder) / name for folder, files in folders for name in files]
    assert list(table) == expected
    assert table[1:3] == expected[1:3]
    assert len(table) == len(expected)
    with pytest.raises(IndexError):
        table[len(expected)]
