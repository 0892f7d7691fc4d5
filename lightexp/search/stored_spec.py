"""The specification that a study was made with, which its storage holds."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from lightexp.core.errors import BadInput
from lightexp.search.storage import open_storage
from lightexp.search.study_schema import check_study
from lightexp.search.study_spec import StudySpec

ARGUMENTS = "arguments"
"""Name of the study attribute that holds `StudySpec.arguments`."""
_PLACES = ("paths.outputs", "search.study", "search.storage")


def restore_spec(spec: StudySpec, report: Callable[[str], None]) -> StudySpec:
    """Return the specification that an existing study was made with, changed by the settings of this command.

    Args:
        spec: This command's, which says where the study is.
        report: Called with a line for the user when the storage goes away or returns.

    Returns:
        The specification; `spec` itself if an earlier version of lightexp has made the study.

    Raises:
        BadInput: If the study's storage or its attributes cannot be used, or the settings do not suit it.
    """
    storage, _ = open_storage(spec.search.storage, spec.folder, spec.name, report)
    study = optuna.load_study(study_name=spec.name, storage=storage)
    check_study(study)
    stored = study.user_attrs.get(ARGUMENTS)
    if stored is None:
        return spec
    own, search = spec.arguments["overrides"], stored["search"]
    if search is not None:  # of Hydra's sweeper, whose study's settings are no overrides
        own = [override for override in own if not override.startswith(("search.", "search="))]
        search = {**search, "study": spec.name, "storage": spec.search.storage}
    replaced = {*_PLACES, *map(_find_name, own)}
    overrides = [override for override in stored["overrides"] if _find_name(override) not in replaced] + own
    folders = dict.fromkeys([*stored["config_dirs"], *spec.arguments["config_dirs"]])
    restored = StudySpec(overrides, list(folders), stored["config_name"], search)
    if (restored.name, restored.folder) != (spec.name, spec.folder):
        raise BadInput(
            f"search.study: '{spec.name}' in {spec.folder} was made with settings of another place, {restored.folder}. "
            "Repeat the settings of the study's command."
        )
    return restored


def _find_name(override: str) -> str:
    """Return the name of the setting or group that an override changes."""
    return override.partition("=")[0].lstrip("+~")
