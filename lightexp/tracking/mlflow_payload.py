"""What MLflow is told of a record, as plain values within MLflow's limits."""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from lightexp.core.config import flatten
from lightexp.core.record import Record

KEY_CHARS, PARAM_CHARS, TAG_CHARS, DIGEST_CHARS = 250, 6_000, 8_000, 36
PARAMS, TAGS, METRICS = 100, 100, 1_000  # a call
REQUEST_BYTES = 800_000  # MLflow refuses 1,000,000


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
    """Returns a name that MLflow takes: `name` itself where it can be, else the nearest with a digest of `name` after.

    The digest keeps two names apart that differ only in what MLflow refuses (`a+b`, `a=b`).
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
    """Returns a value as text: a string as it is, else JSON (`true`, `0.5`), cut to `limit` characters."""
    words = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    words = words.encode(errors="replace").decode().replace("\0", "")  # databases refuse lone surrogates and NUL
    return words if len(words) <= limit else words[: limit - 1] + "…"


def build_params(config: Mapping[str, Any]) -> dict[str, str]:
    """The config as one flat level: dotted keys, lists and empty mappings as JSON."""
    return {sanitize_key(name): format_value(value, PARAM_CHARS) for name, value in flatten(config)}


def build_tags(record: Record) -> dict[str, str]:
    """What a run is found by: its id, status, command, seed, host, git commit, what varies; notes of its figures."""
    git = record.environment.get("git") or {}
    found = {
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
    found |= {sanitize_key(f"lightexp.{name}"): value for name, value in record.tags.items()}
    for override in record.varied:
        name, equals, value = override.partition("=")
        gone = name.startswith("~")
        found[sanitize_key(f"vary/{name.lstrip('+~')}")] = "removed" if gone else value if equals else ""
    found |= {sanitize_key(f"note/{name}"): words for name, words in record.notes.items()}
    return {name: format_value(value, TAG_CHARS) for name, value in found.items() if value is not None}


def list_points(record: Record) -> list[MetricPoint]:
    """All finite figures and curves.

    The shipped file's figures bear their bare names and each stage's stand under `stage/<stage>/`, at step 0; curves
    stand under `train/<stage>/`, and the value after the first epoch is at step 1.
    """
    found = [MetricPoint(sanitize_key(name), value, 0) for name, value in record.metrics.items()]
    for stage in record.stages:
        found += [MetricPoint(sanitize_key(f"stage/{stage.name}/{f.name}"), f.value, 0) for f in stage.metrics]
        for name, curve in (stage.facts.get("history") or {}).items():
            curve_key = sanitize_key(f"train/{stage.name}/{name}")
            found += [MetricPoint(curve_key, value, epoch) for epoch, value in enumerate(curve, start=1)]
    return [p._replace(value=float(p.value)) for p in found if _is_number(p.value)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def list_inputs(record: Record) -> list[DatasetInput]:
    """The data set's splits. Digests are cut to what MLflow holds; the profile has them whole."""
    name = format_value(str(record.dataset.get("name", "")), 500)
    found = []
    for split, facts in (record.dataset.get("splits") or {}).items():
        profile = json.dumps({"num_rows": facts.get("n"), "sha256": facts.get("digest")})
        found.append(DatasetInput(name, str(facts.get("digest"))[:DIGEST_CHARS], profile, split))
    return found


def split_batches(values: Mapping[str, str], count: int) -> Iterator[dict[str, str]]:
    """Splits keys and values into parts of at most `count` that fit into a request."""
    rest = list(values.items())
    while rest:
        sizes = iter(_running_bytes(rest))
        fitting = sum(1 for _ in takewhile(lambda size: size <= REQUEST_BYTES, sizes))
        part = max(1, min(count, fitting))
        yield dict(rest[:part])
        rest = rest[part:]


def _running_bytes(pairs: Sequence[tuple[str, str]]) -> Iterator[int]:
    total = 0
    for name, value in pairs:
        total += len(name) + len(json.dumps(value)) + 32  # the 32: quotes, braces, field names
        yield total
