"""MLflow's model registry: versions of a registered model, and the aliases of the best and the smallest one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lightexp.core.columns import build_metrics_table, select_columns
from lightexp.core.formatting import is_number
from lightexp.core.primary_metric import PrimaryMetric, read_primary
from lightexp.core.record import Record
from lightexp.core.table import render_markdown
from lightexp.tracking import mlflow_payload
from lightexp.tracking.client import MlflowRun, TrackingClient, UnusableAnswer

CHAMPION, SMALLEST = "champion", "smallest"
"""Aliases of the version with the best primary metric on validation, and of the one with the fewest bytes."""
_PAGE_SIZE = 1_000
_BYTES = "size/file_bytes"
_RUN_ID, _NAME, _PRIMARY, _DIRECTION, _DATA = (
    f"lightexp.{name}" for name in ("run_id", "name", "primary", "direction", "val_digest")
)


@dataclass(frozen=True)
class ModelVersion:
    """A version of a registered model, as lightexp has registered it.

    Attributes:
        number: Its number.
        tags: What it is, and its metrics as text.
    """

    number: int
    tags: dict[str, str]

    @property
    def run_id(self) -> str:
        """The id of lightexp's run."""
        return self.tags.get(_RUN_ID, "")

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics among the tags."""
        return {name: float(value) for name, value in self.tags.items() if "/" in name and is_number(value)}


class RegistryClient(TrackingClient):
    """The registry of an MLflow store; its methods raise what those of `TrackingClient` do."""

    def list_versions(self, name: str) -> list[ModelVersion]:
        """Return the versions of a registered model, the oldest first."""
        versions: dict[int, ModelVersion] = {}
        token = None
        while True:
            options = {"max_results": _PAGE_SIZE, "page_token": token}
            page = self._exchange(partial(self._client.search_model_versions, f"name='{name}'", **options))
            new = {int(version.version): dict(version.tags) for version in page}
            token = page.token
            if token and not new.keys() - versions.keys():
                raise UnusableAnswer("it lists no further versions and says that more follow")
            versions |= {number: ModelVersion(number, tags) for number, tags in new.items()}
            if not token:
                return [versions[number] for number in sorted(versions)]

    def add_version(self, name: str, run: MlflowRun, record: Record) -> None:
        """Register the model of a run as a version; the registered model is created if needed."""
        model = self.get_model(run.model_ids[0])
        text = mlflow_payload.build_note(render_markdown(record.build_table()))
        if not self._exchange(lambda: list(self._client.search_registered_models(f"name='{name}'"))):
            self._exchange(lambda: self._client.create_registered_model(name))
        tags = build_version_tags(record)
        self._exchange(
            lambda: self._client.create_model_version(
                name, model.artifact_location, run.run_id, tags, description=text, model_id=model.model_id
            )
        )

    def assign_aliases(self, name: str, data: str) -> tuple[list[ModelVersion], dict[str, int]]:
        """Give the best and the smallest version their aliases, and the registered model its table.

        Args:
            name: The registered model.
            data: Digest of the validation data; versions of others are not compared with these.

        Returns:
            All versions, and the version's number by alias.
        """
        versions = self.list_versions(name)
        aliases = choose_aliases([version for version in versions if version.tags.get(_DATA) == data])
        for alias, number in aliases.items():
            self._exchange(
                lambda alias=alias, number=number: self._client.set_registered_model_alias(name, alias, str(number))  # type: ignore[misc]
            )
        table = render_versions(versions, aliases)
        self._exchange(lambda: self._client.update_registered_model(name, mlflow_payload.build_note(table)))
        return versions, aliases


def build_version_tags(record: Record) -> dict[str, str]:
    """Return the tags of a version: its run, its validation data, and the metrics that tables show."""
    primary = read_primary(record.dataset)
    columns = select_columns([record.metrics], primary.name)
    metrics = {column.name: record.metrics[column.name] for column in columns if column.name in record.metrics}
    tags = {
        _RUN_ID: record.id,
        _NAME: mlflow_payload.build_run_name(record),
        _PRIMARY: primary.name,
        _DIRECTION: primary.direction,
        _DATA: read_data_digest(record),
    }
    tags |= {f"lightexp.{name}": value for name, value in record.tags.items()}
    return {
        mlflow_payload.sanitize_key(name): mlflow_payload.format_value(value, mlflow_payload.TAG_CHARS)
        for name, value in (tags | {name: repr(value) for name, value in metrics.items()}).items()
    }


def read_data_digest(record: Record) -> str:
    """Return the digest of the validation data that a record's metrics were measured on."""
    return str(((record.dataset.get("splits") or {}).get("val") or {}).get("digest"))


def choose_aliases(versions: Sequence[ModelVersion]) -> dict[str, int]:
    """Return the number of the best and of the smallest version; of equal ones the first.

    Args:
        versions: Versions that were measured on the same data.

    Example:
        >>> tags = {"lightexp.primary": "accuracy", "lightexp.direction": "max"}
        >>> large = ModelVersion(1, tags | {"accuracy/val": "0.9", "size/file_bytes": "900"})
        >>> small = ModelVersion(2, tags | {"accuracy/val": "0.8", "size/file_bytes": "100"})
        >>> choose_aliases([large, small])
        {'champion': 1, 'smallest': 2}
    """
    if not versions:
        return {}
    primary, direction = versions[-1].tags.get(_PRIMARY, ""), versions[-1].tags.get(_DIRECTION)
    comparable = [version for version in versions if version.tags.get(_PRIMARY) == primary]
    aliases = {}
    for alias, metric, sign in ((CHAMPION, f"{primary}/val", -1 if direction == "max" else 1), (SMALLEST, _BYTES, 1)):
        values = {version.number: sign * version.metrics[metric] for version in comparable if metric in version.metrics}
        if values:
            aliases[alias] = min(values, key=lambda number: (values[number], number))
    return aliases


def render_versions(versions: Sequence[ModelVersion], aliases: dict[str, int]) -> str:
    """Return a Markdown table of a registered model's versions, of which there is one at least."""
    rows = []
    for version in versions:
        names = "".join(f" ({alias})" for alias, number in aliases.items() if number == version.number)
        rows.append((f"{version.number}{names}: {version.tags.get(_NAME, '')}", version.metrics))
    primary = PrimaryMetric(versions[-1].tags.get(_PRIMARY, "accuracy"))
    return render_markdown(build_metrics_table("Version", rows, primary=primary))
