"""Objects on an S3 server, and what its refusals mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lightexp.core.errors import BadInput
from tests.core.remote_hosts import KEY, Host
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


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("skewed", "denies access: this host's clock differs by 6"),
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
