"""Objects on an S3 server and on a stand-in for other storage, and what their refusals mean."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.object_storage import ObjectStorage, StorageUnavailable
from lightexp.core.remote_store import MARKER
from tests.core.remote_hosts import DAY_S, KEY, Host, collect
from tests.object_server import FaultProxy


def test_a_large_file_is_uploaded_in_parts(url: str, tmp_path: Path) -> None:
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)

    def make(folder: Path) -> dict[str, Any]:
        with (folder / "weights.bin").open("wb") as file:
            file.truncate(40_000_000)
        return {}

    first.store.ensure(KEY, "a", make)
    first.store.close()
    assert second.store.find(KEY)
    assert first.lines == second.lines == []
    assert first.remote.storage.list_uploads() == []


def test_hosts_share_a_server_without_conditional_writes(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    proxy.fault = "unconditional"
    first, second = Host(tmp_path / "a", url), Host(tmp_path / "b", url)
    first.ensure()
    first.store.close()
    assert second.ensure()
    assert first.lines == second.lines == []
    with pytest.raises(FileExistsError):
        first.remote.storage.write(MARKER, b"1", create=True)
    assert first.remote.storage.read(MARKER) != b"1"


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("skewed", "denies access: this host's clock differs by "),
        ("region", "denies access: its region is eu-north-1. Set AWS_DEFAULT_REGION=eu-north-1."),
        ("unknown", "denies access (The key does not exist)"),
    ],
)
def test_connect_says_what_a_refusal_means(
    url: str, tmp_path: Path, proxy: FaultProxy, fault: str, problem: str
) -> None:
    proxy.fault = fault
    with pytest.raises(BadInput) as refusal:
        Host(tmp_path, url)
    assert f"{url} {problem}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_write_to_a_full_storage_quotes_its_answer(url: str, tmp_path: Path, proxy: FaultProxy) -> None:
    storage = Host(tmp_path, url).remote.storage
    proxy.fault = "full"
    with pytest.raises(StorageUnavailable, match=re.escape(f"{url} cannot be used (InsufficientStorage: It is full).")):
        storage.write("x", b"1")


class HttpResponseError(Exception):
    """An error as Azure's library raises it."""

    status_code = 403


class DefaultCredentialsError(Exception):
    """An error as Google's library raises it."""


def serve_memory(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """Answer requests to gs:// from this process's memory, in a file system that names times as gcsfs does.

    Args:
        monkeypatch: Ends it with the test.
        error: Raised by each request. Defaults to None.
    """
    memory = pytest.importorskip("fsspec.implementations.memory")

    class Memory(memory.MemoryFileSystem):  # type: ignore[misc]
        cachable = False

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            info = super().info(path, **options)
            return {**info, "updated": "a text", "mtime": info.get("created")}

        def cat_file(self, path: str, **options: Any) -> bytes:
            if error:
                raise error
            return bytes(super().cat_file(path, **options))

        def find(self, path: str, **_: Any) -> dict[str, Any]:
            return {name.lstrip("/"): self.info(name) for name in super().find(path)}

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda url, **_: (Memory(), url.removeprefix("gs://")))
    monkeypatch.setattr(memory.MemoryFileSystem, "store", {})
    monkeypatch.setattr(memory.MemoryFileSystem, "pseudo_dirs", ["", "/bucket"])


def test_hosts_share_storage_that_is_not_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve_memory(monkeypatch)
    first, second = Host(tmp_path / "a", "gs://bucket/prefix"), Host(tmp_path / "b", "gs://bucket/prefix")
    first.ensure()
    first.store.close()
    assert second.ensure()
    assert (first.made, second.made, first.lines, second.lines) == (1, 0, [], [])
    assert collect(first, time.time()) == []
    assert collect(first, time.time() + 2 * DAY_S) == [KEY]
    with pytest.raises(BadInput, match="no such bucket"):
        Host(tmp_path, "gs://nobodys/prefix")


@pytest.mark.parametrize(
    "make_error",
    [
        lambda: OSError("Forbidden: https://storage\nstorage.objects.get is missing"),
        lambda: HttpResponseError("This request is not authorized"),
        lambda: DefaultCredentialsError("Your default credentials were not found"),
    ],
)
def test_connect_recognizes_refusals_of_other_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_error: Callable[[], Exception]
) -> None:
    error = make_error()
    serve_memory(monkeypatch, error)
    with pytest.raises(BadInput) as refusal:
        Host(tmp_path, "gs://bucket/prefix")
    assert f"gs://bucket/prefix denies access ({' '.join(str(error).splitlines())})" in str(refusal.value)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ValueError("Must provide an account_name!!"), "cannot be opened (Must provide an account_name!!)"),
        (ImportError("Please install adlfs"), "Run: pip install 'lightexp[azure]'"),
    ],
)
def test_storage_that_cannot_be_opened_is_refused(
    monkeypatch: pytest.MonkeyPatch, error: Exception, problem: str
) -> None:
    def refuse(url: str, **_: object) -> None:
        raise error

    pytest.importorskip("fsspec")
    monkeypatch.setattr("fsspec.core.url_to_fs", refuse)
    with pytest.raises(BadInput) as refusal:
        ObjectStorage("az://container/prefix").read("object")
    assert problem in str(refusal.value)
