"""Hosts that share nothing but a remote store: an S3 server on loopback, behind a proxy that injects faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.object_storage import ObjectStorage
from lightexp.core.remote_gc import find_garbage, remove_garbage
from lightexp.core.remote_lease import RemoteLeases
from lightexp.core.remote_store import RemoteStore
from lightexp.core.store import Store
from lightexp.core.store_sync import StoreSync
from tests.object_server import FaultProxy, inject_faults, serve_s3

KEY = "ab" + "0" * 62
NUMBERS = iter(range(1_000))
EXPIRY_S = 1.5
DAY_S = 86_400.0


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """A proxy before a server with one bucket, `bucket`."""
    for name in ("moto", "s3fs"):
        pytest.importorskip(name)
    with serve_s3(tmp_path_factory.mktemp("s3")) as port, inject_faults(port) as proxy:
        credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        boto3 = pytest.importorskip("boto3")
        boto3.client("s3", endpoint_url=proxy.url, **credentials).create_bucket(Bucket="bucket")
        yield proxy


@pytest.fixture
def proxy(server: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, which has no fault after the test."""
    yield server
    server.mend()


@pytest.fixture
def url(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new prefix; the environment has the server's credentials and address."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return f"s3://bucket/{next(NUMBERS)}"


def write_weights(folder: Path) -> dict[str, Any]:
    (folder / "model.tflite").write_bytes(b"weights" * 100)
    return {"loss": 0.5}


class Host:
    """A user's folder on one host, and what the user is told."""

    def __init__(self, folder: Path, url: str, timeout_s: float = 20.0, expiry_s: float = EXPIRY_S) -> None:
        self.lines: list[str] = []
        self.made = 0
        storage = ObjectStorage(url, timeout_s)
        self.remote = RemoteStore(storage)
        self.sync = StoreSync(self.remote, RemoteLeases(storage, expiry_s), self.lines.append)
        self.sync.connect()
        self.store = Store(folder, self.sync)

    def ensure(self, then: Callable[[], Any] = lambda: None, key: str = KEY) -> bool:
        """Need an entry; return whether it existed. `then` is called while it is being made."""

        def make(folder: Path) -> dict[str, Any]:
            self.made += 1
            then()
            return write_weights(folder)

        entry, existed = self.store.ensure(key, "a", make, lambda: self.lines.append("waits"))
        assert (entry.folder / "model.tflite").read_bytes() == b"weights" * 100
        assert entry.facts == {"loss": 0.5}
        return existed


def collect(host: Host, now: float, named: Callable[[], set[str]] = set) -> list[str]:
    """Remove what no record names at a time; return the keys of the entries that are gone."""
    gone: list[str] = []
    garbage = find_garbage(host.remote, set, None, None, now)
    remove_garbage(host.remote, garbage, named, lambda item: gone.append(item.key))
    return gone
