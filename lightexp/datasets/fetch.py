"""Download data files into Keras' cache folder, with pooch, and test whether a server can be reached."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import logging
import os
import socket
import threading
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lightexp.core.errors import BadInput

MAX_BYTES = 200_000_000
"""Size in bytes of the largest file that is downloaded."""
_TIMEOUT_S = 20  # to connect, and between two chunks
_CHUNK_BYTES = 1 << 16


def get_keras_folder() -> Path:
    """Return the folder of Keras' data sets, below `KERAS_HOME` or `~/.keras`."""
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras")) / "datasets"


def is_reachable(address: str, timeout: float = 0.5) -> bool:
    """Return whether a server accepts connections, or its proxy if one is configured.

    Args:
        address: A URL of the server.
        timeout: Seconds to wait at most. Defaults to 0.5.
    """
    url = urlsplit(address)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    results: SimpleQueue[bool] = SimpleQueue()

    def connect() -> None:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname or "", port), timeout).close()
            results.put(True)
        except (OSError, ValueError):
            results.put(False)

    # A DNS lookup has no timeout, so it runs in a thread that can be abandoned.
    threading.Thread(target=connect, daemon=True).start()
    try:
        return results.get(timeout=timeout)
    except Empty:
        return False


def download(url: str, sha256: str, path: Path, advice: str, unpack: bool = False) -> None:
    """Download a file with a progress bar on stderr; it appears complete and verified, or not at all.

    Args:
        url: Address of the file.
        sha256: SHA-256 of the file.
        path: Where to put it; the folder is created if necessary.
        advice: How else the user can get the data, as a sentence.
        unpack: Whether `sha256` is that of the gzipped file's content, which does not depend on the compressor.
            Defaults to False.

    Raises:
        BadInput: If the file cannot be downloaded or written, or its SHA-256 differs.
    """
    import pooch  # imports requests and tqdm, which no other command needs

    mismatch = BadInput(f"{url} is not the file it was: its SHA-256 differs, so it was not kept. {advice}")

    def fetch(url: str, output_file: str, pooch: object) -> None:
        # pooch verifies the downloaded bytes; it cannot verify the content of a gzipped file.
        _fetch(url, Path(output_file))
        if unpack and _hash_gzip_content(Path(output_file)) != sha256:
            raise mismatch

    try:
        with _without_log(pooch.get_logger()):
            known_hash = None if unpack else f"sha256:{sha256}"
            pooch.retrieve(url, known_hash, fname=path.name, path=path.parent, downloader=fetch)
    except OSError as error:  # the base class of requests' errors, too
        raise BadInput(f"{url} could not be fetched into {path.parent}: {_explain(error)}. {advice}") from None
    except BadInput:
        raise
    except ValueError:  # pooch's, when the hash differs
        raise mismatch from None


class _DownloadFile:
    """The file that pooch writes a download to, and the progress bar that pooch updates.

    Attributes:
        total: Size in bytes that the server announced; 0 if unknown. Set by pooch.
    """

    def __init__(self, file: IO[bytes], bar: Progress, name: str) -> None:
        self.total = 0
        self.size = 0
        self._file = file
        self._bar = bar
        self._task = bar.add_task(f"fetching {name}", total=None)

    def write(self, chunk: bytes) -> None:
        """Append a chunk.

        Raises:
            OSError: If the download is larger than `LIMIT`, or the disk is full.
        """
        self.size += len(chunk)
        if self.size > MAX_BYTES:
            raise OSError(f"it is larger than {MAX_BYTES} bytes")
        self._file.write(chunk)
        self._bar.update(self._task, completed=self.size, total=self.total or None)

    def flush(self) -> None:
        """Do nothing: the file is flushed when it is closed."""

    def update(self, size: int) -> None:
        """Do nothing: `write` updates the bar by the chunk's true size."""

    def reset(self) -> None:
        """Do nothing: the bar is complete after the last chunk."""

    def close(self) -> None:
        """Do nothing: the bar is closed by its context."""


def _fetch(url: str, draft: Path) -> None:
    from pooch import HTTPDownloader

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    draft.unlink()  # pooch's temporary file is readable by its owner only, but the cache may be shared
    with bar, draft.open("xb") as file:
        target = _DownloadFile(file, bar, url.rpartition("/")[2])
        headers = {"Accept-Encoding": "identity"}  # a .gz file must arrive as it is
        downloader = HTTPDownloader(target, _CHUNK_BYTES, timeout=_TIMEOUT_S, headers=headers)
        downloader(url, target, None)


def _explain(error: BaseException) -> str:
    """Return the message of the first error in a chain: requests wraps "Connection refused" three times."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, http.client.IncompleteRead):
        received: Any = error.partial  # urllib3's subclass holds the number of bytes
        return f"the connection broke after {received} of {received + (error.expected or 0)} bytes"
    return str(error)


def _hash_gzip_content(path: Path) -> str:
    """Return the SHA-256 of a gzipped file's content; empty if it is not gzip."""
    try:
        with gzip.open(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return ""


@contextmanager
def _without_log(logger: logging.Logger) -> Iterator[None]:
    """Suppress a logger's messages in a block: the progress bar already says what is downloaded."""

    def reject(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(reject)
    try:
        yield
    finally:
        logger.removeFilter(reject)
