"""Specifications of studies: what the command line means, and what is refused before anything is started."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.distributions import FloatDistribution

from lightexp.core.errors import BadInput
from lightexp.search.study_spec import StudySpec

PRUNE = "pipeline.stages.prune"
SPARSITY = f"{PRUNE}.sparsity"
SCHEME = "pipeline.stages.quantize.scheme"
NPU = ["deploy=[ethos_u55_128]", "search.space={}", "search.objectives=[accuracy/val,npu/ethos_u55_128/us]"]
MakeSpec = Callable[..., StudySpec]


def test_npu_goals_are_parsed(make_spec: MakeSpec) -> None:
    constraints = "['npu/ethos_u55_128/sram_bytes <= 256 KiB', 'npu/ethos_u55_128/us <= 2 ms', 'fits: alif_e7']"
    targets = "deploy=[ethos_u55_128,alif_e7]"
    spec = make_spec(*NPU, targets, f"{SCHEME}=choice(int8,int16x8)", f"search.constraints={constraints}")
    spec.check()
    assert [(o.name, o.direction) for o in spec.objectives][1] == ("npu/ethos_u55_128/us", "min")
    assert [constraint.number for constraint in spec.constraints] == [2.0**18, 2000.0, 1.0]


def test_missing_config_dir_is_refused() -> None:
    for folder in ("", "nowhere"):
        with pytest.raises(BadInput, match=f"--config-dir={folder} is not a folder"):
            StudySpec([], [folder])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([f"{SPARSITY}=interval(0.9,0.5)"], f"search.space: {SPARSITY}=interval(0.9,0.5) is empty or reversed"),
        ([f"{PRUNE}.sparsty=interval(0.5,0.9)"], f"{PRUNE}.sparsty is not a setting: did you mean 'sparsity'?"),
        (["pipeline.stages.prun.sparsity=interval(0.5,0.9)"], "is not a setting: did you mean 'prune'?"),
        ([f"{SPARSITY}=interval(0.5,1.5)"], f"search.space: {SPARSITY}: Input should be less than 1"),
        ([f"{PRUNE}.criterion=choice(magnitude,magnitud)"], f"search.space: {PRUNE}.criterion"),
        (["pipeline=quantize"], "choose from: quantize, train. search.space=auto takes the default"),
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
        (["search.objectives=[npu/ethos_u55_64/us]"], "is not measured: deploy=[ethos_u55_64] asks for it."),
        (
            ["deploy=[ethos_u55_64]", "search.objectives=[npu/ethos_u55_64/sycles]"],
            "is not measured: did you mean 'npu/ethos_u55_64/cycles'?",
        ),
        (
            ["deploy=[ethos_u55_64]", "search.constraints=['fits: ethos_u55_64']"],
            "is not measured: ethos_u55_64 states no memory. Set +deploy.npus.ethos_u55_64.sram=KIB",
        ),
        ([*NPU, f"{SCHEME}=choice(default,int8)"], f"{SCHEME}=default, of choice(default,int8), makes none."),
        ([*NPU, f"{SCHEME}=choice(default,int8)", "pipeline.stages.quantize.io=integer"], f"'{SCHEME}=int8'"),
        ([*NPU, f"{SCHEME}=choice(int9)"], "Input should be 'default', 'float16'"),
        ([*NPU, f"{SCHEME}=dynamic"], "train-prune-quantize makes none. Set pipeline.stages.quantize.scheme=int8"),
        ([*NPU, "search.constraints=['npu/ethos_u55_128/us <= 3 KiB']"], "'KiB' is not a unit of npu/ethos_u55_128/us"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_start(make_spec: MakeSpec, overrides: list[str], expected: str) -> None:
    def start() -> None:
        spec = make_spec(*overrides)
        spec.check()
        spec.make_space({})

    with pytest.raises(BadInput) as refused:
        start()
    assert expected in str(refused.value)


def test_command_line_extends_and_overrides_the_preset(make_spec: MakeSpec) -> None:
    spec = make_spec(
        f"{SPARSITY}=interval(0.1,0.2)", "pipeline.stages.train.learning_rate=tag(log,interval(1e-4,1e-2))"
    )
    distributions = {p.name: p.distribution for p in spec.make_space({}).parameters}
    assert distributions[SPARSITY] == FloatDistribution(0.1, 0.2)
    assert distributions["pipeline.stages.train.learning_rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert f"{PRUNE}.allocation" in distributions


def test_workers_share_threads_unless_latency_is_a_goal(make_spec: MakeSpec) -> None:
    shared = make_spec("search.workers=2", "runtime.threads=4", "measure=default")
    assert (shared.workers, shared.threads) == (2, 2)
    assert "latency" not in shared.make_trial_settings(shared.base).measure
    alone = make_spec("search.workers=2", "runtime.threads=4", "measure=default", "search.objectives=[latency/p50_us]")
    assert (alone.workers, alone.threads) == (1, 4)
    assert "latency" in alone.make_trial_settings(alone.base).measure


def test_goal_beyond_quick_metrics_measures_all(make_spec: MakeSpec) -> None:
    assert "micro" not in make_spec().settings.measure
    spec = make_spec("search.constraints=['fits: nano33', 'micro/arena_bytes <= 128 KiB']", "search.workers=2")
    assert [(c.name, c.number) for c in spec.constraints] == [("fits/nano33", 1.0), ("micro/arena_bytes", 2.0**17)]
    space = spec.make_space({})
    for seed_trial in spec.make_seed_trials(space):  # they measure it on the boards of the group deploy
        measured = spec.make_trial_settings(seed_trial.config).measure
        assert "fits/nano33" in measured["micro"].gives
        assert "latency" not in measured
    assert spec.workers == 2
    assert "accuracy" in make_spec("search.objectives=[latency/p50_us]").settings.measure
    with pytest.raises(BadInput, match="fits/nano33 is not measured"):
        make_spec("measure=quick", "search.constraints=['fits: nano33']").check()


def test_goals_follow_the_task() -> None:
    goals = ["search.objectives=[primary/val,size/file_bytes]", "search.constraints=['primary/val <= control + 5']"]
    spec = StudySpec(["task=regression", "dataset=sklearn", f"{SPARSITY}=interval(0.5,0.9)", *goals], [])
    spec.check()
    assert [(o.name, o.direction) for o in spec.objectives] == [("rmse/val", "min"), ("size/file_bytes", "min")]
    assert spec.constraints[0].name == "rmse/val"
    with pytest.raises(BadInput, match=r"search\.pruner goes by rmse/val alone"):
        StudySpec(["task=regression", "search.pruner=median", *goals], []).check()
