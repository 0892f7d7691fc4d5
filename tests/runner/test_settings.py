"""Settings that are refused before training, in one line with the setting and what to do."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from lightexp.core.errors import BadInput
from lightexp.runner.compose import compose_config, compose_settings
from lightexp.runner.order import check_order
from lightexp.runner.plan import Plan
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.runner.settings import read_settings
from tests.fuzz import mutate

SOFT = "objective@pipeline.stages.prune.objective=distill"
TEACHER = "pipeline.stages.prune.objective.teacher"

BAD_OVERRIDES = {
    # Misspelt, with the nearest name.
    "setting": (["seeed=1"], "seeed", "'seed'"),
    "nested setting": (["pipeline.stages.prune.sparcity=0.5"], "pipeline.stages.prune.sparcity", "'sparsity'"),
    "model's setting": (["model.widht=0.5"], "model.widht", "'width'"),
    "added setting": (["+model.widht=0.5"], "model.widht", "'width'"),
    "added top setting": (["+sed=1"], "sed", "'seed'"),
    "choice": (["model=lenet55"], "model=lenet55", "'lenet5'"),
    "pipeline": (["pipeline=prune_quantise"], "pipeline=prune_quantise", "'prune_quantize'"),
    "experiment": (["experiment=article_prun"], "experiment=article_prun", "'article_prune'"),
    "stage's choice": (["stage@pipeline.stages.prune=prunee"], "stage=prunee", "'prune'"),
    "stage's place": (["stage@pipeline.stages.prun=prune"], "stage@pipeline.stages.prun", "'prune'"),
    "objective": ([SOFT + "l"], "objective=distilll", "'distill'"),
    "value": (["pipeline.stages.prune.criterion=magnitud"], "pipeline.stages.prune.criterion", "'magnitude' or"),
    "nothing like it": (["model=zzz"], "model=zzz", "article_mlp, autoencoder"),
    # Of the wrong type.
    "word for a number": (["seed=abc"], "seed", "integer"),
    "float for an integer": (["pipeline.stages.train.epochs=2.5"], "pipeline.stages.train.epochs", "integer"),
    "number for a bool": (["pipeline.stages.prune.from_scratch=1"], "pipeline.stages.prune.from_scratch", "boolean"),
    "bool for a number": (["pipeline.stages.prune.sparsity=true"], "pipeline.stages.prune.sparsity", "number"),
    "number for a word": (["paths.outputs=3"], "paths.outputs", "string"),
    "null": (["seed=null"], "seed", "integer"),
    "word for a list": (["pipeline.order=train"], "pipeline.order", "list"),
    "number for a stage": (["pipeline.stages.prune=3"], "pipeline.stages.prune", "mapping"),
    "number for a group": (["model=3"], "model=3", "choices"),
    "null for a group": (["model=null"], "model=null", "choices"),
    "nothing for a group": (["model="], "model=", "lenet5"),
    "no name": (["=3"], "=3", "choices"),
    "no value": (["seed"], "seed", "setting=value"),
    "two values": (["seed=1,2"], "seed=1,2", "-m"),
    # Out of range.
    "sparsity of 1": (["pipeline.stages.prune.sparsity=1.0"], "pipeline.stages.prune.sparsity", "less than 1"),
    "sparsity below 0": (["pipeline.stages.prune.sparsity=-0.1"], "pipeline.stages.prune.sparsity", "greater"),
    "no epochs": (["pipeline.stages.train.epochs=0"], "pipeline.stages.train.epochs", "1"),
    "NaN": (["pipeline.stages.train.learning_rate=nan"], "pipeline.stages.train.learning_rate", "finite"),
    "infinite": (["pipeline.stages.train.learning_rate=inf"], "pipeline.stages.train.learning_rate", "finite"),
    "seed below 0": (["seed=-1"], "seed", "0"),
    "split_seed below 0": (["dataset.split_seed=-1"], "dataset.split_seed", "0"),
    "no threads": (["runtime.threads=0"], "runtime.threads", "1"),
    "more threads than LiteRT allows": (["runtime.threads=1000000"], "runtime.threads", "1024"),
    "no width": (["model.width=0"], "model.width", "0"),
    "layer's sparsity": (["+pipeline.stages.prune.layers={conv1: 2}"], "pipeline.stages.prune.layers.conv1", "than 1"),
    "list of layers": (["pipeline.stages.prune.layers=[]"], "pipeline.stages.prune.layers=[]", "NAME={KEY: VALUE}"),
    "initial above final": (["pipeline.stages.prune.initial_sparsity=0.9"], "pipeline.stages.prune", "0.9 and 0.8"),
    "schedule too long": (["pipeline.stages.prune.end_step=99999"], "pipeline.stages.prune", "end_step="),
    "io without integers": (["pipeline.stages.quantize.io=integer", "pipeline.stages.quantize.scheme=float16"],
                            "pipeline.stages.quantize", "scheme=int8"),
    # Stages and their order.
    "tflite to keras": (["pipeline.order=[train,quantize,prune]"], "pipeline.order", "'pipeline.order=[train,prune"),
    "tflite to tflite": (["stage@pipeline.stages.prune=quantize"], "pipeline.order", "Leave out 'prune' or 'quantize'"),
    "nothing to start from": (["pipeline.order=[prune,train,quantize]"], "pipeline.order", "train stage before it"),
    "undone": (["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"],
               "pipeline.order", "'pipeline.order=[train,again,prune,quantize]'"),
    "undone by a student": (["pipeline=distill_prune", "pipeline.order=[train,prune,distill]"],
                            "pipeline.order", "'pipeline.order=[train,distill,prune]'"),
    "undone, with the waiver": (["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"],
                               "pipeline.order", "'pipeline.waive=[sparsity]'"),
    "pruned less later": (["pipeline=prune", "+stage@pipeline.stages.less=prune", "pipeline.stages.less.sparsity=0.5",
                           "pipeline.order=[train,prune,less]"], "pipeline.order", "order=[train,less,prune]'"),
    "not in order": (["+stage@pipeline.stages.again=train"], "pipeline.order", "'again'"),
    "misspelt in order": (["pipeline.order=[train,prune,quantise]"], "pipeline.order", "'quantize' by 'quantise'"),
    "twice in order": (["pipeline.order=[train,prune,prune,quantize]"], "pipeline.order", "prune twice"),
    "empty order": (["pipeline.order=[]"], "pipeline.order", "'train'"),
    "no stage": (["pipeline=control", "~stage@pipeline.stages.train"], "pipeline", "pipeline=control"),
    "only an empty stage": (["pipeline=control", "pipeline.stages.train=null"], "pipeline", "pipeline=control"),
    "misspelt waive": (["pipeline.waive=[sparsty]"], "pipeline.waive", "'sparsity'"),
    "nothing to waive": (["pipeline=control", "pipeline.waive=[sparsity]"], "pipeline.waive", "no stage"),
    # Teachers.
    "no such file": ([SOFT, f"{TEACHER}=nothere.tflite"], TEACHER, "'control', a float .tflite"),
    "misspelt control": ([SOFT, f"{TEACHER}=controll"], TEACHER, "'control', a float .tflite"),
    "a file of another kind": ([SOFT, f"{TEACHER}=/etc/hostname"], TEACHER, ".tflite"),
    "misspelt in a teacher": ([SOFT, f'{TEACHER}=["modle=lenet5"]'], TEACHER, "'model'"),
    "teacher's choice": ([SOFT, f'{TEACHER}=["model=lenet55"]'], TEACHER, "'lenet5'"),
    "teacher's order": ([SOFT, f'{TEACHER}=["pipeline.order=[train,quantize,prune]"]'], TEACHER, "[train,prune,q"),
    "unquoted teacher": ([SOFT, f"{TEACHER}=[model=lenet5]"], TEACHER, '["model=lenet5",'),
    "no control": ([SOFT.replace("prune", "train")], "pipeline.stages.train.objective.teacher=control", "train stage"),
    "distil from labels": (["pipeline=distill", "objective@pipeline.stages.distill.objective=cross_entropy"],
                           "pipeline.stages.distill", "objective@pipeline.stages.distill.objective=distill"),
    # Data.
    "no folder": (["dataset=fashion_mnist", "dataset.folder=/nowhere"], "dataset.folder=/nowhere", "apt-get install"),
    "no file named": (["dataset=arrays"], "dataset", "dataset.path=FILE.npz"),
    "no such data": (["dataset=arrays", "dataset.path=/nowhere.npz"], "dataset.path=/nowhere.npz", "FILE.npz"),
    # Classes.
    "foreign class": (["model._target_=mine.Net"], "model._target_", "plugins=[mine]"),
    "nested foreign class": (["pipeline.stages.prune.objective._target_=os.system"],
                             "pipeline.stages.prune.objective._target_", "plugins=[os]"),
    "no such class": (["model._target_=lightexp.models.small_cnn.Nope"], "model._target_", "Nope"),
    "not a settings class": (["model._target_=lightexp.core.fingerprint.compute_key"], "model._target_", "dataclass"),
    "class of another kind": (["model._target_=lightexp.stages.train.Train"], "model._target_", "Model"),
    "allowed but missing": (["model._target_=no_such_pkg.Net", "plugins=[no_such_pkg]"], "model._target_", "No mod"),
    # Paths.
    "outputs below a file": (["paths.outputs=/etc/hostname/out"], "paths.outputs", "/etc/hostname is not a folder"),
    "MLflow in a folder": (["tracking.uri=./mlruns"], "tracking", "sqlite:///FILE"),
}  # fmt: skip


@pytest.fixture(scope="module")
def runner() -> Runner:
    return Runner(SilentReporter())


def make_plan(runner: Runner, *overrides: str) -> Plan:
    return runner.plan(compose_settings(list(overrides)))[0]


@pytest.mark.parametrize("case", BAD_OVERRIDES)
def test_bad_setting_is_one_line_with_its_name(runner: Runner, case: str) -> None:
    overrides, setting, advice = BAD_OVERRIDES[case]
    with pytest.raises(BadInput) as caught:
        make_plan(runner, *overrides)
    message = str(caught.value)
    assert message.removeprefix("config.").startswith(setting)
    assert advice in message
    assert len(message.splitlines()) == 1
    assert "hydra.cc" not in message


@pytest.mark.parametrize(
    ("overrides", "names", "kinds"),
    [
        ([], ["train", "prune", "quantize"], ["Train", "Prune", "Quantize"]),
        (["~stage@pipeline.stages.prune"], ["train", "quantize"], ["Train", "Quantize"]),
        (
            ["~stage@pipeline.stages.quantize"],
            ["train", "prune"],
            ["Train", "Prune"],
        ),  # the pipeline still sets its scheme
        (["pipeline.stages.prune=null"], ["train", "quantize"], ["Train", "Quantize"]),
        (
            ["+stage@pipeline.stages.again=train", "pipeline.order=[train,again,prune,quantize]"],
            ["train", "again", "prune", "quantize"],
            ["Train", "Train", "Prune", "Quantize"],
        ),
        (["stage@pipeline.stages.prune=distill"], ["train", "prune", "quantize"], ["Train", "Distill", "Quantize"]),
        (
            ["pipeline.order=[train,nothing,prune,quantize]"],
            ["train", "prune", "quantize"],
            ["Train", "Prune", "Quantize"],
        ),
        (["pipeline=distill_prune_quantize"], ["train", "distill", "prune", "quantize"], None),
        (["experiment=article_prune", "dataset=digits"], ["train", "prune"], ["Train", "Prune"]),
    ],
)
def test_stages_are_swapped_added_and_removed_by_overrides(
    overrides: list[str], names: list[str], kinds: list[str] | None
) -> None:
    stages = compose_settings(overrides).stages
    assert list(stages) == names
    if kinds:
        assert [type(stage).__name__ for stage in stages.values()] == kinds


def test_parts_of_a_stage_are_swapped_by_overrides() -> None:
    assert type(compose_settings([]).stages["prune"].objective).__name__ == "CrossEntropy"
    soft = compose_settings([SOFT, "pipeline.stages.prune.objective.temperature=2"]).stages["prune"].objective
    assert (type(soft).__name__, soft.temperature, soft.teacher) == ("Distillation", 2.0, "control")
    overrides = ["pipeline=distill", "model@pipeline.stages.distill.student=lenet_300_100"]
    assert type(compose_settings(overrides).stages["distill"].student).__name__ == "LeNet300100"


def test_advice_of_messages_works(runner: Runner) -> None:
    make_plan(runner, "+stage@pipeline.stages.again=train", "pipeline.order=[train,again,prune,quantize]")
    again = ["+stage@pipeline.stages.again=train", "pipeline.order=[train,prune,again,quantize]"]
    make_plan(runner, *again, "pipeline.waive=[sparsity]")
    make_plan(runner, SOFT, f'{TEACHER}=["model=lenet5","pipeline=control"]')
    make_plan(runner, "pipeline=distill_prune", "pipeline.order=[train,distill,prune]")


@pytest.mark.parametrize("order", [*itertools.permutations(("prune", "cluster", "qat", "encode"))])
def test_order_named_by_a_refusal_is_accepted(order: tuple[str, ...]) -> None:
    overrides = ["pipeline=prune_cluster_qat", "+stage@pipeline.stages.encode=encode"]
    try:
        check_order(compose_settings([*overrides, f"pipeline.order=[train,{','.join(order)}]"]))
    except BadInput as error:
        (advice,) = re.findall(r"'(pipeline\.order=[^']+)'", str(error))
        check_order(compose_settings([*overrides, advice]))
    else:
        assert order == ("prune", "cluster", "qat", "encode")


def test_control_precedes_the_first_compressing_stage(runner: Runner) -> None:
    def find_control(*overrides: str) -> str:
        return make_plan(runner, *overrides).control.name

    again = ["+stage@pipeline.stages.again=train", "pipeline.order=[train,again,prune,quantize]"]
    assert (find_control(), find_control("pipeline=control"), find_control(*again)) == ("train", "train", "again")


def test_too_little_data_for_a_schedule_is_refused(tmp_path: Path, runner: Runner) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "few.npz", x=rng.integers(0, 256, (40, 4, 4, 1), np.uint8), y=np.arange(40) % 2)
    few = ["dataset=arrays", f"dataset.path={tmp_path / 'few.npz'}", "pipeline.stages.prune.epochs=1"]
    with pytest.raises(BadInput, match=r"^pipeline\.stages\.prune: the pruning schedule .*raise epochs"):
        make_plan(runner, *few)


def test_model_that_does_not_fit_the_data_is_refused(tmp_path: Path, runner: Runner) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "flat.npz", x=rng.random((40, 5), np.float32), y=np.arange(40) % 2)
    with pytest.raises(BadInput, match=r"^pipeline\.stages\.train: SmallCnn needs images .*model=article_mlp"):
        make_plan(runner, "dataset=arrays", f"dataset.path={tmp_path / 'flat.npz'}", "pipeline=control")


def test_mutants_of_a_config_are_read_or_refused_in_one_line(mutants: int) -> None:
    tree = OmegaConf.to_container(compose_config(["pipeline=distill_prune_quantize"]), resolve=True)
    refused = 0
    for change, mutant in mutate(tree, mutants // 3):
        try:
            read_settings(OmegaConf.create(mutant))
        except BadInput as error:
            refused += len(str(error)) < 2500
        except Exception as error:
            raise AssertionError(change) from error
    assert refused


def test_written_config_keeps_the_environments_interpolations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTEXP_TEST_SECRET", "m4rked-s3cret")
    secret = "'${oc.env:LIGHTEXP_TEST_SECRET}'"
    settings = compose_settings([f"tracking.experiment={secret}", "tracking.uri='http://h/${tracking.experiment}'"])
    assert settings.plain["tracking"]["uri"] == "http://h/m4rked-s3cret"
    assert settings.written["tracking"]["experiment"] == "${oc.env:LIGHTEXP_TEST_SECRET}"
    assert settings.written["tracking"]["uri"] == "http://h/${oc.env:LIGHTEXP_TEST_SECRET}"
    with pytest.raises(BadInput, match=r"Received: '\$\{oc.env:LIGHTEXP_TEST_SECRET\}'"):
        compose_settings([f"seed={secret}"])
