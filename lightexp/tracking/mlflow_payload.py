"""What MLflow gets of a record: params, tags, metrics and inputs as plain values within MLflow's limits."""

from __future__ import annotations

import hashlib
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from lightexp.core.columns import is_phone_time, select_columns
from lightexp.core.config import flatten
from lightexp.core.json_text import encode_json
from lightexp.core.primary_metric import read_primary
from lightexp.core.record import Record
from lightexp.core.secrets import hide_secrets
from lightexp.core.table import render_markdown

KEY_CHARS, PARAM_CHARS, TAG_CHARS, DIGEST_CHARS = 250, 6_000, 8_000, 36
PARAMS, TAGS, METRICS = 100, 100, 1_000  # at most, in one call
REQUEST_BYTES = 400_000  # of params or of tags: both fit into a request, of which MLflow refuses over 1,000,000
MAIN_METRICS = 30  # at most, of a run
NOTE_TAG = "mlflow.note.content"
"""The description that MLflow's pages show of a run."""
_NOTE_DIGEST_TAG = "lightexp.table"
METRICS_FILE = "metrics.json"
"""The artifact of a run that holds all of its metrics."""
MetricSelection = Literal["main", "all"]
_NAME_CHARS = 500
_PAIR_BYTES = 32  # quotes, braces and field names of one key and value in a request


class MetricPoint(NamedTuple):
    """One metric value at one step."""

    key: str
    value: float
    step: int


class DatasetInput(NamedTuple):
    """One split of a data set."""

    name: str
    digest: str
    profile: str
    split: str


def sanitize_key(name: str) -> str:
    """Return a name that MLflow accepts: `name` itself if possible, else the nearest one and a digest of `name`.

    The digest distinguishes two names that differ only in what MLflow refuses, such as `a+b` and `a=b`.

    Example:
        >>> sanitize_key("accuracy/val")
        'accuracy/val'
        >>> sanitize_key("stages[0].x")
        'stages_0_.x-57144e9f'
    """
    clean = re.sub(r"[^0-9A-Za-z_./ -]", "_", name)
    clean = posixpath.normpath(clean).lstrip("/")
    if clean == "." or clean.startswith(".."):
        clean = f"_{clean}"
    if clean == name and len(name) <= KEY_CHARS:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{clean[: KEY_CHARS - 9]}-{digest}"


def format_value(value: Any, limit: int) -> str:
    """Return a value as text without secrets: a string as it is, anything else as JSON (`true`), cut to `limit`."""
    text = value if isinstance(value, str) else encode_json(value, ensure_ascii=False, default=str)
    text = hide_secrets(text)
    text = text.encode(errors="replace").decode().replace("\0", "")  # databases refuse lone surrogates and NUL
    return text if len(text) <= limit else text[: limit - 1] + "…"


def build_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return a config as one flat level: dotted keys, lists and empty mappings as JSON."""
    return {sanitize_key(name): format_value(value, PARAM_CHARS) for name, value in flatten(config)}


def build_model_params(record: Record) -> dict[str, str]:
    """Return the params of a run's model: what the user has varied, and the seed."""
    params = {sanitize_key(name): value for name, value in map(_split_override, record.varied)}
    params["seed"] = format_value(record.config.get("seed"), PARAM_CHARS)
    return {name: format_value(value, PARAM_CHARS) for name, value in params.items()}


def build_tags(record: Record) -> dict[str, str]:
    """Return what a run is found by: id, status, command, seed, host, git commit, overrides; and notes on metrics."""
    git = record.environment.get("git") or {}
    tags = {
        "lightexp.run_id": record.id,
        "lightexp.status": record.status,
        "lightexp.reason": record.reason,
        "lightexp.command": record.command,
        "lightexp.seed": record.config.get("seed"),
        "lightexp.host": record.environment.get("host"),
        "lightexp.processor": record.environment.get("processor"),
        "mlflow.source.name": "lightexp",
        "mlflow.source.git.commit": git.get("commit"),
        "mlflow.source.git.dirty": git.get("dirty"),
    }
    tags |= {sanitize_key(f"lightexp.{name}"): value for name, value in record.tags.items()}
    tags |= build_vary_tags(record.varied)
    tags |= {sanitize_key(f"note/{name}"): note for name, note in record.notes.items()}
    return {name: format_value(value, TAG_CHARS) for name, value in tags.items() if value is not None}


def build_vary_tags(varied: Iterable[str]) -> dict[str, str]:
    """Return a tag `vary/<setting>` for each override, with its value."""
    return {sanitize_key(f"vary/{name}"): value for name, value in map(_split_override, varied)}


def _split_override(override: str) -> tuple[str, str]:
    """Return an override's name without its prefix, and its value; `removed` for `~name`."""
    name, _, value = override.partition("=")
    return name.lstrip("+~"), "removed" if name.startswith("~") else value


def build_note_tags(table: str, existing: Mapping[str, str], remark: str = "") -> dict[str, str]:
    """Return the tags of a run's description, and of its digest; none if the user has edited the description.

    Args:
        table: The run's table in Markdown.
        existing: The run's tags in MLflow.
        remark: A sentence below the table. Defaults to none.
    """
    if NOTE_TAG in existing and existing.get(_NOTE_DIGEST_TAG) != _hash_text(existing[NOTE_TAG]):
        return {}
    note = format_value(build_note(table, remark), TAG_CHARS)
    return {NOTE_TAG: note, _NOTE_DIGEST_TAG: _hash_text(note)}


def build_run_note_tags(record: Record, existing: Mapping[str, str]) -> dict[str, str]:
    """Return `build_note_tags` of a run; none before it is done."""
    if record.status != "done":
        return {}
    remark = f"All metrics and curves: {METRICS_FILE}."
    return build_note_tags(render_markdown(record.build_table()), existing, remark)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def build_note(table: str, remark: str = "") -> str:
    r"""Return a Markdown table with a remark below it as a description; rows over MLflow's limit are left out.

    Example:
        >>> build_note("| a |\n|---|\n| 1 |", "Made today.")
        '| a |\n|---|\n| 1 |\n\nMade today.'
    """
    lines, limit = table.strip().splitlines(), TAG_CHARS - len(remark) - 100
    size, rows = 0, 0
    for line in lines:
        size += len(line) + 1
        rows += size <= limit
    left_out = f"{len(lines) - rows} more rows are in table.md." if rows < len(lines) else ""
    return "\n\n".join(part for part in ("\n".join(lines[:rows]), " ".join((left_out, remark)).strip()) if part)


def build_run_name(record: Record) -> str:
    """Return the name that tells a run from others of its ablation or sweep: what is special about it, and its seed.

    Example:
        >>> record = Record("id", "net on digits: prune", "", {"seed": 1}, ["seed=1"], {}, 0.0)
        >>> build_run_name(record)
        'net on digits: prune · seed 1'
        >>> record.tags["row"] = "prune+qat"
        >>> build_run_name(record)
        'prune+qat · seed 1'
    """
    name = record.tags.get("row") or record.tags.get("job") or record.name
    seed = record.config.get("seed")
    return format_value(name if seed is None else f"{name} · seed {seed}", _NAME_CHARS)


def list_points(record: Record, selection: MetricSelection = "main") -> list[MetricPoint]:
    """Return finite metrics and curves.

    Metrics of the shipped file have their bare names, and those of each stage begin with `stage/<stage>/`, at step 0.
    Curves begin with `train/<stage>/`, and the value after the first epoch is at step 1.

    Args:
        record: The run's record.
        selection: `all`, or the `main` ones: what tables show of the shipped file, its times on phones, and curves of
            validation and loss, at most 30. Defaults to `main`.
    """
    points = _list_all_points(record)
    if selection == "all":
        return points
    names = [column.name for column in select_columns([record.metrics], read_primary(record.dataset).name)]
    names += filter(is_phone_time, record.metrics)
    curves = [(stage.name, name) for stage in record.stages for name in stage.facts.get("history") or {}]
    names += [f"train/{stage}/{name}" for stage, name in curves if name.startswith("val_") and name != "val_loss"]
    names += [f"train/{stage}/{name}" for stage, name in curves if name == "loss"]
    selected = {sanitize_key(name) for name in names[:MAIN_METRICS]}
    return [point for point in points if point.key in selected]


def _list_all_points(record: Record) -> list[MetricPoint]:
    points = [MetricPoint(sanitize_key(name), value, 0) for name, value in record.metrics.items()]
    for stage in record.stages:
        for metric in stage.metrics:
            points.append(MetricPoint(sanitize_key(f"stage/{stage.name}/{metric.name}"), metric.value, 0))
        for name, curve in (stage.facts.get("history") or {}).items():
            key = sanitize_key(f"train/{stage.name}/{name}")
            points += [MetricPoint(key, value, epoch) for epoch, value in enumerate(curve, start=1)]
    finite = [point._replace(value=float(point.value)) for point in points if _is_finite_number(point.value)]
    # Of metrics whose names become the same key, the last counts: MLflow shows one, with which the record is compared.
    return list({(point.key, point.step): point for point in finite}.values())


def _is_finite_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def render_metrics(record: Record) -> str:
    """Return all metrics as the JSON of `metrics.json`: a number by name, and a curve as pairs of epoch and value."""
    values: dict[str, Any] = {}
    for point in list_points(record, "all"):
        if point.step:
            values.setdefault(point.key, []).append([point.step, point.value])
        else:
            values[point.key] = point.value
    return encode_json(values, indent=1) + "\n"


def list_inputs(record: Record) -> list[DatasetInput]:
    """Return the data set's splits. Digests are cut to MLflow's limit; the profile has the complete ones."""
    name = format_value(str(record.dataset.get("name", "")), _NAME_CHARS)
    inputs = []
    for split, facts in (record.dataset.get("splits") or {}).items():
        profile = encode_json({"num_rows": facts.get("n"), "sha256": facts.get("digest")})
        inputs.append(DatasetInput(name, str(facts.get("digest"))[:DIGEST_CHARS], profile, split))
    return inputs


def split_batches(values: Mapping[str, str], count: int) -> Iterator[dict[str, str]]:
    """Yield keys and values in batches of at most `count`, two of which fit into a request."""
    batch: dict[str, str] = {}
    batch_bytes = 0
    for name, value in values.items():
        pair_bytes = len(name) + len(encode_json(value)) + _PAIR_BYTES
        if batch and (len(batch) == count or batch_bytes + pair_bytes > REQUEST_BYTES):
            yield batch
            batch, batch_bytes = {}, 0
        batch[name] = value
        batch_bytes += pair_bytes
    if batch:
        yield batch
