"""Tests of matching hidden layers with a teacher's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.objectives.attention import Attention
from lightexp.objectives.hint import Hint
from tests.backend import tiny_keras
from tests.tiny_runs import TinyRuns

NARROW_STUDENT = ["pipeline=distill", "model=small_cnn", "pipeline.stages.distill.width=0.5"]


def build_convolution(filters: int, size: int = 3, name: str = "conv") -> Any:
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    inputs = kl.Input(tiny_keras.SHAPE)
    x = kl.Conv2D(filters, size, activation="relu", name=name)(inputs)
    x = kl.Dense(5, activation="relu", name="hidden")(kl.Flatten()(x))
    return import_keras().Model(inputs, kl.Dense(tiny_keras.CLASSES, name="logits")(x))


@pytest.mark.usefixtures("tensorflow")
class TestFeatureMatcher:
    @pytest.mark.parametrize("loop", ["graph", "fit"])
    @pytest.mark.parametrize(
        "objective", [Hint(alpha=0.0, weight=5.0), Attention(alpha=0.0)], ids=["hint", "attention"]
    )
    def test_training_brings_layers_together(self, objective: Any, loop: str) -> None:
        from lightexp.backend.features import FeatureMatcher
        from lightexp.backend.training import TeacherSignals, Trainer

        source = tiny_keras.make_data()
        teacher, model = build_convolution(6), build_convolution(3)
        initial = [w.copy() for w in teacher.get_weights()]
        features = FeatureMatcher(model, teacher, objective, 0)
        assert [v.shape for v in features.variables] == ([(3, 6)] if objective.adapts else [])
        inputs = source.inputs(source.train.x)
        before = float(np.mean(features(inputs)[1]))
        settings = tiny_keras.make_settings(objective=objective, loop=loop, epochs=20)
        logits = {"teacher": teacher.predict(inputs, verbose=0)}
        history = Trainer(model, settings, source, 0, TeacherSignals(logits, features)).run(
            tiny_keras.CountingProgress()
        )
        assert float(np.mean(features(inputs)[1])) < 0.7 * before
        assert history["loss"][-1] < history["loss"][0]
        for old, new in zip(initial, teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_match_layers_matches_equal_names(self) -> None:
        from lightexp.backend.features import match_layers

        assert match_layers(build_convolution(3), build_convolution(6), Hint()) == {"conv": "conv"}
        assert match_layers(build_convolution(3), build_convolution(6, name="other"), Hint()) == {"hidden": "hidden"}
        assert match_layers(
            build_convolution(3), build_convolution(6, name="other"), Hint(layers={"conv": "other"})
        ) == {"conv": "other"}

    @pytest.mark.parametrize(
        ("objective", "size", "message"),
        [
            (Hint(layers={"cnv": "conv"}), 3, "the model has no layer 'cnv'.*conv"),
            (Hint(layers={"conv": "convx"}), 3, "the teacher has no layer 'convx'.*conv"),
            (Hint(layers={"conv": "hidden"}), 3, r"'conv' gives \(4, 4, 3\) and the teacher's 'hidden' \(5,\)"),
            (Attention(), 5, r"'conv' gives \(4, 4, 3\) and the teacher's 'conv' \(2, 2, 6\)"),
            (Attention(layers={"hidden": "hidden"}), 3, "'hidden' has no positions.*Use hint"),
        ],
    )
    def test_layers_of_other_shapes_are_refused(self, objective: Any, size: int, message: str) -> None:
        from lightexp.backend.features import match_layers

        with pytest.raises(BadInput, match=message):
            match_layers(build_convolution(3), build_convolution(6, size), objective)


@pytest.mark.parametrize("name", ["hint", "attention"])
def test_pipeline_distils_hidden_layers(name: str, tiny_runs: TinyRuns) -> None:
    overrides = [*NARROW_STUDENT, f"objective@pipeline.stages.distill.objective={name}"]
    first = tiny_runs.run(*overrides)
    assert first.status == "done"
    plain = tiny_runs.run(*NARROW_STUDENT)
    assert plain.stages[0].from_store
    assert tiny_runs.get_file(plain).read_bytes() != tiny_runs.get_file(first).read_bytes()
    assert len(tiny_runs.get_file(plain).read_bytes()) == len(
        tiny_runs.get_file(first).read_bytes()
    )  # linear maps are not part of the file


def test_pipeline_averages_teachers(tiny_runs: TinyRuns) -> None:
    others = "+pipeline.stages.distill.objective.others.big=['model=lenet5','pipeline=control']"
    planned, _ = tiny_runs.plan(*NARROW_STUDENT, others)
    assert set(planned.nodes[-1].inputs) == {"teacher", "big"}
    assert planned.nodes[-1].key != tiny_runs.plan(*NARROW_STUDENT)[0].nodes[-1].key


def test_layers_are_checked_before_training(tiny_runs: TinyRuns) -> None:
    overrides = [*NARROW_STUDENT, "objective@pipeline.stages.distill.objective=hint", "seed=77"]
    with pytest.raises(
        BadInput, match=r"pipeline\.stages\.distill\.objective\.layers: the model has no layer 'nowhere'"
    ):
        tiny_runs.run(*overrides, "+pipeline.stages.distill.objective.layers.nowhere=conv1")
    assert not tiny_runs.run("pipeline=control", "model=small_cnn", "seed=77").stages[0].from_store


def test_teacher_file_without_layers_is_refused(tiny_runs: TinyRuns) -> None:
    file = tiny_runs.get_file(tiny_runs.run("pipeline=control"))
    overrides = [
        "objective@pipeline.stages.distill.objective=hint",
        f"pipeline.stages.distill.objective.teacher={file}",
    ]
    with pytest.raises(BadInput, match=r"hint looks at its teacher's layers, which a \.tflite does not have"):
        tiny_runs.plan("pipeline=distill", *overrides)
