"""Fetching, from a real server on this machine."""

from __future__ import annotations

import hashlib
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


class Quiet(SimpleHTTPRequestHandler):
    """Serves files without a word, and cuts short those whose name says so."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        """Announces more than it sends for `short`."""
        if not self.path.endswith("short"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"x" * 10)
        return None


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files the storage serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        for cls in (MnistFiles, Cifar):
            monkeypatch.setattr(cls, "base_url", f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def test_what_is_nowhere_is_fetched_once(
    served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arrays = write_idx(served)
    sums = {n: hashlib.sha256(idx_bytes(a)).hexdigest() for n, a in zip(IDX_FILES, arrays, strict=True)}
    monkeypatch.setattr(FashionMnist, "digests", sums)
    assert FashionMnist().check() is None
    assert not cache.exists()  # check fetches nothing
    data = FashionMnist().load()
    assert np.array_equal(data.test.x[..., 0], arrays[2])
    assert files(cache) == sorted(IDX_FILES)
    out, err = capfd.readouterr()
    assert (out, IDX_FILES[0] in err) == ("", True)
    for path in served.iterdir():
        path.unlink()
    assert FashionMnist().load().key == data.key


def test_only_what_is_missing_is_fetched(served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = write_idx(cache / "fashion-mnist")
    (cache / "fashion-mnist" / IDX_FILES[1]).rename(served / IDX_FILES[1])
    monkeypatch.setattr(
        FashionMnist,
        "digests",
        {n: hashlib.sha256(idx_bytes(a)).hexdigest() for n, a in zip(IDX_FILES, arrays, strict=True)},
    )
    assert len(FashionMnist().load().train) == 160


def test_an_archive_is_fetched(served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arrays = write_idx(tmp_path / "mine")
    write_archive(served / "mnist.npz", arrays)
    monkeypatch.setattr(
        Mnist, "digests", {"mnist.npz": hashlib.sha256((served / "mnist.npz").read_bytes()).hexdigest()}
    )
    assert Mnist().load().key == Mnist(folder=str(tmp_path / "mine")).load().key
    assert files(cache) == ["mnist.npz"]


def test_an_archive_is_fetched_under_keras_s_name(served: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(served / "cifar-10-python.tar.gz", Cifar10.python)
    content = (served / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(Cifar10, "sha256", hashlib.sha256(content).hexdigest())
    data = Cifar10().load()
    assert files(cache) == ["cifar-10-batches-py.tar.gz"]
    (served / "cifar-10-python.tar.gz").unlink()
    assert Cifar10().load().key == data.key
    monkeypatch.setattr(Cifar100, "sha256", "0" * 64)
    (served / "cifar-100-python.tar.gz").write_bytes(content)
    with pytest.raises(BadInput, match=r"SHA-256 differs, so it was not kept.*dataset\.folder=FOLDER"):
        Cifar100().load()
    assert files(cache) == ["cifar-10-batches-py.tar.gz"]


def test_other_files_than_expected_are_not_kept(served: Path, cache: Path) -> None:
    write_idx(served)
    with pytest.raises(BadInput, match=r"SHA-256 differs, so it was not kept.*dataset\.folder=FOLDER"):
        FashionMnist().load()
    (served / IDX_FILES[0]).write_bytes(b"<html>sign in to this network</html>")
    with pytest.raises(BadInput, match="SHA-256 differs"):
        FashionMnist().load()
    assert files(cache) == []


@pytest.mark.parametrize(("name", "words"), [("none", "404"), ("short", "connection broke after 10 of 1000 bytes")])
def test_what_the_server_does_not_give(name: str, words: str, served: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"{name} could not be fetched .*{words}.*Do this\."):
        fetch.download(Mnist.base_url + name, "", tmp_path / "cache" / name, "Do this.")
    assert files(tmp_path / "cache") == []


def test_a_file_too_large(served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 10)
    (served / "large").write_bytes(b"x" * 11)
    with pytest.raises(BadInput, match="larger than 10 bytes"):
        fetch.download(f"{Mnist.base_url}large", "", tmp_path / "cache" / "large", "")
    assert files(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_made(served: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"could not be fetched into .*file/cache"):
        fetch.download(f"{Mnist.base_url}any", "", tmp_path / "file" / "cache" / "any", "")


def test_reachable(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch.is_reachable(Mnist.base_url)
    assert not fetch.is_reachable("http://127.0.0.1:9/")
    assert not fetch.is_reachable("http://storage.invalid/")
    monkeypatch.setenv("http_proxy", Mnist.base_url)  # then it is the proxy that must answer
    assert fetch.is_reachable("http://storage.invalid/")


def test_reachable_leaves_a_slow_name_server_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def slow(*args: object, **kwargs: object) -> None:
        over.wait(30)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    start = time.perf_counter()
    assert not fetch.is_reachable("http://storage.invalid/", 0.1)
    assert time.perf_counter() - start < 10  # far from 30, for a busy machine's sake
    over.set()


def test_reachable_gives_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        full = [socket.socket() for _ in range(4)]  # a full queue drops what knocks
        for knock in full:
            knock.setblocking(False)
            knock.connect_ex(address)
        start = time.perf_counter()
        assert not fetch.is_reachable(f"http://127.0.0.1:{address[1]}/", 0.2)
        assert time.perf_counter() - start < 10  # the system itself would try for minutes
        for knock in full:
            knock.close()
