"""Spaces: what is searched, where it applies, and what is refused before anything is started."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from lightexp.core.errors import BadInput
from lightexp.search.ranges import parse_parameter
from lightexp.search.space import VARIANT
from lightexp.search.study_spec import StudySpec

PRUNE = "pipeline.stages.prune"
SPARSITY = f"{PRUNE}.sparsity"
MakeSpec = Callable[..., StudySpec]


@pytest.mark.parametrize(
    ("text", "like", "expected"),
    [
        ("interval(0.5, 0.98)", 0.8, FloatDistribution(0.5, 0.98)),
        ("interval(1, 8)", 0.8, FloatDistribution(1, 8)),
        ("interval(1, 8)", 3, IntDistribution(1, 8)),
        ("int(interval(1, 8))", None, IntDistribution(1, 8)),
        ("tag(int, interval(1, 8))", None, IntDistribution(1, 8)),
        ("tag(log, interval(1e-4, 1e-2))", 1e-3, FloatDistribution(1e-4, 1e-2, log=True)),
        ("tag(log, interval(1, 64))", 8, IntDistribution(1, 64, log=True)),
        ("range(1, 10, 3)", 1, IntDistribution(1, 7, step=3)),  # as a sweep's: the end does not belong to it
        ("range(1, 9)", 1, IntDistribution(1, 8)),
        ("range(0.5, 0.9, 0.1)", 0.5, FloatDistribution(0.5, 0.8, step=0.1)),
        ("choice(int8, float16)", "int8", CategoricalDistribution(("int8", "float16"))),
        ("choice(null, 32)", None, CategoricalDistribution((None, 32))),
        ("a,b", "a", CategoricalDistribution(("a", "b"))),
    ],
)
def test_sweeps_are_distributions(text: str, like: object, expected: object) -> None:
    found = parse_parameter(("a", "b"), text, like).distribution
    if isinstance(expected, FloatDistribution):
        assert isinstance(found, FloatDistribution)
        assert (found.low, found.log, found.step) == (expected.low, expected.log, expected.step)
        assert found.high == pytest.approx(expected.high)
    else:
        assert found == expected


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.booleans(), st.integers(0, 99))
def test_what_is_proposed_lies_in_the_interval(one: float, other: float, log: bool, seed: int) -> None:
    low, high = sorted([one, other])
    text = f"interval({low!r}, {high!r})"
    text = f"tag(log, {text})" if log else text
    if low == high:
        with pytest.raises(BadInput, match="empty or reversed"):
            parse_parameter(("a",), text, 1.0)
        return
    found = parse_parameter(("a",), text, 1.0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    assert low <= found.suggest(study.ask()) <= high
    assert low <= found.to_optuna(seed) <= high


WORDS = st.sampled_from(["a", "b", "[1,2]", "true"])


@given(st.lists(st.one_of(st.integers(2, 9), WORDS), min_size=2, unique=True))
def test_choices_come_back_as_they_were(values: list[object]) -> None:
    found = parse_parameter(("a",), f"choice({','.join(map(str, values))})", None)
    for inner, outer in zip(found.distribution.choices, found.list_end_values(), strict=True):
        assert found.suggest(FixedTrial({"a": inner})) == outer == found.from_optuna(inner)
        assert found.to_optuna(outer) == inner


def test_a_folder_of_configs_that_is_not_there_is_refused() -> None:
    for folder in ("", "nowhere"):
        with pytest.raises(BadInput, match=f"--config-dir={folder} is not a folder"):
            StudySpec([], [folder])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("interval(0.9, 0.5)", "is empty or reversed"),
        ("range(5, 1)", "is empty or reversed"),
        ("range(5, 6)", "is empty or reversed"),
        ("range(0, 1, 0)", "the step must be above 0"),
        ("range(1, 0, -0.1)", "the step must be above 0"),
        ("choice()", "is no range"),
        ("0.5", "is no range"),
        ("glob(*)", "is no range"),
        ("interval(a, b)", "is no range"),
        ("tag(log, interval(0, 1))", "is an interval above 0"),
        ("tag(lug, interval(1, 2))", "tag 'lug' means nothing here"),
        ("choice(1, 1)", "names a value twice"),
        ("tag(int, interval(0.5, 2))", "whole numbers"),
    ],
)
def test_a_range_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=r"search\.space: a\.b=") as refused:
        parse_parameter(("a", "b"), text, 1.0)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([f"{SPARSITY}=interval(0.9,0.5)"], f"search.space: {SPARSITY}=interval(0.9,0.5) is empty or reversed"),
        ([f"{PRUNE}.sparsty=interval(0.5,0.9)"], f"{PRUNE}.sparsty is not a setting: did you mean 'sparsity'?"),
        (["pipeline.stages.prun.sparsity=interval(0.5,0.9)"], "is not a setting: did you mean 'prune'?"),
        ([f"{SPARSITY}=interval(0.5,1.5)"], f"search.space: {SPARSITY}: Input should be less than 1"),
        ([f"{PRUNE}.criterion=choice(magnitude,magnitud)"], f"search.space: {PRUNE}.criterion"),
        (["seed=choice(1,2)"], "search.space: seed is not searched"),
        (["dataset=choice(digits,mnist1d)"], "search.space: dataset is not searched"),
        (["search.space=null"], "search.space"),
        (["search.study=.."], "search.study: String should match"),
        (["search.trials=0"], "search.trials: Input should be greater than or equal to 1"),
        (["search.trails=3"], "search.trails is not a setting: did you mean 'trials'?"),
        (["search=prune_quantise"], "search=prune_quantise: no such choice, did you mean 'prune_quantize'?"),
        (["search.objectives=[accuracy/vall]"], "did you mean 'accuracy/val'?"),
        (["search.constraints=[latency/p50_us<=3]"], "cannot be read as setting=value. Quote"),
        (["measure=quick", "search.constraints=['latency/p50_us <= 3']"], "latency/p50_us is not measured"),
        (["search.constraints=['fits: nano34']"], "fits/nano34 is not measured: did you mean 'fits/nano33'?"),
        (["search.constraints=['size/file_bytes <= 3 KiC']"], "'KiC' is not a unit"),
        ([f"{PRUNE}=choice(on,of)"], "write choice(on, off)"),
        ([f"{PRUNE}=interval(0,1)"], "must be a choice"),
        (["pipeline.order=choice([prune,train,quantize],[quantize,train,prune])"], "cannot be the first stage"),
        (["stage@pipeline.stages.prune=choice(prune,prunne)"], "prunne"),
        ([f"+search.per_layer={{{PRUNE}.exclud: '*'}}"], f"search.per_layer: {PRUNE}.exclud has no range"),
        (["search.study=a/b"], "search.study"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_started(make_spec: MakeSpec, words: list[str], expected: str) -> None:
    def start() -> None:
        spec = make_spec(*words)
        spec.check()
        spec.make_space({})

    with pytest.raises(BadInput) as refused:
        start()
    assert expected in str(refused.value)


def test_the_command_line_adds_to_the_presets_space_and_overrides_it(make_spec: MakeSpec) -> None:
    spec = make_spec(
        f"{SPARSITY}=interval(0.1,0.2)", "pipeline.stages.train.learning_rate=tag(log,interval(1e-4,1e-2))"
    )
    found = {p.name: p.distribution for p in spec.make_space({}).parameters}
    assert found[SPARSITY] == FloatDistribution(0.1, 0.2)
    assert found["pipeline.stages.train.learning_rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert f"{PRUNE}.allocation" in found


def test_a_stage_that_is_off_has_no_parameters(make_spec: MakeSpec) -> None:
    space = make_spec(f"{PRUNE}=choice(on,off)").make_space({})
    off = next(s for s in space.variants if "prune" not in s.config.pipeline.order)
    trial = FixedTrial({VARIANT: off.label, "pipeline.stages.quantize.scheme": "int8"})
    structure, values = space.propose(trial)
    assert structure is off
    assert list(structure.config.pipeline.order) == ["train", "quantize"]
    assert values == {("pipeline", "stages", "quantize", "scheme"): "int8"}
    assert "prune" not in structure.set_values(values).pipeline.stages


def test_structures_that_cannot_stand_are_left_out_and_equal_ones_are_one(make_spec: MakeSpec) -> None:
    orders = "pipeline.order=choice([train,prune,quantize],[train,quantize,prune])"
    found = make_spec(f"{PRUNE}=choice(on,off)", orders).variants
    assert [list(s.config.pipeline.order) for s in found] == [["train", "prune", "quantize"], ["train", "quantize"]]


def test_another_method_has_parameters_of_its_own(make_spec: MakeSpec) -> None:
    space = make_spec(
        "stage@pipeline.stages.prune=choice(prune,distill)", "pipeline.stages.prune.width=interval(0.2,0.5)"
    ).make_space({})
    prune, distill = space.variants
    assert {p.path[-1] for p in space.select_parameters(prune)} == {"sparsity", "allocation", "scheme"}
    assert {p.path[-1] for p in space.select_parameters(distill)} == {"width", "scheme"}


def test_auto_takes_every_compressing_stages_default_ranges(make_spec: MakeSpec) -> None:
    names = {p.name.removeprefix("pipeline.stages.") for p in make_spec("search.space=auto").make_space({}).parameters}
    assert names == {"prune.learning_rate", "prune.sparsity", "prune.allocation", "quantize.scheme", "quantize.bits"}


def test_layers_are_set_one_by_one(make_spec: MakeSpec) -> None:
    field = f"{PRUNE}.layers"
    spec = make_spec(f"+search.per_layer={{{field}: 'conv*'}}")
    space = spec.make_space({field: ["conv2d", "conv2d.1"]})
    last = space.parameters[-1]
    assert last.path == ("pipeline", "stages", "prune", "layers", "conv2d.1")
    assert last.distribution == FloatDistribution(0.5, 0.98)  # the field's own default range
    config = space.variants[0].set_values({last.path: 0.75})
    assert spec.make_trial_settings(config).stages["prune"].layers == {"conv2d.1": 0.75}


def test_the_corners_are_the_recipe_plain_int8_and_the_strongest(make_spec: MakeSpec) -> None:
    stage = "pipeline.stages.quantize"
    spec = make_spec("model=lenet5", f"{stage}.scheme=dynamic", f"{stage}.bits=4", f"+{stage}.layers={{conv*: 8}}")
    corners = {c.name: c for c in spec.make_seed_trials(spec.make_space({}))}
    assert list(corners) == ["recipe", "int8", "strongest"]
    assert corners["recipe"].config == spec.base
    assert list(corners["int8"].config.pipeline.order) == ["train", "quantize"]
    plain = corners["int8"].config.pipeline.stages.quantize
    assert (plain.scheme, plain.bits, plain.layers) == ("int8", 8, {})
    strongest = corners["strongest"].config.pipeline.stages
    assert (strongest.prune.sparsity, strongest.quantize.scheme) == (0.98, "int8")
    assert corners["strongest"].params[SPARSITY] == 0.98


def test_the_strongest_stays_within_the_range(make_spec: MakeSpec) -> None:
    spec = make_spec(f"{SPARSITY}=interval(0.1,0.6)")
    corners = {c.name: c for c in spec.make_seed_trials(spec.make_space({}))}
    assert corners["strongest"].config.pipeline.stages.prune.sparsity == 0.6
    assert SPARSITY not in corners["recipe"].params  # 0.8 is not in the space, but tried all the same
    assert corners["recipe"].config.pipeline.stages.prune.sparsity == 0.8


def test_threads_are_shared_out_but_latency_is_timed_alone(make_spec: MakeSpec) -> None:
    shared = make_spec("search.workers=2", "runtime.threads=4", "measure=default")
    assert (shared.workers, shared.threads) == (2, 2)
    assert "latency" not in shared.make_trial_settings(shared.base).measure
    alone = make_spec("search.workers=2", "runtime.threads=4", "measure=default", "search.objectives=[latency/p50_us]")
    assert (alone.workers, alone.threads) == (1, 4)
    assert "latency" in alone.make_trial_settings(alone.base).measure


def test_a_goal_beyond_the_quick_measurements_gets_them_all(make_spec: MakeSpec) -> None:
    assert "micro" not in make_spec().settings.measure
    spec = make_spec("search.constraints=['fits: nano33', 'micro/arena_bytes <= 128 KiB']", "search.workers=2")
    assert [(c.name, c.number) for c in spec.constraints] == [("fits/nano33", 1.0), ("micro/arena_bytes", 2.0**17)]
    space = spec.make_space({})
    for corner in spec.make_seed_trials(
        space
    ):  # trials measure it, on the boards of the group deploy, and may run side by side
        measured = spec.make_trial_settings(corner.config).measure
        assert "fits/nano33" in measured["micro"].gives
        assert "latency" not in measured
    assert spec.workers == 2
    assert "accuracy" in make_spec("search.objectives=[latency/p50_us]").settings.measure
    with pytest.raises(BadInput, match="fits/nano33 is not measured"):
        make_spec("measure=quick", "search.constraints=['fits: nano33']").check()
