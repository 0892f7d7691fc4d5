"""Tests of `lightexp export`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from lightexp.cli import export
from lightexp.core.errors import BadInput
from lightexp.core.record import read_record
from tests.tiny_runs import TinyRuns


def test_export_writes_model_header_and_source(
    tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = tiny_runs.run("pipeline=quantize")
    folder = tiny_runs.get_file(record).parent
    assert export.run([str(folder)]) == 0
    output = folder / "export"
    assert sorted(path.name for path in output.iterdir()) == ["model.cc", "model.h", "model.tflite"]
    assert str(output / "model.h") in capsys.readouterr().out
    shipped = (folder / "model.tflite").read_bytes()
    digits = (output / "model.cc").read_text().partition("{\n")[2].partition("};")[0]
    assert bytes(int(digit, 16) for digit in digits.replace(",", " ").split()) == shipped
    assert record.command.split()[1] in (output / "model.h").read_text()
    with zipfile.ZipFile(output / "model.tflite") as archive:
        assert archive.read("labels.txt") == b"0\n1\n2\n3\n"
    with pytest.raises(BadInput, match=r"model.tflite exists\. Give --force"):
        export.run([str(folder)])
    labels = tmp_path / "names.txt"
    labels.write_text("one\ntwo\nthree\nfour\n")
    assert export.run([str(folder), "--name=net", f"--labels={labels}", f"-o{tmp_path / 'to' / 'it'}"]) == 0
    with zipfile.ZipFile(tmp_path / "to" / "it" / "net.tflite") as archive:
        assert archive.read("labels.txt").decode() == labels.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}"], "is not a record"),
        (["{run}", "--name=int x"], "C needs a name"),
        (["{run}", "--labels={tmp}/absent"], "cannot be read"),
        (["{run}", "--labels={tmp}/two.txt"], "names 2 classes; the model has 4"),
        (["{run}", "-o{tmp}/two.txt"], "cannot be made"),
        (["{failed}"], "is failed and ships no model"),
        ([], "required: RUN"),
    ],
)
def test_export_refuses(arguments: list[str], message: str, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    folder = tiny_runs.get_file(tiny_runs.run("pipeline=control")).parent
    failed = tmp_path / "failed"
    failed.mkdir()
    record = read_record(folder)
    record.status = "failed"
    record.write(failed)
    arguments = [argument.format(tmp=tmp_path, run=folder, failed=failed) for argument in arguments]
    with pytest.raises(BadInput, match=message):
        export.run(arguments)
    assert not (folder / "export").exists()
