"""Runs in this process: their records, the use of the store, and failures."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import lightexp
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record, read_record
from lightexp.core.store import Store
from lightexp.core.store_entry import MANIFEST
from lightexp.runner.compose import compose_settings as compose
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from tests.tiny_runs import TinyRuns

BOTH = ["accuracy/val", "accuracy/test"]
AGAIN = ["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Return runs with a separate store."""
    return TinyRuns(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def first(runs: TinyRuns) -> Record:
    """Return the first run of the main pipeline, with all measurements."""
    return runs.run("measure=default")


def get_folder(runs: TinyRuns, record: Record) -> Path:
    return runs.outputs / "runs" / record.id


def list_from_store(record: Record) -> list[bool]:
    """Return for each stage whether it was loaded from the store."""
    return [stage.from_store for stage in record.stages]


def compute_zero_shares(tflite: Path) -> list[float]:
    """Return the share of zeros in each int8 kernel of a file, as LiteRT reads it."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(tflite))
    shares = []
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] is np.int8 and len(tensor["shape"]) > 1:
            try:
                values = interpreter.get_tensor(tensor["index"])
            except ValueError:
                continue  # computed, not stored
            shares.append(float(np.mean(values == 0)))
    return shares


def test_run_writes_a_complete_record(runs: TinyRuns, first: Record) -> None:
    assert read_record(get_folder(runs, first)) == first
    assert (first.status, first.reason, first.control, first.waived) == ("done", None, "train", {})
    assert first.name == "small_cnn arrays train-prune-quantize"
    assert [stage.name for stage in first.stages] == ["train", "prune", "quantize"]
    assert list_from_store(first) == [False, False, False]
    assert first.ended is not None
    assert 0 < sum(stage.seconds for stage in first.stages) < first.ended - first.started
    assert first.config["pipeline"]["stages"]["prune"]["sparsity"] == 0.8
    assert "hydra" not in first.config
    assert first.command.startswith("lightexp run dataset=arrays tracking=none")
    assert all(override in first.command for override in first.varied)
    assert {"python", "libraries", "host", "cores", "threads", "git", "lightexp"} <= set(first.environment)
    assert {"governor", "turbo"} <= set(first.environment)
    assert first.environment["libraries"]["numpy"] == np.__version__
    splits = first.dataset["splits"]
    assert {name: split["n"] for name, split in splits.items()} == {"train": 128, "val": 32, "test": 40}
    assert len({split["digest"] for split in splits.values()}) == 3


def test_run_measures_every_stage(first: Record) -> None:
    expected = {
        *BOTH, "loss/val", "loss/test", "size/file_bytes", "size/gzip_bytes", "size/ratio", "model/params",
        "model/nonzeros", "model/sparsity", "compute/macs", "compute/effective_macs",
        "latency/p50_us", "latency/p95_us", "latency/spread", "latency/load", "latency/runnable",
        "model/bits_per_weight", "model/entropy_bytes", "fidelity/agreement",
        "fidelity/kl", "fidelity/agreement_test", "fidelity/kl_test", "calibration/ece", "calibration/ece_test",
    }  # fmt: skip
    for stage in first.stages:
        names = [metric.name for metric in stage.metrics]
        assert len(names) == len(set(names))
        assert expected <= set(names)
        assert "time/train_s" in names
        for metric in stage.metrics:
            assert metric.version >= 1
            measured_on_splits = ("accuracy", "balanced_accuracy", "f1", "loss", "fidelity", "calibration")
            has_split = metric.name.startswith(measured_on_splits)
            expected_split = "test" if "test" in metric.name else "val"
            assert metric.split == (expected_split if has_split else None)
    shipped = {metric.name: metric for metric in first.stages[-1].metrics}
    assert (shipped["accuracy/val"].direction, shipped["loss/val"].direction) == ("max", "min")
    assert (shipped["size/file_bytes"].unit, shipped["size/file_bytes"].direction) == ("bytes", "min")
    assert (shipped["latency/p50_us"].unit, shipped["latency/p50_us"].direction) == ("µs", "min")
    assert first.metrics == {name: metric.value for name, metric in shipped.items()}


def test_run_writes_the_measured_files(runs: TinyRuns, first: Record) -> None:
    folder = get_folder(runs, first)
    assert set(first.files) == {"model", "control", "config", "table", "figure", "RAM table", "RAM figure"}
    assert all((folder / path).is_file() for path in first.files.values())
    assert not list(folder.glob("*.tmp"))
    ratio = (folder / first.files["control"]).stat().st_size / (folder / TFLITE).stat().st_size
    assert first.metrics["size/file_bytes"] == (folder / TFLITE).stat().st_size
    assert first.metrics["size/ratio"] == pytest.approx(ratio)
    assert first.stages[0].metric("size/ratio") == 1
    rows = [line.split("|")[1].strip() for line in (folder / "table.md").read_text().splitlines() if "|" in line]
    assert rows[:6] == ["Stage", "---", "train (control)", "prune", "quantize", "Board"]
    assert "nano33" in rows
    assert json.loads((folder / "environment.json").read_text()) == first.environment


def test_run_ships_the_requested_sparsity(runs: TinyRuns, first: Record) -> None:
    shares = compute_zero_shares(runs.get_file(first))
    assert len(shares) == 3
    assert min(shares) >= 0.79  # numbers of weights are rounded
    assert first.metrics["model/sparsity"] == pytest.approx(0.8, abs=0.02)


def test_second_run_makes_nothing(runs: TinyRuns, first: Record) -> None:
    second = runs.run("measure=default")
    assert list_from_store(second) == [True, True, True]
    assert [stage.key for stage in second.stages] == [stage.key for stage in first.stages]
    assert runs.get_file(second).read_bytes() == runs.get_file(first).read_bytes()
    assert {n: v for n, v in second.metrics.items() if not n.startswith("latency")} == {
        n: v for n, v in first.metrics.items() if not n.startswith("latency")
    }
    assert second.id != first.id


def test_run_makes_only_what_changed(runs: TinyRuns, first: Record) -> None:
    other = runs.run("pipeline.stages.quantize.scheme=float16")
    assert list_from_store(other) == [True, True, False]
    assert other.metrics["size/file_bytes"] != first.metrics["size/file_bytes"]


def test_run_remakes_broken_entries(runs: TinyRuns, first: Record) -> None:
    store = Store(runs.outputs / "store")
    pruned, quantized = (store.folder(stage.key) for stage in first.stages[1:])
    weights = (pruned / "weights.npz").read_bytes()
    (pruned / "weights.npz").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (quantized / TFLITE).write_bytes((quantized / TFLITE).read_bytes()[:1000])
    again = runs.run()
    assert list_from_store(again) == [True, False, False]
    assert runs.get_file(again).read_bytes() == runs.get_file(first).read_bytes()
    assert {path.name.partition("-")[0] for path in (store.root / "set-aside").iterdir()} == {
        pruned.name,
        quantized.name,
    }
    (quantized / MANIFEST).unlink()
    assert list_from_store(runs.run()) == [True, True, False]
    assert list_from_store(runs.run()) == [True, True, True]


def test_run_with_data_on_disk_gives_the_same_files(tmp_path: Path, tensorflow: None) -> None:
    rng, y = np.random.default_rng(0), np.arange(1400) % 4
    messages = []
    np.savez(tmp_path / "large.npz", x=rng.integers(0, 256, (1400, 32, 32), np.uint8), y=y)

    class RecordingReporter(SilentReporter):
        def say(self, message: str) -> None:
            messages.append(message)

    files = []
    for megabytes in (4096, 1):
        runner, outputs = Runner(RecordingReporter()), tmp_path / str(megabytes)
        overrides = ["dataset=arrays", f"dataset.path={tmp_path / 'large.npz'}", f"dataset.memory_mb={megabytes}"]
        overrides += [f"paths.outputs={outputs}", "model.width=0.25", "measure=quick", "tracking=none"]
        overrides += ["pipeline=distill_quantize", "pipeline.stages.quantize.scheme=int8"]
        overrides += [f"pipeline.stages.{stage}.epochs=1" for stage in ("train", "distill")]
        records = [runner.run(compose(overrides), overrides) for _ in range(2)]
        files.append((outputs / "runs" / records[0].id / TFLITE).read_bytes())
        metrics = [{n: v for n, v in record.metrics.items() if not n.startswith("time")} for record in records]
        assert metrics[0] == metrics[1]
    assert files[0] == files[1]
    on_disk = [message for message in messages if "on disk" in message]
    where = f"Kept on disk in {tempfile.gettempdir()}, by dataset.memory_mb, and read batch by batch"
    assert on_disk == [f"{where}: train, val, test (1.4 MB)."]


def test_run_marks_a_waived_invariant(runs: TinyRuns, first: Record) -> None:
    with pytest.raises(BadInput, match="undo its sparsity"):
        runs.run(*AGAIN)
    record = runs.run(*AGAIN, "pipeline.waive=[sparsity]")
    assert record.status == "done"
    assert list_from_store(record) == [True, True, False, False]
    assert record.metrics["model/sparsity"] < 0.2
    assert record.waived["sparsity"].startswith("prune: a kernel of")
    assert "waived sparsity: prune: a kernel of" in (get_folder(runs, record) / "table.md").read_text()
    assert max(compute_zero_shares(runs.get_file(record))) < 0.5


def test_run_marks_two_waived_stages(runs: TinyRuns, first: Record) -> None:
    overrides = ["pipeline=prune", "+stage@pipeline.stages.less=prune", "pipeline.stages.less.sparsity=0.5"]
    overrides += [
        "pipeline.stages.less.from_scratch=true",
        "pipeline.order=[train,prune,less]",
        "pipeline.waive=[sparsity]",
    ]
    prune, less = runs.run(*overrides).waived["sparsity"].split("; ")
    assert prune.startswith("prune: a kernel of")
    assert less == "less: kept"


def test_run_with_each_kind_of_teacher(runs: TinyRuns, first: Record) -> None:
    """A teacher that is named in three ways makes the same student; another teacher makes another."""
    teacher = "pipeline.stages.distill.objective.teacher"
    control = get_folder(runs, first) / first.files["control"]
    same = runs.run("pipeline=distill")
    file = runs.run("pipeline=distill", f"{teacher}={control}")
    short = '"pipeline.stages.train.epochs=1"'
    described = runs.run("pipeline=distill", f'{teacher}=["model.width=0.5","pipeline=control",{short}]')
    other = runs.run("pipeline=distill", f'{teacher}=["model=lenet_300_100","pipeline=control",{short}]')
    assert list_from_store(same) == [True, False]
    assert list_from_store(file) == [True, False]
    assert list_from_store(described) == [True, True]
    assert list_from_store(other) == [True, False]
    students = [runs.get_file(record).read_bytes() for record in (same, file, described, other)]
    assert students[0] == students[1] == students[2] != students[3]
    for record in (same, file, described, other):
        assert read_record(get_folder(runs, record)) == record
        assert [stage.name for stage in record.stages] == ["train", "distill"]
        assert record.control == "train"
        assert record.metrics["model/params"] < (record.stages[0].metric("model/params") or 0)
    assert other.config["pipeline"]["stages"]["distill"]["objective"]["teacher"][0] == "model=lenet_300_100"


LIAR_PLUGIN = '''
from dataclasses import dataclass
from lightexp.core.protocols import Stage

@dataclass(frozen=True)
class Liar(Stage):
    """Claim to preserve every invariant, and preserve none."""

    fault: bool = False

    def preserves(self, invariant):
        return True

    def apply(self, parent, context):
        from lightexp.backend import keras_files

        if self.fault:
            raise ZeroDivisionError("a fault of the plugin")
        model = keras_files.load_model(parent.folder)
        model.set_weights([w + 0.5 for w in model.get_weights()])
        keras_files.save_model(model, context.out)
        return {}
'''


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return overrides that put a plugin's stage between pruning and quantising."""
    (tmp_path / "lying_stages.py").write_text(LIAR_PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lying_stages", raising=False)
    node = "+pipeline.stages.liar={_target_: lying_stages.Liar, fault: false}"
    return ["plugins=[lying_stages]", node, "pipeline.order=[train,prune,liar,quantize]"]


def find_newest(runs: TinyRuns) -> tuple[Path, Record]:
    """Return the folder and the record of the run that was started last."""
    folder = max(
        (path.parent for path in runs.outputs.glob("runs/*/record.json")), key=lambda p: read_record(p).started
    )
    return folder, read_record(folder)


def test_run_fails_on_a_broken_invariant(runs: TinyRuns, first: Record, liar: list[str]) -> None:
    with pytest.raises(RunFailed, match="The sparsity that 'prune' made is not in the file that ships"):
        runs.run(*liar)
    folder, record = find_newest(runs)
    assert record.status == "failed"
    assert record.reason is not None
    assert "'prune'" in record.reason
    assert not (folder / TFLITE).exists()


def test_run_reports_a_fault_in_one_line_and_a_file(runs: TinyRuns, first: Record, liar: list[str]) -> None:
    with pytest.raises(RunFailed, match=r"ZeroDivisionError: a fault of the plugin .*error\.txt\)$") as caught:
        runs.run(*liar, "pipeline.stages.liar.fault=true")
    folder, record = find_newest(runs)
    assert (record.status, record.reason) == ("failed", str(caught.value))
    assert "raise ZeroDivisionError" in (folder / "error.txt").read_text()
    assert list_from_store(runs.run()) == [True, True, True]  # no incomplete entry is left


@pytest.mark.usefixtures("warm_workers")
def test_lightexp_run_returns_the_record_on_disk(runs: TinyRuns, first: Record) -> None:
    record = lightexp.run(runs.list_overrides())
    assert list_from_store(record) == [True, True, True]
    assert read_record(get_folder(runs, record)) == record
    assert not list((runs.outputs / "runs" / ".live").glob("*.lock"))
