"""The page of a report: one HTML file that opens offline and loads nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from lightexp.core.formatting import escape_html, strip_controls
from lightexp.core.json_text import encode_json
from lightexp.report.data import Report
from lightexp.report.page_data import build_page_data
from lightexp.report.plots import Plot

_SCRIPTS = ("rows", "tables", "tradeoff", "page")  # files of the one script, each of which uses those before it
_CAPTIONS = {
    "front": "Size against the task's metric: means over the seeds, standard deviations, and the front.",
    "ratio": "How many times smaller, and what it costs: paired differences with 95% intervals.",
    "waterfall": "What each stage did to the file's bytes and to the task's metric.",
    "curves": "Training, stage after stage: means over the seeds.",
    "layers": "What is left of each layer.",
    "sensitivity": "The task's metric when one layer alone is compressed.",
    "hypervolume": "Hypervolume of the front over the trials.",
    "study_front": "All trials of the study on its objectives, and its front.",
    "importance": "Which settings the objectives depend on.",
    "slices": "The objectives over the values of each setting.",
    "parallel": "Settings and objectives of each trial, as parallel coordinates.",
}


def render_page(report: Report, plots: Mapping[str, Plot]) -> str:
    """Return the report as one HTML file.

    Names stay text whatever they hold: data are JSON without angle brackets, which the page's script inserts as text.

    Args:
        report: The report.
        plots: The plots by name, shown as images, in which no script runs.
    """
    template = files("lightexp.report") / "template"
    parts = {kind: (template / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css")}
    script = "".join((template / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    values = {
        "policy": _build_policy(parts["css"], script),
        "title": escape_html(report.spec.title),
        "style": parts["css"],
        "script": script,
        "rows": f"{len(report.rows):,}",
        "runs": f"{len(report.runs):,}",
        "figures": "".join(_render_figure(name, plot) for name, plot in plots.items()),
        "data": _encode_json(build_page_data(report)),
    }
    page, *pieces = parts["html"].split("{{")
    for piece in pieces:
        name, _, text = piece.partition("}}")
        page += values[name] + text
    return page


def _build_policy(style: str, script: str) -> str:
    """Return the content security policy, which allows only the page's own style and script."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(source.encode()).digest()).decode() for source in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _render_figure(name: str, plot: Plot) -> str:
    source = f"data:image/svg+xml;base64,{base64.b64encode(plot.files['.svg']).decode()}"
    caption = escape_html(_CAPTIONS.get(name, name))
    files = escape_html(", ".join(name + ending for ending in plot.files))
    description = f"<figcaption>{caption} {escape_html(plot.note)} ({files})</figcaption>"
    return f'<figure><img alt="{caption}" src="{source}">{description}</figure>'


def _encode_json(value: Any) -> str:
    """Return JSON for a script element; no name within it can end the element."""
    text = encode_json(_clean_json(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _clean_json(value: Any) -> Any:
    """Return the value with texts without control characters."""
    if isinstance(value, Mapping):
        return {strip_controls(str(key)): _clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_json(item) for item in value]
    if isinstance(value, str):
        return strip_controls(value)
    return value
