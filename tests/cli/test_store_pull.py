"""`lightexp store pull`: a run of another host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightexp.cli.main import main
from lightexp.core.record import Record, read_record
from lightexp.core.store import Store
from tests.cli.two_hosts import Hosts, run_store
from tests.run_records import load_records


def test_pull_fetches_a_run(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outputs = tmp_path / "outputs"
    code, out, err = run_store(capfd, outputs, hosts.url, "pull", hosts.record.id)
    assert (code, err) == (0, "")
    assert "0 are missing" in out
    records, complaints = load_records(outputs)
    assert complaints == [] and [record.id for record in records] == [hosts.record.id]
    assert _drop_files(records[0]) == _drop_files(hosts.record)
    shipped = outputs / "runs" / hosts.record.id / "model.tflite"
    assert shipped.read_bytes() == hosts.first.get_file(hosts.record).read_bytes()
    assert all(Store(outputs / "store").check(key) for key in hosts.record.keys)
    assert main(["report", str(outputs)]) == 0
    assert run_store(capfd, outputs, hosts.url, "pull", hosts.record.id)[0] == 0


def _drop_files(record: Record) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in ("files", "ended", "status")}


def test_killed_pull_leaves_no_run(
    hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Record.write

    def write_last(self: Record, folder: Path) -> None:
        write(self, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(Record, "write", write_last)
    monkeypatch.setattr("lightexp.cli.store_pull.shutil.rmtree", lambda *_, **__: None)  # as after `kill -9`
    assert run_store(capfd, tmp_path / "outputs", hosts.url, "pull", hosts.record.id)[0] == 130
    assert load_records(tmp_path / "outputs") == ([], [])


def test_pull_says_what_the_config_reaches(
    hosts: Hosts, copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    remote, url = copy
    path = remote / "records" / f"{hosts.record.id}.json"
    assert "Check" not in run_store(capfd, tmp_path / "a", url, "pull", path.stem)[1]
    values = json.loads(path.read_text())
    values["config"] |= {"tracking": {"uri": "http://${oc.env:AWS_SECRET_ACCESS_KEY}.org"}, "plugins": ["theirs"]}
    path.write_text(json.dumps(values))
    _, out, _ = run_store(capfd, tmp_path / "b", url, "pull", path.stem)
    assert out.endswith(
        "Check   That command logs to http://${oc.env:AWS_SECRET_ACCESS_KEY}.org; takes AWS_SECRET_ACCESS_KEY from the "
        "environment; runs the plugins theirs.\n"
    )


def test_pull_completes_what_an_earlier_one_could_not(
    hosts: Hosts, copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (remote, url), outputs = copy, tmp_path / "outputs"
    path = remote / "records" / f"{hosts.record.id}.json"
    ended, entries, run = path.read_text(), remote / "entries", outputs / "runs" / path.stem
    path.write_text(json.dumps({**json.loads(ended), "status": "running"}))
    entries.rename(tmp_path / "entries")
    code, out, _ = run_store(capfd, outputs, url, "pull", run.name)
    assert code == 1 and "It has not ended, or its process was killed. Pull it again later." in out
    path.write_text(ended)
    assert run_store(capfd, outputs, url, "pull", run.name)[0] == 1
    assert read_record(run).status == "done"
    (tmp_path / "entries").rename(entries)
    assert run_store(capfd, outputs, url, "pull", run.name)[0] == 0
    record = read_record(run)
    assert record.locate_model(run).is_file()
    record.reason = "changed here"
    record.write(run)
    assert run_store(capfd, outputs, url, "pull", run.name)[0] == 0
    assert read_record(run).reason == "changed here"  # what is complete stays


@pytest.mark.parametrize("run", ["nobodys", "../x"])
def test_pull_refuses_a_wrong_id(hosts: Hosts, tmp_path: Path, capfd: pytest.CaptureFixture[str], run: str) -> None:
    code, _, err = run_store(capfd, tmp_path / "outputs", hosts.url, "pull", run)
    assert code == 2
    assert run in err and err.count("\n") == 1


def test_pull_takes_no_keys_that_are_paths(
    copy: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "mine"
    precious.mkdir()
    (precious / "file").write_text("1")
    path = next((copy[0] / "records").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "keys": [str(precious)]}))
    code, _, err = run_store(capfd, tmp_path / "outputs", copy[1], "pull", path.stem)
    assert code == 2 and "keys.0" in err and err.count("\n") == 1
    assert (precious / "file").read_text() == "1"
