"""Tests of downloads, from a server on this machine."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.datasets import fetch
from lightexp.datasets.cifar import Cifar
from lightexp.datasets.cifar10 import Cifar10
from lightexp.datasets.cifar100 import Cifar100
from lightexp.datasets.fashion_mnist import FashionMnist
from lightexp.datasets.mnist import Mnist
from lightexp.datasets.mnist_files import IDX_FILES, MnistFiles
from tests.datasets.files import idx_bytes, write_archive, write_cifar, write_idx


class SilentHandler(SimpleHTTPRequestHandler):
    """Serve files without logging, and truncate the file `short`."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Announce more bytes than are sent for `short`."""
        if not self.path.endswith("short"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        return None


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder whose files the server serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=str(folder))) as server:
        for cls in (MnistFiles, Cifar):
            monkeypatch.setattr(cls, "base_url", f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def list_files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def test_load_downloads_once(
    served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arrays = write_idx(served)
    digests = {n: hashlib.sha256(idx_bytes(a)).hexdigest() for n, a in zip(IDX_FILES, arrays, strict=True)}
    monkeypatch.setattr(FashionMnist, "digests", digests)
    assert FashionMnist().check() is None
    assert not cache.exists()  # check downloads nothing
    data = FashionMnist().load()
    assert np.array_equal(data.test.x[..., 0], arrays[2])
    assert list_files(cache) == sorted(IDX_FILES)
    out, err = capfd.readouterr()
    assert (out, IDX_FILES[0] in err) == ("", True)
    assert "Downloading data" not in err  # pooch's own message
    for path in served.iterdir():
        path.unlink()
    assert FashionMnist().load().key == data.key


def test_load_downloads_missing_files_only(served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_idx(cache / "fashion-mnist")
    (cache / "fashion-mnist" / IDX_FILES[1]).rename(served / IDX_FILES[1])
    monkeypatch.setattr(
        FashionMnist,
        "digests",
        {n: hashlib.sha256(idx_bytes(a)).hexdigest() for n, a in zip(IDX_FILES, arrays, strict=True)},
    )
    assert len(FashionMnist().load().train) == 160


def test_load_downloads_archive(served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / "mine")
    write_archive(served / "mnist.npz", arrays)
    monkeypatch.setattr(
        Mnist, "digests", {"mnist.npz": hashlib.sha256((served / "mnist.npz").read_bytes()).hexdigest()}
    )
    assert Mnist().load().key == Mnist(folder=str(tmp_path / "mine")).load().key
    assert list_files(cache) == ["mnist.npz"]


def test_download_uses_name_of_keras(served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(served / "cifar-10-python.tar.gz", Cifar10.python)
    content = (served / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(Cifar10, "sha256", hashlib.sha256(content).hexdigest())
    data = Cifar10().load()
    assert list_files(cache) == ["cifar-10-batches-py.tar.gz"]
    (served / "cifar-10-python.tar.gz").unlink()
    assert Cifar10().load().key == data.key
    monkeypatch.setattr(Cifar100, "sha256", "0" * 64)
    (served / "cifar-100-python.tar.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"SHA-256 differs, so it was not kept.*dataset\.folder=FOLDER"):
        Cifar100().load()
    assert list_files(cache) == ["cifar-10-batches-py.tar.gz"]


def test_download_with_other_digest_is_deleted(served: Path, cache: Path) -> None:
    write_idx(served)
    with pytest.raises(BadInput, match=r"SHA-256 differs, so it was not kept.*dataset\.folder=FOLDER"):
        FashionMnist().load()
    (served / IDX_FILES[0]).write_bytes(b"<html>sign in to this network</html>")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        FashionMnist().load()
    assert list_files(cache) == []


@pytest.mark.parametrize(("name", "message"), [("none", "404"), ("short", "connection broke after 10 of 1000 bytes")])
def test_failed_download_is_one_line(name: str, message: str, served: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{name} could not be fetched .*{message}.*Do this\."):
        fetch.download(Mnist.base_url + name, "", tmp_path / "cache" / name, "Do this.")
    assert list_files(tmp_path / "cache") == []


def test_download_above_limit_is_refused(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    (served / "large").write_bytes(b"x" * 11)
    with pytest.raises(BadInput, match="larger than 10 bytes"):
        fetch.download(f"{Mnist.base_url}large", "", tmp_path / "cache" / "large", "")
    assert list_files(tmp_path / "cache") == []


def test_download_is_readable_by_others(served: Path, tmp_path: Path) -> None:
    (served / "small").write_bytes(b"x")
    digest = hashlib.sha256(b"x").hexdigest()
    previous = os.umask(0o022)
    try:
        fetch.download(f"{Mnist.base_url}small", digest, tmp_path / "small", "")
    finally:
        os.umask(previous)
    assert (tmp_path / "small").stat().st_mode & 0o777 == 0o644


def test_download_to_invalid_folder_is_refused(served: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"could not be fetched into .*file/cache"):
        fetch.download(f"{Mnist.base_url}any", "", tmp_path / "file" / "cache" / "any", "")


def test_is_reachable(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch.is_reachable(Mnist.base_url)
    assert not fetch.is_reachable("http://127.0.0.1:9/")
    assert not fetch.is_reachable("http://storage.invalid/")
    monkeypatch.setenv("http_proxy", Mnist.base_url)  # then the proxy must answer
    assert fetch.is_reachable("http://storage.invalid/")


def test_is_reachable_abandons_slow_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def slow(*args: object, **kwargs: object) -> None:
        released.wait(30)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    start = time.perf_counter()
    assert not fetch.is_reachable("http://storage.invalid/", 0.1)
    assert time.perf_counter() - start < 10  # far from 30 even on a busy machine
    released.set()


def test_is_reachable_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        clients = [socket.socket() for _ in range(4)]  # a full backlog drops connections
        for client in clients:
            client.setblocking(False)
            client.connect_ex(address)
        start = time.perf_counter()
        assert not fetch.is_reachable(f"http://127.0.0.1:{address[1]}/", 0.2)
        assert time.perf_counter() - start < 10  # the operating system would retry for minutes
        for client in clients:
            client.close()
