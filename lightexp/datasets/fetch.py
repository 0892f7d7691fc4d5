"""Fetching data files, once, into the folder that Keras keeps its own in."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import socket
import threading
import urllib.request
import zlib
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lightexp.core.errors import BadInput

LIMIT = 200_000_000
"""Bytes of the largest file that is fetched."""
_CHUNK = 1 << 16


def keras_folder() -> Path:
    """The folder of Keras' data sets, below `KERAS_HOME` or `~/.keras`."""
    return Path(os.path.expanduser(os.environ.get("KERAS_HOME") or "~/.keras")) / "datasets"


def reachable(address: str, timeout: float = 0.5) -> bool:
    """Whether something answers at an address, or at the proxy's where there is one.

    Args:
        address: A URL of the server.
        timeout: Seconds to wait for it at most.
    """
    url = urlsplit(address)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    answers: SimpleQueue[bool] = SimpleQueue()

    def ask() -> None:
        try:
            port = url.port or (443 if url.scheme == "https" else 80)
            socket.create_connection((url.hostname or "", port), timeout).close()
            answers.put(True)
        except (OSError, ValueError):
            answers.put(False)

    # a name server that does not answer cannot be timed out, only left behind
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=timeout)
    except Empty:
        return False


def download(url: str, sha256: str, path: Path, advice: str, unpack: bool = False) -> None:
    """Fetches a file with a progress bar on stderr; it appears whole and verified or not at all.

    Args:
        url: Its address.
        sha256: SHA-256 of the file.
        path: Where to put it; the folder is made if need be.
        advice: How else to get the data, as a sentence.
        unpack: Whether `sha256` is of what the gzipped file holds: compressors differ, contents do not. Defaults to
            False.

    Raises:
        BadInput: If it cannot be fetched or written, or is not the file that it should be.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, draft)
        if _digest(draft, unpack) != sha256:
            raise BadInput(f"{url} is not the file it was: its SHA-256 differs, so it was not kept. {advice}")
        draft.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise BadInput(f"{url} could not be fetched into {path.parent}: {error}. {advice}") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _fetch(url: str, draft: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    with bar, urllib.request.urlopen(url, timeout=20) as answer, draft.open("wb") as file:
        length = answer.headers.get("Content-Length", "")
        task = bar.add_task(f"fetching {url.rpartition('/')[2]}", total=int(length) if length.isdecimal() else None)
        done = 0
        while chunk := answer.read(_CHUNK):
            done += len(chunk)
            if done > LIMIT:
                raise OSError(f"it is larger than {LIMIT} bytes")
            file.write(chunk)
            bar.advance(task, len(chunk))
        if length.isdecimal() and done < int(length):
            raise OSError(f"the connection broke after {done} of {length} bytes")


def _digest(path: Path, unpack: bool) -> str:
    try:
        with gzip.open(path) if unpack else path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (gzip.BadGzipFile, EOFError, zlib.error):
        return "not gzip"
