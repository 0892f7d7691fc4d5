"""The schema of `record.json`: records may come from other software, older versions or strangers.

It checks the types of all that some code reads, and leaves what is only shown, such as settings of stages, to be JSON.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

_CLOSED = ConfigDict(extra="forbid", strict=True)
_OPEN = ConfigDict(extra="allow", strict=True)
_MAX_DEPTH = 30  # of nested mappings and lists; code that walks a config recurses
_CONTAINERS = (dict, list)
_MAX_QUOTED = 60  # characters of a wrong value
_MAX_METRIC = 1e100  # reports square metrics and add them up

_Time = Annotated[float, Field(ge=0, le=9e9, allow_inf_nan=False)]  # seconds; pandas dates end in the year 2262
_Key = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-][0-9A-Za-z._-]{0,127}$")]  # names a folder, and is never a path
_Size = Annotated[int, Field(ge=0, lt=2**53)]
_Sizes = dict[str, Annotated[float, Field(ge=0, le=2**53, allow_inf_nan=False)]]


@with_config(_CLOSED)
class _MetricFile(TypedDict):
    name: str
    value: float | None  # None in the place of a number that was not finite
    unit: NotRequired[str]
    direction: NotRequired[Literal["max", "min"] | None]
    split: NotRequired[Literal["train", "val", "test"] | None]
    version: NotRequired[_Size]


@with_config(_OPEN)
class _Facts(TypedDict):
    history: NotRequired[dict[str, list[float | None]] | None]
    note: NotRequired[str | None]
    sizes: NotRequired[_Sizes | None]
    zeros: NotRequired[_Sizes | None]


@with_config(_CLOSED)
class _StageFile(TypedDict):
    name: str
    key: _Key
    from_store: bool
    seconds: _Time
    metrics: list[_MetricFile]
    facts: NotRequired[_Facts]
    notes: NotRequired[dict[str, str]]


@with_config(_OPEN)
class _PipelineConfig(TypedDict):
    stages: NotRequired[dict[str, dict[str, Any] | None]]
    order: NotRequired[list[str]]
    waive: NotRequired[list[str]]


@with_config(_OPEN)
class _RunConfigFile(TypedDict):
    seed: NotRequired[Annotated[int, Field(ge=0, lt=2**31)]]
    dataset: NotRequired[dict[str, Any]]
    model: NotRequired[dict[str, Any]]
    pipeline: NotRequired[_PipelineConfig]
    measure: NotRequired[dict[str, Any]]
    tracking: NotRequired[dict[str, Any]]
    plugins: NotRequired[list[str]]


@with_config(_OPEN)
class _Split(TypedDict):
    digest: NotRequired[str]


@with_config(_CLOSED)
class PrimaryMetricFile(TypedDict):
    """`lightexp.core.primary_metric.PrimaryMetric` as JSON."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=60)]
    direction: Literal["max", "min"]
    reference: Annotated[float, Field(allow_inf_nan=False)] | None
    unit: Annotated[str, Field(max_length=20)]
    is_share: bool


@with_config(_OPEN)
class _DatasetFile(TypedDict):
    name: NotRequired[str]
    classes: NotRequired[_Size]
    primary: NotRequired[PrimaryMetricFile]
    splits: NotRequired[dict[str, _Split]]


@with_config(_CLOSED)
class _RecordFile(TypedDict):
    id: str
    name: str
    command: str
    config: _RunConfigFile
    varied: list[str]
    environment: dict[str, Any]
    started: _Time
    status: NotRequired[Literal["running", "done", "failed", "interrupted", "killed"]]
    reason: NotRequired[str | None]
    control: NotRequired[str | None]
    keys: NotRequired[list[_Key]]
    dataset: NotRequired[_DatasetFile]
    stages: list[_StageFile]
    waived: NotRequired[dict[str, str]]
    ended: NotRequired[_Time | None]
    files: NotRequired[dict[str, str]]
    mlflow: NotRequired[dict[str, str]]
    tags: NotRequired[dict[str, str]]
    format: int


@cache
def _get_adapter() -> TypeAdapter[_RecordFile]:
    return TypeAdapter(_RecordFile)


def check_record(values: object) -> None:
    """Check the JSON of a record of the present format.

    Raises:
        ValueError: For the first wrong entry, with its place.
    """
    if _measure_depth(_drop_metrics(values)) > _MAX_DEPTH:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
    try:
        record = _get_adapter().validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        received = f"{first['input']!r:.{_MAX_QUOTED}}"
        raise ValueError(f"{place:.100}: {first['msg']}. Received: {received}") from None
    for stage in record["stages"]:
        for metric in stage["metrics"]:
            if (value := metric["value"]) is None or 0 <= value <= _MAX_METRIC:
                continue  # most are, and a call for each takes a tenth of the time to read a record
            _check_metric(metric["name"], value)


def _check_metric(name: str, value: float) -> None:
    if not math.isfinite(value):
        return
    problem = f"its absolute value is above {_MAX_METRIC:g}" if abs(value) > _MAX_METRIC else ""
    if name.startswith("size/") and value < 0:
        problem = "a size cannot be negative"
    if problem:
        raise ValueError(f"metric {name:.100}: {problem}. Received: {value!r:.{_MAX_QUOTED}}")


def _drop_metrics(values: object) -> object:
    """Return a record without its stages' metrics, which are most of it, and whose schema bounds their depth."""
    if not isinstance(values, dict) or not isinstance(values.get("stages"), list):
        return values
    stages = [{**stage, "metrics": None} if isinstance(stage, dict) else stage for stage in values["stages"]]
    return {**values, "stages": stages}


def _measure_depth(value: object) -> int:
    """Return how deep mappings and lists are nested."""
    depth, level = 0, [value] if isinstance(value, _CONTAINERS) else []
    while level:
        depth += 1
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, _CONTAINERS)
        ]
    return depth
