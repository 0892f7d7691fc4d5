"""Opening, reading and replacing regular files, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core.regular_files import open_regular, read_bytes, read_text, replace_file
from tests.special_files import SPECIAL_FILES, deadline


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_open_regular_refuses_all_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    SPECIAL_FILES[kind](path)
    with deadline(), pytest.raises(OSError, match=r"not a file|symbolic links"):
        open_regular(path)


def test_open_regular_follows_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ä", encoding="utf-8")
    (tmp_path / "link").symlink_to("file")
    assert read_text(tmp_path / "link") == "ä"
    assert read_bytes(tmp_path / "link") == "ä".encode()


@pytest.mark.parametrize("kind", ["pipe", "link to itself", "link to a device"])
def test_replace_file_writes_into_nothing_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    SPECIAL_FILES[kind](path)
    with deadline():
        replace_file(path, b"content")
    assert path.read_bytes() == b"content" and not path.is_symlink()
    assert list(tmp_path.iterdir()) == [path]


def test_replace_file_keeps_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "file", b"content")
    assert [path.is_dir() for path in tmp_path.iterdir()] == [True]
