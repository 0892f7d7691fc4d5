"""Seed trials: the configurations that a study runs first."""

from __future__ import annotations

from collections.abc import Callable

from lightexp.search.study_spec import StudySpec

SPARSITY = "pipeline.stages.prune.sparsity"
MakeSpec = Callable[..., StudySpec]


def test_seed_trials_are_recipe_int8_and_strongest(make_spec: MakeSpec) -> None:
    stage = "pipeline.stages.quantize"
    spec = make_spec("model=lenet5", f"{stage}.scheme=dynamic", f"{stage}.bits=4", f"+{stage}.layers={{conv*: 8}}")
    seed_trials = {c.name: c for c in spec.make_seed_trials(spec.make_space({}))}
    assert list(seed_trials) == ["recipe", "int8", "strongest"]
    assert seed_trials["recipe"].config == spec.base
    assert list(seed_trials["int8"].config.pipeline.order) == ["train", "quantize"]
    plain = seed_trials["int8"].config.pipeline.stages.quantize
    assert (plain.scheme, plain.bits, plain.layers) == ("int8", 8, {})
    strongest = seed_trials["strongest"].config.pipeline.stages
    assert (strongest.prune.sparsity, strongest.quantize.scheme) == (0.98, "dynamic")  # the command line fixes it
    assert seed_trials["strongest"].params[SPARSITY] == 0.98


def test_strongest_seed_trial_stays_within_the_range(make_spec: MakeSpec) -> None:
    spec = make_spec(f"{SPARSITY}=interval(0.1,0.6)")
    seed_trials = {c.name: c for c in spec.make_seed_trials(spec.make_space({}))}
    assert seed_trials["strongest"].config.pipeline.stages.prune.sparsity == 0.6
    assert SPARSITY not in seed_trials["recipe"].params  # 0.8 is not in the space, but is run first all the same
    assert seed_trials["recipe"].config.pipeline.stages.prune.sparsity == 0.8
