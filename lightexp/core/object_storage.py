"""Objects of a bucket or folder, read and written through fsspec with a time limit and one-line errors."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from lightexp.core.disk_errors import is_disk_full
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.folder_storage import FolderStorage
from lightexp.core.storage_errors import find_host_problem, is_denied, lacks_conditions, summarize

T = TypeVar("T")

_PLACE = r"(?: |[^\s\x00-\x1f?#@\\])*"
_URL = re.compile(rf"(s3|gs|az)://[^\s\x00-\x1f/?#@:\\]+(/{_PLACE})?|file:///+(?! |/){_PLACE}(?<=[^/])/*")
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
"""By scheme: the extra of lightexp that installs the backend."""
_TIME_FIELDS = ("LastModified", "mtime", "updated", "last_modified")  # as the backends name it
_SLOWEST = 100_000  # bytes per second; a transfer that is slower counts as no answer
_PART_BYTES = 16 * 2**20  # of an upload to S3; s3fs reads files of less than two parts into memory
_READ_LIMIT = 64_000_000  # bytes; manifests and records are far smaller, but others may write objects
_NO_RANGE = re.compile(r"\brange\b.*\b(satisfiable|invalid)\b", re.IGNORECASE | re.DOTALL)
"""What backends say of an empty object, no range of which can be read."""


class StorageUnavailable(RunFailed):
    """The storage does not answer, not in time, or not with what was asked for. Later it may."""


class ObjectTooLarge(StorageUnavailable):
    """An object has more bytes than anything that lightexp reads into memory."""


class StorageRefused(BadInput):
    """The storage denies access."""


@dataclass(frozen=True)
class StoredObject:
    """An object of a storage.

    Attributes:
        name: Its name below the storage's address.
        bytes: Its size.
        time: When it was written, in seconds since the epoch by the storage's clock; None if that is unknown.
    """

    name: str
    bytes: int
    time: float | None


@dataclass(frozen=True)
class StoredUpload:
    """An upload of a large file in parts that has not been completed, whose parts no listing shows.

    Attributes:
        path: Of the object that it would have become, in the bucket.
        id: The storage's id.
        time: When it began, in seconds since the epoch by the storage's clock.
    """

    path: str
    id: str
    time: float


class ObjectStorage:
    """Objects below one address, such as `s3://bucket/prefix`. fsspec and its backend are imported at the first use.

    All methods raise `StorageUnavailable` if there is no answer in time, `StorageRefused` if access is denied, and
    `BadInput` if the backend is not installed.
    """

    def __init__(self, url: str, timeout_s: float = 20.0) -> None:
        """Contact nothing yet.

        Args:
            url: The address.
            timeout_s: Seconds for the answer to a request, to which the time of a slow transfer is added.

        Raises:
            BadInput: If it is no address of storage.
        """
        try:
            self.url = check_url(url).rstrip("/")
        except ValueError as error:
            raise BadInput(f"'{url}' is {error}.") from None
        self._timeout_s = timeout_s

    @cached_property
    def _backend(self) -> tuple[Any, str]:
        """The file system, fsspec's or a folder, and the path of this storage in it."""
        scheme = self.url.partition(":")[0]
        if scheme == "file":
            root = self.url.removeprefix("file://")
            return FolderStorage(root), root
        try:
            from fsspec.core import url_to_fs

            filesystem, root = url_to_fs(self.url, use_listings_cache=False)
        except ImportError:
            extra = f"lightexp[{_EXTRAS[scheme]}]"
            raise BadInput(f"{self.url} needs a package that is not installed. Run: pip install '{extra}'") from None
        except Exception as error:  # such as Azure's without the name of an account
            raise StorageRefused(f"{self.url} cannot be opened ({summarize(error)}). Set its credentials.") from None
        return filesystem, root.rstrip("/")

    def read(self, name: str) -> bytes:
        """Return a small object's bytes.

        Raises:
            FileNotFoundError: If it does not exist.
            ObjectTooLarge: If it is not small.
        """

        def read(filesystem: Any, path: str) -> bytes:
            try:
                return bytes(filesystem.cat_file(path, start=0, end=_READ_LIMIT + 1))  # one request, without HEAD
            except Exception as error:
                if isinstance(error, FileNotFoundError) or not _NO_RANGE.search(str(error)):
                    raise
                return b""

        content = self._call(read, name)
        if len(content) > _READ_LIMIT:
            raise ObjectTooLarge(f"{self.url} cannot be used ({name} has more than {_READ_LIMIT:,} bytes).")
        return content

    def download(self, name: str, target: Path, size: int) -> None:
        """Write an object of about `size` bytes to a file.

        Raises:
            FileNotFoundError: If it does not exist.
            OSError: If the disk of the file is full.
        """

        def download(filesystem: Any, path: str) -> OSError | None:
            try:
                filesystem.get_file(path, str(draft))
            except OSError as error:
                if is_disk_full(error):
                    return error
                raise
            return None

        # What a request still writes that was given up must not reach `target`, which others may have written by then.
        with TemporaryDirectory(dir=target.parent, prefix=".", ignore_cleanup_errors=True) as folder:
            draft = Path(folder, "download")
            if disk_error := self._call(download, name, size):
                raise disk_error
            draft.replace(target)

    def write(self, name: str, content: bytes, create: bool = False) -> None:
        """Write an object atomically, where the backend can.

        Args:
            name: Its name.
            content: Its bytes.
            create: Whether to write it only if it does not exist. Storage without conditional writes is asked first,
                which may overwrite what another host writes at the same moment. Defaults to False.

        Raises:
            FileExistsError: If it exists and `create` is set.
        """

        def write(filesystem: Any, path: str) -> None:
            try:
                filesystem.pipe_file(path, content, mode="create" if create else "overwrite")
            except Exception as error:
                if not (create and lacks_conditions(error)):
                    raise
                if filesystem.exists(path):
                    raise FileExistsError(path) from None
                filesystem.pipe_file(path, content, mode="overwrite")

        try:
            self._call_bucket(write, name, len(content))
        except FileExistsError:
            if create:
                raise
            raise StorageUnavailable(
                f"{self.url} cannot be used ({name}: a file is in the place of a folder)."
            ) from None

    def upload(self, source: Path, name: str) -> None:
        """Write a file's bytes to an object, which appears once all of them are there."""
        options = {"chunksize": _PART_BYTES} if self.url.startswith("s3:") else {}
        self._call_bucket(lambda fs, path: fs.put_file(str(source), path, **options), name, source.stat().st_size)

    def read_size(self, name: str) -> int | None:
        """Return the size of an object in bytes; None if it does not exist."""
        try:
            return int(self._call(lambda fs, path: fs.info(path)["size"], name))
        except FileNotFoundError:
            return None

    def read_time(self, name: str) -> float | None:
        """Return when an object was written, by the storage's clock; None if that is unknown."""
        return self._call(lambda fs, path: _read_time(fs.info(path)), name)

    def list_uploads(self) -> list[StoredUpload]:
        """Return up to 1,000 uploads that have not been completed; other storage than S3 removes them itself."""
        if not self.url.startswith("s3:"):
            return []

        def list_uploads(filesystem: Any, path: str) -> list[StoredUpload]:
            bucket, _, prefix = path.partition("/")
            answer = filesystem.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
            uploads = answer.get("Uploads", [])
            return [
                StoredUpload(upload["Key"], upload["UploadId"], upload["Initiated"].timestamp()) for upload in uploads
            ]

        return self._call_bucket(list_uploads, "")

    def abort_upload(self, upload: StoredUpload) -> None:
        """Remove the parts of an upload, if it has not been completed meanwhile."""
        with suppress(FileNotFoundError):
            place = {"Key": upload.path, "UploadId": upload.id}
            self._call(lambda fs, path: fs.call_s3("abort_multipart_upload", Bucket=path.split("/")[0], **place), "")

    def has_bucket(self) -> bool:
        """Check whether the bucket exists, as far as this host may know; a folder is created when it is written to."""
        with suppress(StorageRefused):  # some policies allow what lies below a prefix alone
            try:
                if not self.url.startswith("file:"):
                    self._call(lambda fs, path: fs.info(path.split("/")[0]), "")
            except FileNotFoundError:
                return False
        return True

    def remove(self, name: str) -> None:
        """Remove an object, if it exists."""
        with suppress(FileNotFoundError):
            self._call(lambda fs, path: fs.rm_file(path), name)

    def list_objects(self, prefix: str, patience_s: float = 10.0) -> Iterator[StoredObject]:
        """Yield all objects whose names begin with `prefix` and a slash.

        Args:
            prefix: The prefix.
            patience_s: Seconds that are added to those for the answer to a request. Defaults to 10.
        """
        root = self._backend[1]
        files = self._call_bucket(lambda fs, path: fs.find(path, detail=True), prefix, int(patience_s * _SLOWEST))
        for path, info in files.items():
            if info["type"] == "file":
                yield StoredObject(path[len(root) + 1 :], int(info["size"] or 0), _read_time(info))

    def _call_bucket(self, function: Callable[[Any, str], T], name: str, size: int = 0) -> T:
        """Call a function that needs no object; the bucket that it does not find has been removed."""
        try:
            return self._call(function, name, size)
        except FileNotFoundError as error:
            raise StorageUnavailable(f"{self.url} cannot be used ({summarize(error)}).") from None

    def _call(self, function: Callable[[Any, str], T], name: str, size: int = 0) -> T:
        """Call a function with the file system and a path in it, in a thread that is abandoned after a time."""
        filesystem, root = self._backend
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(function(filesystem, f"{root}/{name}"))
            except BaseException as error:
                errors.append(error)

        limit = self._timeout_s + size / _SLOWEST
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(limit)
        if results:
            return results[0]
        if not errors:
            raise StorageUnavailable(f"{self.url} gave no answer in {limit:.0f} s.")
        raise self._translate(errors[0])

    def _translate(self, error: BaseException) -> BaseException:
        """Return the error to raise for one of the backend's."""
        reason = summarize(error)
        if isinstance(error, FileNotFoundError | FileExistsError):
            return error
        if problem := find_host_problem(error):
            return StorageRefused(f"{self.url} denies access: {problem}")
        if is_denied(error):
            return StorageRefused(
                f"{self.url} denies access ({reason}). Check credentials, and that they may list, read and write."
            )
        return StorageUnavailable(f"{self.url} cannot be used ({reason}).")


def check_url(url: str) -> str:
    """Return an address of storage, which holds no user, password or options.

    Raises:
        ValueError: If it is none.
    """
    if not _URL.fullmatch(url):
        raise ValueError(
            "no address of a remote store. Write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or "
            "file:///FOLDER, without a user: the backend finds credentials itself"
        )
    return url


def _read_time(info: dict[str, Any]) -> float | None:
    """Return when an object was written, from what a backend says of it."""
    value = next((info[name] for name in _TIME_FIELDS if info.get(name) is not None), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None
