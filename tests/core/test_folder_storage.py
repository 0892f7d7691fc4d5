"""A folder as object storage: files that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.folder_storage import UPLOADS, FolderStorage
from lightexp.core.object_storage import ObjectStorage, StorageRefused, StorageUnavailable


def test_objects_are_written_read_listed_and_removed(tmp_path: Path) -> None:
    storage = ObjectStorage(f"file://{tmp_path / 'remote'}")
    assert list(storage.list_objects("a")) == []
    assert storage.read_size("a/x") is None
    storage.write("a/x", b"12")
    storage.write("a/x", b"123")
    with pytest.raises(FileExistsError):
        storage.write("a/x", b"4", create=True)
    storage.write("a/y", b"", create=True)
    storage.upload(tmp_path / "remote/a/x", "b/z")
    storage.download("b/z", tmp_path / "copy", 3)
    assert [storage.read("a/x"), storage.read("a/y"), (tmp_path / "copy").read_bytes()] == [b"123", b"", b"123"]
    assert {(stored.name, stored.bytes) for stored in storage.list_objects("a")} == {("a/x", 3), ("a/y", 0)}
    assert abs((storage.read_time("a/x") or 0.0) - time.time()) < 60
    storage.remove("a/x")
    storage.remove("a/x")
    with pytest.raises(FileNotFoundError):
        storage.read("a/x")
    assert list(storage.list_objects(UPLOADS)) == []


def test_an_address_may_name_a_range(tmp_path: Path) -> None:
    storage = ObjectStorage(f"file://{tmp_path / 'range' / 'oranges'}")
    with pytest.raises(FileNotFoundError):
        storage.read("a/x")


def test_a_process_killed_in_mid_write_leaves_no_object(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from lightexp.core.folder_storage import FolderStorage
def write(draft):
    draft.write_bytes(b"half")
    os.kill(os.getpid(), 9)
FolderStorage(sys.argv[1])._write(sys.argv[1] + "/a/x", write)
"""
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    storage = ObjectStorage(f"file://{tmp_path}")
    assert list(storage.list_objects("a")) == []
    assert [stored.bytes for stored in storage.list_objects(UPLOADS)] == [4]


def test_what_is_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file in the place of a folder")
    storage = ObjectStorage(f"file://{tmp_path}")
    with pytest.raises(StorageUnavailable, match="a/x: a file is in the place of a folder"):
        storage.write("a/x", b"1")
    with pytest.raises(StorageUnavailable, match="cannot be used"):
        storage.read("a/x")
    with pytest.raises(StorageUnavailable, match="cannot be used"):
        list(storage.list_objects("a"))


def test_objects_are_created_once_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    storage = ObjectStorage(f"file://{tmp_path}")
    storage.write("a/x", b"first", create=True)
    with pytest.raises(FileExistsError):
        storage.write("a/x", b"second", create=True)
    assert storage.read("a/x") == b"first"
    assert list(storage.list_objects(UPLOADS)) == []


def test_what_comes_too_late_changes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(f"file://{tmp_path / 'remote'}", timeout_s=0.1)
    storage.write("a/x", b"late")
    answers, has_ended = threading.Event(), threading.Event()
    get_file = FolderStorage.get_file

    def get_late(*arguments: Any) -> None:
        answers.wait()
        try:
            get_file(*arguments)
        finally:
            has_ended.set()

    monkeypatch.setattr(FolderStorage, "get_file", get_late)
    (tmp_path / "draft").mkdir()
    with pytest.raises(StorageUnavailable, match="no answer"):
        storage.download("a/x", tmp_path / "draft/x", 4)
    (tmp_path / "draft/x").write_bytes(b"made here")
    answers.set()
    assert has_ended.wait(60)
    assert [path.read_bytes() for path in (tmp_path / "draft").iterdir()] == [b"made here"]


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(FolderStorage, "info", refuse)  # this test may run as root
    with pytest.raises(StorageRefused, match="denies access"):
        ObjectStorage(f"file://{tmp_path}").read_size("a")
