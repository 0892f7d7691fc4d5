"""Every search preset plans over every kind of model, or is refused in one line."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.runner.config_dir import find_config_dir
from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.search.export_front import count_stored_stages
from lightexp.search.layer_names import find_layer_names_in_process
from lightexp.search.seed_trials import SeedTrial
from lightexp.search.study_spec import StudySpec
from tests.search.studies import PLUGIN, write_arrays

MakeSpec = Callable[..., StudySpec]
PRESETS = sorted(path.stem for path in (find_config_dir() / "search").glob("[!_]*.yaml"))
MODELS = sorted(path.stem for path in (find_config_dir() / "model").glob("[!_]*.yaml") if path.stem != "from_file")
SERIES_MODELS = ("cnn_1d",)
FILES = ("net.h5", "net.keras", "float.tflite", "quantized.tflite")
REFUSALS = {
    ("mixed_precision", "quantized.tflite"): "'quantize' cannot follow a .tflite that is quantised already",
    ("prune_quantize", "quantized.tflite"): "'prune' cannot follow a .tflite that is quantised already",
}


@pytest.fixture(scope="module")
def model_files(tensorflow: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one network in every format that `model=from_file` reads."""
    import tensorflow as tf
    import tf_keras as keras

    folder = tmp_path_factory.mktemp("models")
    layers = keras.layers
    body = [layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(8, activation="relu")]
    model = keras.Sequential([layers.Input((8, 8, 1)), *body, layers.Dense(4), layers.Softmax()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras and the converter warn about formats
        model.save(folder / "net.h5")
        model.save(folder / "net.keras")
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        (folder / "float.tflite").write_bytes(converter.convert())
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        (folder / "quantized.tflite").write_bytes(converter.convert())
    return folder


def plan_seed_trials(spec: StudySpec) -> list[SeedTrial]:
    """Plan a study as `lightexp search --plan` does, and return its seed trials."""
    spec.check()
    runner = Runner(SilentReporter())
    runner.plan(spec.settings)
    space = spec.make_space(find_layer_names_in_process(spec))
    assert space.parameters
    seed_trials = spec.make_seed_trials(space)
    stored = count_stored_stages(spec, [seed_trial.config for seed_trial in seed_trials], runner)
    assert [count for count, _ in stored] == [0] * len(seed_trials)
    return seed_trials


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_plans_over_every_model(
    tensorflow: None, make_spec: MakeSpec, tmp_path: Path, preset: str, model: str
) -> None:
    dataset = (
        ["dataset=mnist1d"] if model in SERIES_MODELS else ["dataset=arrays", f"dataset.path={write_arrays(tmp_path)}"]
    )
    seed_trials = plan_seed_trials(make_spec(f"search={preset}", f"model={model}", *dataset))
    assert seed_trials[0].name == "recipe"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_plans_over_every_model_file(
    make_spec: MakeSpec, model_files: Path, tmp_path: Path, preset: str, file: str
) -> None:
    overrides = [f"model.path={model_files / file}", "dataset=arrays", f"dataset.path={write_arrays(tmp_path)}"]

    def plan() -> list[SeedTrial]:
        return plan_seed_trials(make_spec(f"search={preset}", "model=from_file", *overrides))

    if (preset, file) in REFUSALS:
        with pytest.raises(BadInput) as refused:
            plan()
        assert REFUSALS[preset, file] in str(refused.value)
        assert "\n" not in str(refused.value)
    else:
        assert [seed_trial.name for seed_trial in plan()][:2] == ["recipe", "int8"]


@pytest.fixture
def file_spec(make_spec: MakeSpec, tmp_path: Path) -> MakeSpec:
    """Make specs of studies that quantise a float .tflite."""
    overrides = ["search=_settings", "pipeline=quantize", "model=from_file", f"model.path={PLUGIN / 'tiny.tflite'}"]
    overrides += ["dataset=arrays", f"dataset.path={write_arrays(tmp_path)}"]
    return lambda *more: make_spec(*overrides, *more)


@pytest.mark.parametrize(
    "override",
    ["pipeline.stages.train.learning_rate=tag(log,interval(1e-4,1e-2))", "+search.space={pipeline.stages.train: auto}"],
)
def test_range_of_stage_that_the_file_replaces_is_refused(file_spec: MakeSpec, override: str) -> None:
    with pytest.raises(BadInput, match=r"search\.space: the stage 'train' does not run") as refused:
        file_spec("pipeline.stages.quantize.scheme=choice(dynamic,int8)", override).make_space({})
    assert "Received: pipeline.stages.train" in str(refused.value)
    assert "Leave this range out." in str(refused.value)


def test_replaced_stage_makes_no_second_variant(file_spec: MakeSpec) -> None:
    spec = file_spec("pipeline.stages.train=choice(on,off)", "pipeline.stages.quantize.scheme=choice(dynamic,int8)")
    assert len(spec.variants) == 1
    assert [trial.name for trial in spec.make_seed_trials(spec.make_space({}))] == ["recipe", "int8"]
