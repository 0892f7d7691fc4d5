"""`lightexp doctor`: what it checks, and how it reports it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from lightexp.cli.doctor import Check, check_job, check_libraries, check_versions
from lightexp.cli.main import main
from lightexp.core.record import RECORD_FILE
from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST
from lightexp.runner.compose import compose_config
from tests import stand_in_servers
from tests.cli.commands import lightexp

QUIET = "import sys; from lightexp.cli.main import main; code = main(sys.argv[1:]); "
QUIET += "assert not {'tensorflow', 'mlflow', 'sklearn', 'ai_edge_litert'} & set(sys.modules), sorted(sys.modules); "
QUIET += "sys.exit(code)"


def check_settings(*settings: str) -> dict[tuple[str, str], Check]:
    return {(check.topic, check.name): check for check in check_job(list(settings), compose_config(list(settings)))}


def write_distribution(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write the metadata of an installed package, as pip does."""
    info_folder = folder / f"{name}-{version}.dist-info"
    info_folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Requires-Python: >=3.11"]
    (info_folder / "METADATA").write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires)]) + "\n")


def test_doctor_finds_a_sound_machine_fit(tmp_path: Path) -> None:
    result = lightexp("doctor", "--json", cwd=tmp_path, program=[sys.executable, "-c", QUIET])
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["fit"] is True
    checks = {(check["topic"], check["name"]): check for check in report["checks"]}
    assert {check["state"] for check in checks.values()} <= {"ok", "note"}
    assert checks["versions", "tensorflow"]["message"].startswith("2.21.")
    assert checks["libraries", "import"]["state"] == "ok"
    assert checks["data sets", "digits"]["message"].endswith("digits.csv.gz")
    assert checks["data sets", "arrays"]["state"] == "note"
    assert "mlflow.db" in checks["outputs", "tracking"]["message"]
    assert not list(tmp_path.iterdir())  # it has left no file


def test_check_versions_compares_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert {check.state for check in check_versions()} == {"ok"}
    write_distribution(tmp_path, "rich", "1.0")
    monkeypatch.syspath_prepend(tmp_path)
    wrong = [check for check in check_versions() if check.state != "ok"]
    assert [(check.name, check.state) for check in wrong] == [("rich", "bad")]
    assert wrong[0].message.startswith("1.0, not <16,>=13.9: pip install 'rich")
    write_distribution(tmp_path, "lightexp", "0.1.0", "rich>=1", "nowhere-to-be-found>=2", 'absent; extra == "test"')
    assert [(check.name, check.state) for check in check_versions()] == [
        ("python", "ok"),
        ("rich", "ok"),
        ("nowhere-to-be-found", "bad"),
    ]
    assert main(["doctor"]) == 1
    assert capfd.readouterr().out == "nowhere-to-be-found: not installed: pip install 'nowhere-to-be-found>=2'\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "the process died of signal 4. Install"),
        ("raise ImportError('libcudart.so.99 is missing')", "ImportError: libcudart.so.99 is missing. Install"),
    ],
)
def test_check_libraries_reports_a_broken_tensorflow(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorflow.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (check,) = check_libraries()
    assert check.state == "bad" and check.message.startswith(message)


def test_check_job_checks_what_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sound = check_settings()
    assert {check.state for check in sound.values()} <= {"ok", "note"}
    assert sound["outputs", "writable"].message == f"{tmp_path / 'outputs'}, which will be created"
    assert sound["outputs", "store"].message == "0 entries, 0 bytes"
    assert sound["machine", "threads"].state == "ok"
    cores = len(os.sched_getaffinity(0))
    more = check_settings(f"runtime.threads={cores + 1}", "tracking=none")
    assert more["machine", "threads"] == Check(
        "machine", "threads", "note", f"{cores + 1} compute, of {cores} cores: runtime.threads={cores} would be faster"
    )
    assert more["outputs", "tracking"].message == "NoTracking"
    (tmp_path / "file").write_text("")
    for settings, place in [
        (["paths.outputs=file"], ("job", "settings")),
        (["pipeline.order=[train,quantize,prune]"], ("job", "settings")),
        (["dataset=arrays", "dataset.path=missing.npz"], ("data sets", "dataset of the job")),
        (["plugins=[nowhere_to_be_found]"], ("plugins", "nowhere_to_be_found")),
    ]:
        checks = check_settings(*settings)
        assert [key for key, check in checks.items() if check.state == "bad"] == [place]
    assert check_settings("tracking.uri=http://127.0.0.1:9")["outputs", "tracking"].state == "note"
    for refuses_host, state in ((False, "ok"), (True, "note")):
        with stand_in_servers.serve(refuses_host=refuses_host) as server:
            check = check_settings(f"tracking.uri={server.url}")["outputs", "tracking"]
        assert (check.state, "mlflow server --allowed-hosts HOST:PORT" in check.message) == (state, refuses_host)


def test_check_job_finds_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("")
    write_distribution(tmp_path, "mine", "3.0", "lightexp>=0.1")
    write_distribution(tmp_path, "other", "1.0", "lightexp-viewer")
    monkeypatch.syspath_prepend(tmp_path)
    checks = list(check_job(["plugins=[mine]"], compose_config(["plugins=[mine]"])))
    assert [(check.state, check.message) for check in checks if check.topic == "plugins"] == [
        ("ok", f"can be imported from {tmp_path / 'mine.py'}"),
        ("ok", "3.0 builds on lightexp; plugins=[PACKAGE] allows it"),
    ]


def test_check_job_reports_broken_entries_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "outputs" / "store")
    entries = [store.ensure(f"{n:02d}" + "0" * 62, "a", lambda folder: {})[0] for n in range(3)]
    (entries[0].folder / MANIFEST).write_text("{")
    (entries[1].folder / "more").write_text("")
    assert store.load(entries[1].key) is None
    (store.root / "drafts" / entries[1].key).mkdir(parents=True)
    check = check_settings()["outputs", "store"]
    assert check.state == "note"
    assert "2 entries, " in check.message and "1 cannot be read (lightexp store verify)" in check.message
    assert "1 quarantined as broken" in check.message and "1 half-made or half-removed" in check.message
    assert (store.root / "drafts" / entries[1].key).exists()  # it has changed nothing
    for name in ("cut", "empty"):
        (tmp_path / "outputs" / "runs" / name).mkdir(parents=True)
        (tmp_path / "outputs" / "runs" / name / RECORD_FILE).write_text("{" if name == "cut" else "")
    runs = check_settings()["outputs", "runs"]
    assert runs.state == "note" and runs.message.startswith("0 records; ")
    assert runs.message.endswith(" 1 more cannot be read.")
    store.release()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--jsn"], "--jsn is not a flag of lightexp doctor: did you mean '--json'?"),
        (["sed=1"], "sed is not a setting: did you mean 'seed'?"),
        (["dataset=nothing"], "dataset=nothing: no such choice"),
    ],
)
def test_doctor_refuses_bad_input_in_one_line(argv: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *argv]) == 2
    captured = capfd.readouterr()
    assert captured.out == "" and len(captured.err.splitlines()) == 1
    assert message in captured.err


def test_doctor_table_says_whether_the_job_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no AVX')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    result = lightexp("doctor", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    assert "ImportError: no AVX" in result.stdout and "It cannot run here: see what is bad." in result.stdout
    assert "Exit codes: 0 it can, 1 it cannot" in lightexp("doctor", "--help", cwd=tmp_path).stdout


def test_doctor_checks_the_remote_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(url: str) -> tuple[str, str]:
        settings = [f"paths.outputs={tmp_path / 'outputs'}", f"store.remote={url}"]
        checks = {check.name: check for check in check_job(settings, compose_config(settings))}
        return checks["remote store"].state, checks["remote store"].message

    url = f"file://{tmp_path / 'remote'}"
    assert check(url) == ("ok", f"{url} can be read and written")
    assert not [path for path in (tmp_path / "remote").rglob("*") if path.is_file()]
    monkeypatch.setattr("lightexp.core.remote_gc.time.time", lambda: 0.0)
    state, message = check(url)
    assert state == "note" and "this host's clock differs by" in message
    (tmp_path / "remote" / "lightexp-store.json").write_text('{"format": 2}')
    assert check(url)[0] == "bad"
    (tmp_path / "remote" / "lightexp-store.json").write_text("<html>")
    assert check(url)[0] == "note"
    (tmp_path / "remote" / "lightexp-store.json").unlink()
    shutil.rmtree(tmp_path / "remote" / "leases")
    (tmp_path / "remote" / "leases").write_text("a file in the place of a folder")
    assert "but not written" in check(url)[1]
