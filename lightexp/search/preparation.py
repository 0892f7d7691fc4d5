"""Study preparation: everything that is checked before the first trial of a study is started."""

from __future__ import annotations

from dataclasses import dataclass

from lightexp.runner.progress import SilentReporter
from lightexp.runner.run import Runner
from lightexp.search.layer_names import find_layer_names
from lightexp.search.samplers import list_grid_axes
from lightexp.search.space import SearchSpace
from lightexp.search.study_identity import StudyIdentity
from lightexp.search.study_spec import StudySpec


@dataclass(frozen=True)
class PreparedStudy:
    """A study that has been checked against its data and its model.

    Attributes:
        layers: The layers' names by which each setting of `search.per_layer` is expanded.
        space: The search space.
        identity: What the study must share with an existing one of its name.
        runner: A runner that has loaded the data.
    """

    layers: dict[str, list[str]]
    space: SearchSpace
    identity: StudyIdentity
    runner: Runner


def prepare_study(spec: StudySpec) -> PreparedStudy:
    """Check a study, load its data and build its search space.

    Args:
        spec: The study's specification.

    Raises:
        BadInput: If the study cannot work with its data or its model.
    """
    spec.check()
    runner = Runner(SilentReporter())
    _, data = runner.plan(spec.settings)
    if spec.halving:
        spec.halving.check(spec.settings, len(data.train))
    layers = find_layer_names(spec)
    space = spec.make_space(layers)
    if spec.search.sampler == "grid":
        list_grid_axes(space)  # refuses continuous ranges
    return PreparedStudy(layers, space, spec.compute_identity(space, data.key), runner)
