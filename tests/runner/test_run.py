"""Real runs in this process: what a record holds, what comes from the store, what fails and how."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import lightexp
from lightexp.core.errors import BadInput, RunFailed
from lightexp.core.protocols import TFLITE
from lightexp.core.record import Record, read_record
from lightexp.core.store import MANIFEST, Store
from lightexp.runner.compose import compose_settings as compose
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from tests.tiny_runs import TinyRuns

BOTH = ["accuracy/val", "accuracy/test"]
AGAIN = ["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    """Runs over a store of their own."""
    return TinyRuns(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def first(runs: TinyRuns) -> Record:
    """The main pipeline's first run, measured in every way."""
    return runs.run("measure=default")


def folder(runs: TinyRuns, record: Record) -> Path:
    return runs.outputs / "runs" / record.id


def from_store(record: Record) -> list[bool]:
    return [stage.from_store for stage in record.stages]


def shares_of_zeros(tflite: Path) -> list[float]:
    """Of each int8 kernel that LiteRT sees in a file."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(tflite))
    found = []
    for tensor in interpreter.get_tensor_details():
        if tensor["dtype"] is np.int8 and len(tensor["shape"]) > 1:
            try:
                values = interpreter.get_tensor(tensor["index"])
            except ValueError:
                continue  # computed, not stored
            found.append(float(np.mean(values == 0)))
    return found


def test_run_writes_a_complete_record(runs: TinyRuns, first: Record) -> None:
    assert read_record(folder(runs, first)) == first
    assert (first.status, first.reason, first.control, first.waived) == ("done", None, "train", {})
    assert first.name == "small_cnn arrays train-prune-quantize"
    assert [stage.name for stage in first.stages] == ["train", "prune", "quantize"]
    assert from_store(first) == [False, False, False]
    assert first.ended is not None
    assert 0 < sum(stage.seconds for stage in first.stages) < first.ended - first.started
    assert first.config["pipeline"]["stages"]["prune"]["sparsity"] == 0.8
    assert "hydra" not in first.config
    assert first.command.startswith("lightexp run dataset=arrays tracking=none")
    assert all(word in first.command for word in first.varied)
    assert {"python", "libraries", "host", "cores", "threads", "git", "lightexp"} <= set(first.environment)
    assert first.environment["libraries"]["numpy"] == np.__version__
    splits = first.dataset["splits"]
    assert {name: split["n"] for name, split in splits.items()} == {"train": 128, "val": 32, "test": 40}
    assert len({split["digest"] for split in splits.values()}) == 3


def test_run_measures_every_stage(first: Record) -> None:
    expected = {
        *BOTH, "loss/val", "loss/test", "size/file_bytes", "size/gzip_bytes", "size/ratio", "model/params",
        "model/nonzeros", "model/sparsity", "compute/macs", "compute/effective_macs",
        "latency/p50_us", "latency/p95_us", "model/bits_per_weight", "model/entropy_bytes", "fidelity/agreement",
        "fidelity/kl", "fidelity/agreement_test", "fidelity/kl_test", "calibration/ece", "calibration/ece_test",
    }  # fmt: skip
    for stage in first.stages:
        names = [figure.name for figure in stage.metrics]
        assert len(names) == len(set(names))
        assert expected <= set(names)
        assert "time/train_s" in names
        for figure in stage.metrics:
            assert figure.version >= 1
            of_answers = figure.name.startswith(("accuracy", "loss", "fidelity", "calibration"))
            assert figure.split == (("test" if "test" in figure.name else "val") if of_answers else None)
    shipped = {figure.name: figure for figure in first.stages[-1].metrics}
    assert (shipped["accuracy/val"].direction, shipped["loss/val"].direction) == ("max", "min")
    assert (shipped["size/file_bytes"].unit, shipped["size/file_bytes"].direction) == ("bytes", "min")
    assert (shipped["latency/p50_us"].unit, shipped["latency/p50_us"].direction) == ("µs", "min")
    assert first.metrics == {name: figure.value for name, figure in shipped.items()}


def test_run_keeps_the_measured_files(runs: TinyRuns, first: Record) -> None:
    where = folder(runs, first)
    assert set(first.files) == {"model", "control", "config", "table", "figure"}
    assert all((where / path).is_file() for path in first.files.values())
    assert not list(where.glob("*.tmp"))
    ratio = (where / first.files["control"]).stat().st_size / (where / TFLITE).stat().st_size
    assert first.metrics["size/file_bytes"] == (where / TFLITE).stat().st_size
    assert first.metrics["size/ratio"] == pytest.approx(ratio)
    assert first.stages[0].metric("size/ratio") == 1
    rows = [line.split("|")[1].strip() for line in (where / "table.md").read_text().splitlines() if "|" in line]
    assert rows == ["Stage", "---", "train (control)", "prune", "quantize"]
    assert json.loads((where / "environment.json").read_text()) == first.environment


def test_run_ships_the_requested_sparsity(runs: TinyRuns, first: Record) -> None:
    found = shares_of_zeros(runs.get_file(first))
    assert len(found) == 3
    assert min(found) >= 0.79  # of a few hundred weights, rounded to whole ones
    assert first.metrics["model/sparsity"] == pytest.approx(0.8, abs=0.02)


def test_second_run_makes_nothing(runs: TinyRuns, first: Record) -> None:
    second = runs.run("measure=default")
    assert from_store(second) == [True, True, True]
    assert [stage.key for stage in second.stages] == [stage.key for stage in first.stages]
    assert runs.get_file(second).read_bytes() == runs.get_file(first).read_bytes()
    assert {n: v for n, v in second.metrics.items() if not n.startswith("latency")} == {
        n: v for n, v in first.metrics.items() if not n.startswith("latency")
    }
    assert second.id != first.id


def test_run_makes_only_what_changed(runs: TinyRuns, first: Record) -> None:
    other = runs.run("pipeline.stages.quantize.scheme=float16")
    assert from_store(other) == [True, True, False]
    assert other.metrics["size/file_bytes"] != first.metrics["size/file_bytes"]


def test_run_remakes_broken_entries(runs: TinyRuns, first: Record) -> None:
    store = Store(runs.outputs / "store")
    pruned, quantized = (store.folder(stage.key) for stage in first.stages[1:])
    weights = (pruned / "weights.npz").read_bytes()
    (pruned / "weights.npz").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (quantized / TFLITE).write_bytes((quantized / TFLITE).read_bytes()[:1000])
    again = runs.run()
    assert from_store(again) == [True, False, False]
    assert runs.get_file(again).read_bytes() == runs.get_file(first).read_bytes()
    assert {path.name.partition("-")[0] for path in (store.root / "set-aside").iterdir()} == {
        pruned.name,
        quantized.name,
    }
    (quantized / MANIFEST).unlink()
    assert from_store(runs.run()) == [True, True, False]
    assert from_store(runs.run()) == [True, True, True]


def test_run_with_data_on_disk_gives_the_same_files(tmp_path: Path, tensorflow: None) -> None:
    rng, y, said = np.random.default_rng(0), np.arange(1400) % 4, []
    np.savez(tmp_path / "large.npz", x=rng.integers(0, 256, (1400, 32, 32), np.uint8), y=y)

    class Saying(SilentReporter):
        def say(self, words: str) -> None:
            said.append(words)

    files = []
    for megabytes in (4096, 1):
        runner, outputs = Runner(Saying()), tmp_path / str(megabytes)
        words = ["dataset=arrays", f"dataset.path={tmp_path / 'large.npz'}", f"dataset.memory_mb={megabytes}"]
        words += [f"paths.outputs={outputs}", "model.width=0.25", "measure=quick", "tracking=none"]
        words += ["pipeline=distill_quantize", "pipeline.stages.quantize.scheme=int8"]
        words += [f"pipeline.stages.{stage}.epochs=1" for stage in ("train", "distill")]
        records = [runner.run(compose(words), words) for _ in range(2)]
        files.append((outputs / "runs" / records[0].id / TFLITE).read_bytes())
        figures = [{n: v for n, v in record.metrics.items() if not n.startswith("time")} for record in records]
        assert figures[0] == figures[1]
    assert files[0] == files[1]
    kept = [words for words in said if "on disk" in words]
    assert kept == ["Kept on disk, by dataset.memory_mb, and read batch by batch: train, val, test."]


def test_run_marks_a_waived_invariant(runs: TinyRuns, first: Record) -> None:
    with pytest.raises(BadInput, match="undo its sparsity"):
        runs.run(*AGAIN)
    record = runs.run(*AGAIN, "pipeline.waive=[sparsity]")
    assert record.status == "done"
    assert from_store(record) == [True, True, False, False]
    assert record.metrics["model/sparsity"] < 0.2
    assert record.waived["sparsity"].startswith("prune: a kernel of")
    assert "Waived sparsity: prune: a kernel of" in (folder(runs, record) / "table.md").read_text()
    assert max(shares_of_zeros(runs.get_file(record))) < 0.5


def test_run_marks_two_waived_stages(runs: TinyRuns, first: Record) -> None:
    words = ["pipeline=prune", "+stage@pipeline.stages.less=prune", "pipeline.stages.less.sparsity=0.5"]
    words += [
        "pipeline.stages.less.from_scratch=true",
        "pipeline.order=[train,prune,less]",
        "pipeline.waive=[sparsity]",
    ]
    prune, less = runs.run(*words).waived["sparsity"].split("; ")
    assert prune.startswith("prune: a kernel of")
    assert less == "less: kept"


def test_run_with_each_kind_of_teacher(runs: TinyRuns, first: Record) -> None:
    """One and the same teacher, named in three ways, makes one and the same student; another makes another."""
    teacher = "pipeline.stages.distill.objective.teacher"
    control = folder(runs, first) / first.files["control"]
    same = runs.run("pipeline=distill")
    file = runs.run("pipeline=distill", f"{teacher}={control}")
    short = '"pipeline.stages.train.epochs=1"'
    described = runs.run("pipeline=distill", f'{teacher}=["model.width=0.5","pipeline=control",{short}]')
    other = runs.run("pipeline=distill", f'{teacher}=["model=lenet_300_100","pipeline=control",{short}]')
    assert from_store(same) == [True, False]
    assert from_store(file) == [True, False]
    assert from_store(described) == [True, True]
    assert from_store(other) == [True, False]
    students = [runs.get_file(record).read_bytes() for record in (same, file, described, other)]
    assert students[0] == students[1] == students[2] != students[3]
    for record in (same, file, described, other):
        assert read_record(folder(runs, record)) == record
        assert [stage.name for stage in record.stages] == ["train", "distill"]
        assert record.control == "train"
        assert record.metrics["model/params"] < (record.stages[0].metric("model/params") or 0)
    assert other.config["pipeline"]["stages"]["distill"]["objective"]["teacher"][0] == "model=lenet_300_100"


PLUGIN = '''
from dataclasses import dataclass
from lightexp.core.protocols import Stage

@dataclass(frozen=True)
class Liar(Stage):
    """Says that it keeps everything, and keeps nothing."""

    fault: bool = False

    def preserves(self, invariant):
        return True

    def apply(self, parent, context):
        from lightexp.backend import keras_files

        if self.fault:
            raise ZeroDivisionError("a fault of its own")
        model = keras_files.load_model(parent.folder)
        model.set_weights([w + 0.5 for w in model.get_weights()])
        keras_files.save_model(model, context.out)
        return {}
'''


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A user's own stage between pruning and quantising."""
    (tmp_path / "lying_stages.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lying_stages", raising=False)
    node = "+pipeline.stages.liar={_target_: lying_stages.Liar, fault: false}"
    return ["plugins=[lying_stages]", node, "pipeline.order=[train,prune,liar,quantize]"]


def newest(runs: TinyRuns) -> tuple[Path, Record]:
    found = max((path.parent for path in runs.outputs.glob("runs/*/record.json")), key=lambda p: read_record(p).started)
    return found, read_record(found)


def test_run_fails_on_a_broken_invariant(runs: TinyRuns, first: Record, liar: list[str]) -> None:
    with pytest.raises(RunFailed, match="The sparsity that 'prune' made is not in the file that ships"):
        runs.run(*liar)
    where, record = newest(runs)
    assert record.status == "failed"
    assert record.reason is not None
    assert "'prune'" in record.reason
    assert not (where / TFLITE).exists()


def test_a_fault_in_a_stage_is_one_line_and_its_trace_is_kept(runs: TinyRuns, first: Record, liar: list[str]) -> None:
    with pytest.raises(RunFailed, match=r"ZeroDivisionError: a fault of its own .*error\.txt\)$") as caught:
        runs.run(*liar, "pipeline.stages.liar.fault=true")
    where, record = newest(runs)
    assert (record.status, record.reason) == ("failed", str(caught.value))
    assert "raise ZeroDivisionError" in (where / "error.txt").read_text()
    assert from_store(runs.run()) == [True, True, True]  # nothing half made is left


def test_what_a_notebook_gets_is_what_is_on_disk(runs: TinyRuns, first: Record) -> None:
    record = lightexp.run(runs.list_overrides())
    assert from_store(record) == [True, True, True]
    assert read_record(folder(runs, record)) == record
    assert not list((runs.outputs / "runs" / ".live").glob("*.lock"))
