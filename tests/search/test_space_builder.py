"""The search space that ranges make: default ranges, and a parameter for each layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.distributions import FloatDistribution

from lightexp.search.study_spec import StudySpec

PRUNE = "pipeline.stages.prune"
MakeSpec = Callable[..., StudySpec]


@pytest.mark.parametrize("space", ["search=prune_quantize", "search.space=auto"])
def test_settings_fixed_on_the_command_line_are_not_searched(make_spec: MakeSpec, space: str) -> None:
    setting = "pipeline.stages.quantize.scheme"
    assert setting in make_spec(space).ranges
    spec = make_spec(space, f"{setting}=int8")
    assert setting not in spec.ranges and len(spec.ranges) == len(make_spec(space).ranges) - 1
    assert spec.base.pipeline.stages.quantize.scheme == "int8"
    assert setting in make_spec(space, f"{setting}=int8", f"{setting}=choice(int8,dynamic)").ranges


def test_auto_expands_to_default_ranges_of_compressing_stages(make_spec: MakeSpec) -> None:
    names = {p.name.removeprefix("pipeline.stages.") for p in make_spec("search.space=auto").make_space({}).parameters}
    assert names == {"prune.learning_rate", "prune.sparsity", "prune.allocation", "quantize.scheme", "quantize.bits"}


def test_per_layer_has_a_parameter_for_each_layer(make_spec: MakeSpec) -> None:
    field = f"{PRUNE}.layers"
    spec = make_spec(f"+search.per_layer={{{field}: 'conv*'}}")
    space = spec.make_space({field: ["conv2d", "conv2d.1"]})
    last = space.parameters[-1]
    assert last.path == ("pipeline", "stages", "prune", "layers", "conv2d.1")
    assert last.distribution == FloatDistribution(0.5, 0.98)  # the field's own default range
    config = space.variants[0].set_values({last.path: 0.75})
    assert spec.make_trial_settings(config).stages["prune"].layers == {"conv2d.1": 0.75}
