from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_runs import TinyRuns

from lightexp.core.config import check
from lightexp.core.errors import BadInput
from lightexp.objectives.attention import Attention
from lightexp.objectives.distill import Distill
from lightexp.objectives.hint import Hint

RNG = np.random.default_rng(0)


def maps(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def test_layers_are_paired_by_name_else_by_depth() -> None:
    able, there = ["a", "b", "c"], ["a", "x", "y", "z", "c"]
    assert Hint().pairs(["a"], able, there) == {"a": "a"}
    assert Hint().pairs(able, able, there) == {"a": "a", "b": "y", "c": "c"}
    assert Hint().pairs(["a"], ["a"], ["x", "y"]) == {"a": "x"}
    assert Hint(layers={"b": "z"}).pairs(["a"], able, there) == {"b": "z"}
    with pytest.raises(BadInput, match=r"layers: no layer 'd' with an activation at its end"):
        Hint(layers={"d": "x"}).pairs(["a"], able, there)
    with pytest.raises(BadInput, match=r"layers: no layer 'q' .*"):
        Hint(layers={"a": "q"}).pairs(["a"], able, there)
    with pytest.raises(BadInput, match="no layers to compare"):
        Attention().pairs([], [], there)


def test_a_file_has_no_layers() -> None:
    with pytest.raises(
        BadInput, match=r"^o: a teacher whose layers are looked at must be 'control'.* Received: a\.tflite"
    ):
        check(Hint, {"teacher": "a.tflite"}, "o")


def test_the_regressor_brings_channels_and_size_to_the_teacher_s(tensorflow: None) -> None:
    import tensorflow as tf

    from lightexp.backend.guides import Regressor

    mine, theirs = maps(5, 4, 4, 3), maps(5, 4, 4, 7)
    regressor = Regressor(mine.shape, theirs.shape)
    weights, bias = (variable.numpy() for variable in regressor.variables)
    expected = ((mine @ weights + bias - theirs) ** 2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(regressor(mine, theirs).numpy(), expected, rtol=1e-5)
    doubled = np.repeat(np.repeat(mine, 2, axis=1), 2, axis=2)
    halved = Regressor(doubled.shape, theirs.shape)(tf.constant(doubled), theirs).numpy()
    assert halved.shape == (5,)
    assert Regressor((None, 8, 3), (None, 4, 7))(maps(5, 8, 3), maps(5, 4, 7)).shape == (5,)
    assert Regressor((None, 3), (None, 7))(maps(5, 3), maps(5, 7)).shape == (5,)


def test_attention_is_where_not_how_much_or_in_which_channel(tensorflow: None) -> None:
    from lightexp.backend.guides import AttentionMaps

    mine = maps(6, 4, 4, 3)
    distance = AttentionMaps(mine.shape, mine.shape)
    np.testing.assert_allclose(distance(mine, -3 * mine[..., ::-1]).numpy(), 0, atol=1e-6)
    theirs = maps(6, 4, 4, 5)
    where = [(x**2).mean(axis=-1).reshape(6, -1) for x in (mine, theirs)]
    where = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in where]
    np.testing.assert_allclose(distance(mine, theirs).numpy(), ((where[0] - where[1]) ** 2).sum(axis=1), rtol=1e-4)
    larger = np.repeat(np.repeat(mine, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(distance(mine, mine).numpy(), 0, atol=1e-6)
    assert distance(mine, larger).numpy().max() < distance(mine, theirs).numpy().min()


def test_several_teachers_pull_towards_their_mean(tensorflow: None) -> None:
    import tensorflow as tf

    soft = Distill(others=["control"], alpha=1.0, temperature=2.0)
    assert list(soft.teachers) == ["teacher", "teacher2"]
    first, second = maps(4, 3), maps(4, 3)
    mean = (tf.nn.softmax(first / 2) + tf.nn.softmax(second / 2)) / 2
    logits = tf.Variable(2 * tf.math.log(mean))
    with tf.GradientTape() as tape:
        loss = soft.loss(logits, tf.zeros(4, tf.int32), {"teacher": first, "teacher2": second})
    np.testing.assert_allclose(tape.gradient(loss, logits).numpy(), 0, atol=1e-6)
    alone = Distill(alpha=1.0, temperature=2.0).loss(logits, tf.zeros(4, tf.int32), {"teacher": first})
    assert float(tf.reduce_min(alone)) > 0


WORDS = ["pipeline=distill", "model=small_cnn"]
AT = "pipeline.stages.distill.objective"


@pytest.mark.parametrize("objective", ["hint", "attention"])
def test_layers_teach(tiny_runs: TinyRuns, objective: str) -> None:
    words = [*WORDS, f"objective@{AT}={objective}", f"{AT}.alpha=0"]
    taught = tiny_runs.run(*words, f"{AT}.beta=100")
    alone = tiny_runs.run(*words, f"{AT}.beta=0")
    first, last = (record.stages[-1].facts["history"]["loss"] for record in (taught, alone))
    assert first[0] > last[0]  # the layers add to it
    assert tiny_runs.file(taught).read_bytes() != tiny_runs.file(alone).read_bytes()
    assert taught.figures["model/params"] == alone.figures["model/params"]  # a regressor does not ship


def test_layers_of_another_architecture_teach_in_8_bit_training_too(tiny_runs: TinyRuns) -> None:
    at = "pipeline.stages.qat.objective"
    words = ["pipeline=control", "+stage@pipeline.stages.qat=qat", "pipeline.order=[train,qat]"]
    record = tiny_runs.run(*words, f"objective@{at}=attention", f'{at}.teacher=["model=lenet5","pipeline=control"]')
    assert record.status == "done"
    plain = tiny_runs.run(*words, f"objective@{at}=distill", f'{at}.teacher=["model=lenet5","pipeline=control"]')
    assert record.stages[-1].facts["history"]["loss"] != plain.stages[-1].facts["history"]["loss"]


def test_a_teacher_that_ends_without_layers_is_refused(tiny_runs: TinyRuns) -> None:
    words = [*WORDS, f"objective@{AT}=hint", f'{AT}.teacher=["model=small_cnn","pipeline=quantize"]']
    with pytest.raises(BadInput, match="the teacher ends as a .tflite, which has none"):
        tiny_runs.run(*words)


def test_a_second_teacher_is_made_and_counts(tiny_runs: TinyRuns) -> None:
    words = [*WORDS, f'{AT}.others=[["model=lenet5","pipeline=control"]]']
    planned, _ = tiny_runs.plan(*words)
    assert set(planned.nodes[-1].inputs) == {"teacher", "teacher2"}
    assert planned.nodes[-1].key != tiny_runs.plan(*WORDS)[0].nodes[-1].key
