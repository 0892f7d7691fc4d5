"""Records read back from MLflow: what a server may answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.core.record import RECORD_FILE, Record
from lightexp.tracking import fetch
from lightexp.tracking.mlflow import Mlflow
from tests import stand_in_servers


@pytest.mark.parametrize("run_id", ["../../escape", "/tmp/escape", "a/b", "..", "", "a" * 65])
def test_download_records_makes_no_folder_that_a_server_names(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_record: Callable[..., Record]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    make_record().write(tmp_path)
    content = (tmp_path / RECORD_FILE).read_bytes()
    (tmp_path / RECORD_FILE).unlink()
    with stand_in_servers.serve(artifact=content) as server:
        server.answers["runs/search"] = lambda answer: {"runs": [server.make_run(run_id=run_id, run_uuid=run_id)]}
        with pytest.raises(BadInput, match="run"):
            list(fetch.download_records(Mlflow(server.url), []))
    assert list(tmp_path.iterdir()) == []
