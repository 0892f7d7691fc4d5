"""Tests of `lightexp export`."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lightexp.cli import export
from lightexp.core.errors import BadInput
from lightexp.core.record import read_record
from lightexp.core.store import Store
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
    header = (output / "model.h").read_text()
    assert record.command.split()[1] in header
    assert "#define MODEL_ARENA_BYTES " in header or "// The arena is not known: " in header
    assert "#define MODEL_LABELS 4\n" in header
    with zipfile.ZipFile(output / "model.tflite") as archive:
        assert archive.read("labels.txt") == b"0\n1\n2\n3\n"
    with pytest.raises(BadInput, match=r"model.tflite exists\. Give --force"):
        export.run([str(folder)])
    labels = tmp_path / "names.txt"
    labels.write_text("one\ntwo\nthree\nfour\n")
    assert export.run([str(folder), "--name=net", f"--labels={labels}", f"-o{tmp_path / 'to' / 'it'}"]) == 0
    with zipfile.ZipFile(tmp_path / "to" / "it" / "net.tflite") as archive:
        assert archive.read("labels.txt").decode() == labels.read_text()


def test_export_compiles_for_an_npu(tiny_runs: TinyRuns, capsys: pytest.CaptureFixture[str]) -> None:
    own = "+deploy.npus.mine={accelerator: ethos-u55-32, system: Ethos_U55_Deep_Embedded, memory: Sram_Only}"
    scheme = ("pipeline.stages.quantize.scheme=int8", "pipeline.stages.quantize.io=integer")
    folder = tiny_runs.get_file(tiny_runs.run("pipeline=quantize", "model=article_mlp", *scheme, own)).parent
    for target, accelerator in {"ethos_u85_256": "ethos-u85-256", "mine": "ethos-u55-32"}.items():
        assert export.run([str(folder), f"--vela={target}", f"--name={target}"]) == 0
        compiled = (folder / "export" / f"{target}_vela.tflite").read_bytes()
        assert compiled[4:8] == b"TFL3" and b"ethos-u" in compiled
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith(f"{target}_vela.tflite: for {target} alone ({accelerator}, Vela 5.")
        assert line.endswith(" operators on the NPU, 0 on the CPU")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "--vela=ethos_u55_12"], "there is no such target, did you mean 'ethos_u55_128'?"),
        (["{run}", "--vela="], "--vela=: there is no such target, choose from: "),
        (["{run}", "--vela=nano33"], "nano33 is a microcontroller. Name an NPU, such as ethos_u55_128."),
        (
            ["{run}", "--vela=imx93"],
            "the NPU computes no operator of .* Run the pipeline again with quantize.scheme=int8",
        ),
        (["{tmp}"], "holds no record.json"),
        (["{run}", "--name=int x"], "C needs a name"),
        (["{run}", "--labels={tmp}/absent"], "cannot be read"),
        (["{run}", "--labels={tmp}/two.txt"], "names 2 classes; the model has 4"),
        (["{run}", "-o{tmp}/two.txt"], "cannot be made"),
        (["{failed}"], "is failed and ships no model"),
        (
            ["{remote}"],
            "and its model is not in it. .* lightexp search --pick NUMBER. .* lightexp store pull 2",
        ),
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
    remote = tmp_path / "remote"
    remote.mkdir()
    record.status, record.files = "done", {}
    record.write(remote)
    arguments = [argument.format(tmp=tmp_path, run=folder, failed=failed, remote=remote) for argument in arguments]
    with pytest.raises(BadInput, match=message):
        export.run(arguments)
    assert not (folder / "export").exists()


@pytest.mark.parametrize("length", [0, 5, 900, -4])
def test_export_refuses_a_broken_model(length: int, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    record = tiny_runs.run("pipeline=control")
    record.write(tmp_path)
    (tmp_path / "model.tflite").write_bytes(tiny_runs.get_file(record).read_bytes()[:length])
    with pytest.raises(BadInput, match=r"model\.tflite is cut off or broken: .*\. Run the pipeline again\."):
        export.run([str(tmp_path), "--vela=ethos_u55_128"])
    assert not (tmp_path / "export").exists()


def test_export_keras_forms(tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tensorflow as tf

    from lightexp.backend import foreign_keras
    from lightexp.backend.keras_files import load_model

    record = tiny_runs.run("pipeline=prune_quantize")
    folder = tiny_runs.get_file(record).parent
    file, saved = tmp_path / "net.h5", tmp_path / "saved"
    arguments = [str(folder), f"--keras2={file}", f"--saved-model={saved}"]
    assert export.run(arguments) == 0
    output = capsys.readouterr().out
    assert f"{file} (after prune; inputs: the data * 0.00392156862745098 + 0.0; outputs: the .tflite's" in output
    assert "Not in it, as the result has no Keras layers: quantize." in output
    stage = next(stage for stage in record.stages if stage.name == "prune")
    expected = load_model(Store(tiny_runs.outputs / "store").folder(stage.key))
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    (outputs,) = tf.saved_model.load(saved).signatures["serving_default"](tf.constant(x)).values()
    assert np.allclose(outputs, expected(x), atol=1e-6)
    assert np.allclose(foreign_keras.load_file(file, trust=False).model(x), expected(x), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.h5", "saved"]
    with pytest.raises(BadInput, match=r"net\.h5 exists\. Give --force"):
        export.run(arguments)
    assert export.run([*arguments, "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keras={tmp}/net.h5"], r"--keras needs a file name that ends in \.keras\. Received"),
        (["--keras2={tmp}/net.keras"], r"--keras2 needs a file name that ends in \.h5"),
        (["--saved-model={tmp}/net.pb"], r"--saved-model needs a folder's name"),
        (["--keras={tmp}/no/net.keras"], "is not a folder"),
        (["--saved-model={tmp}", "--force"], "exists"),
    ],
)
def test_export_keras_forms_refuses(arguments: list[str], message: str, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    folder = tiny_runs.get_file(tiny_runs.run("pipeline=control")).parent
    with pytest.raises(BadInput, match=message):
        export.run([str(folder), *(argument.format(tmp=tmp_path) for argument in arguments)])
    assert not list(tmp_path.iterdir())


def test_export_keras_forms_needs_keras_layers(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    path = tiny_runs.get_file(tiny_runs.run("pipeline=control"))
    file_run = tiny_runs.run("model=from_file", f"model.path={path}", "pipeline=quantize")
    with pytest.raises(BadInput, match="has no stage whose result has Keras layers"):
        export.run([str(tiny_runs.get_file(file_run).parent), f"--keras={tmp_path / 'net.keras'}"])
    moved = tmp_path / "elsewhere" / "runs" / path.parent.name
    shutil.copytree(path.parent, moved)
    with pytest.raises(BadInput, match=r"The result of train is not in .* any more\. Run it again"):
        export.run([str(moved), f"--keras={tmp_path / 'net.keras'}"])
