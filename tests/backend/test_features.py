"""Hidden layers of a model in training beside its teacher's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightexp.core.errors import BadInput
from lightexp.objectives.attention import Attention
from lightexp.objectives.hint import Hint
from tests.backend import nets
from tests.tiny_runs import TinyRuns

STUDENT = ["pipeline=distill", "model=small_cnn", "pipeline.stages.distill.width=0.5"]


def widths(filters: int, size: int = 3, name: str = "conv") -> Any:
    from lightexp.backend.session import import_keras

    kl = import_keras().layers
    inputs = kl.Input(nets.SHAPE)
    x = kl.Conv2D(filters, size, activation="relu", name=name)(inputs)
    x = kl.Dense(5, activation="relu", name="hidden")(kl.Flatten()(x))
    return import_keras().Model(inputs, kl.Dense(nets.CLASSES, name="logits")(x))


@pytest.mark.usefixtures("tensorflow")
class TestFeatures:
    @pytest.mark.parametrize("loop", ["graph", "fit"])
    @pytest.mark.parametrize(
        "objective", [Hint(alpha=0.0, weight=5.0), Attention(alpha=0.0)], ids=["hint", "attention"]
    )
    def test_training_brings_the_layers_together(self, objective: Any, loop: str) -> None:
        from lightexp.backend.features import FeatureMatcher
        from lightexp.backend.training import TeacherSignals, Trainer

        source = nets.data()
        teacher, model = widths(6), widths(3)
        kept = [w.copy() for w in teacher.get_weights()]
        features = FeatureMatcher(model, teacher, objective, 0)
        assert [v.shape for v in features.variables] == ([(3, 6)] if objective.adapts else [])
        inputs = source.inputs(source.train.x)
        before = float(np.mean(features(inputs)[1]))
        settings = nets.settings(objective=objective, loop=loop, epochs=20)
        logits = {"teacher": teacher.predict(inputs, verbose=0)}
        history = Trainer(model, settings, source, 0, TeacherSignals(logits, features)).run(nets.Quiet())
        assert float(np.mean(features(inputs)[1])) < 0.7 * before
        assert history["loss"][-1] < history["loss"][0]
        for old, new in zip(kept, teacher.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    def test_without_names_it_takes_what_has_the_same_one(self) -> None:
        from lightexp.backend.features import match_layers

        assert match_layers(widths(3), widths(6), Hint()) == {"conv": "conv"}
        assert match_layers(widths(3), widths(6, name="other"), Hint()) == {"hidden": "hidden"}
        assert match_layers(widths(3), widths(6, name="other"), Hint(layers={"conv": "other"})) == {"conv": "other"}

    @pytest.mark.parametrize(
        ("objective", "size", "words"),
        [
            (Hint(layers={"cnv": "conv"}), 3, "the model has no layer 'cnv'.*conv"),
            (Hint(layers={"conv": "convx"}), 3, "the teacher has no layer 'convx'.*conv"),
            (Hint(layers={"conv": "hidden"}), 3, r"'conv' gives \(4, 4, 3\) and the teacher's 'hidden' \(5,\)"),
            (Attention(), 5, r"'conv' gives \(4, 4, 3\) and the teacher's 'conv' \(2, 2, 6\)"),
            (Attention(layers={"hidden": "hidden"}), 3, "'hidden' has no positions.*Use hint"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, objective: Any, size: int, words: str) -> None:
        from lightexp.backend.features import match_layers

        with pytest.raises(BadInput, match=words):
            match_layers(widths(3), widths(6, size), objective)


@pytest.mark.parametrize("name", ["hint", "attention"])
def test_a_pipeline_distils_hidden_layers(name: str, tiny_runs: TinyRuns) -> None:
    words = [*STUDENT, f"objective@pipeline.stages.distill.objective={name}"]
    first = tiny_runs.run(*words)
    assert first.status == "done"
    plain = tiny_runs.run(*STUDENT)
    assert plain.stages[0].from_store
    assert tiny_runs.file(plain).read_bytes() != tiny_runs.file(first).read_bytes()
    assert len(tiny_runs.file(plain).read_bytes()) == len(tiny_runs.file(first).read_bytes())  # the map is not shipped


def test_a_pipeline_averages_teachers(tiny_runs: TinyRuns) -> None:
    others = "+pipeline.stages.distill.objective.others.big=['model=lenet5','pipeline=control']"
    planned, _ = tiny_runs.plan(*STUDENT, others)
    assert set(planned.nodes[-1].inputs) == {"teacher", "big"}
    assert planned.nodes[-1].key != tiny_runs.plan(*STUDENT)[0].nodes[-1].key


def test_layers_are_checked_before_anything_is_trained(tiny_runs: TinyRuns) -> None:
    words = [*STUDENT, "objective@pipeline.stages.distill.objective=hint", "seed=77"]
    with pytest.raises(
        BadInput, match=r"pipeline\.stages\.distill\.objective\.layers: the model has no layer 'nowhere'"
    ):
        tiny_runs.run(*words, "+pipeline.stages.distill.objective.layers.nowhere=conv1")
    assert not tiny_runs.run("pipeline=control", "model=small_cnn", "seed=77").stages[0].from_store


def test_a_teacher_without_layers_gives_no_hints(tiny_runs: TinyRuns) -> None:
    file = tiny_runs.file(tiny_runs.run("pipeline=control"))
    words = ["objective@pipeline.stages.distill.objective=hint", f"pipeline.stages.distill.objective.teacher={file}"]
    with pytest.raises(BadInput, match=r"hint looks at its teacher's layers, which a \.tflite does not have"):
        tiny_runs.plan("pipeline=distill", *words)
