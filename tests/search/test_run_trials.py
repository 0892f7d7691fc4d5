"""What a study says of a cluster's nodes before it runs on them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lightexp.core.errors import BadInput
from lightexp.search.run_trials import connect_launcher
from lightexp.search.study_spec import StudySpec

STORAGE = "search.storage=postgresql://db.example.org/studies"


@dataclass
class Nodes:
    """A launcher on a cluster some of whose nodes do not see this host's folders."""

    shares_folder: bool
    blind_nodes: list[str] = field(default_factory=list)

    def connect(self, folder: Path) -> list[str]:
        return self.blind_nodes


def connect(nodes: Nodes, spec: StudySpec) -> list[str]:
    """Connect, and return what the user is told."""
    lines: list[str] = []
    connect_launcher(nodes, spec, lines.append)  # type: ignore[arg-type]
    return lines


def test_journal_is_refused_where_nodes_do_not_see_it(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec()
    assert connect(Nodes(True), spec) == []
    expected = (
        f"Ray's nodes 10.0.0.2, 10.0.0.3 do not see {spec.settings.outputs}, and so not the study's journal file."
    )
    with pytest.raises(BadInput, match=re.escape(expected)):
        connect(Nodes(True, ["10.0.0.2", "10.0.0.3"]), spec)
    with pytest.raises(BadInput, match=r"^search.storage: Ray's nodes work in their own folders, and so not the"):
        connect(Nodes(False), spec)


def test_missing_remote_store_is_reported(make_spec: Callable[..., StudySpec]) -> None:
    spec = make_spec(STORAGE)
    assert connect(Nodes(False, ["10.0.0.2"]), spec) == []
    [line] = connect(Nodes(True, ["10.0.0.2"]), spec)
    assert line.startswith("Ray's nodes 10.0.0.2 do not see ") and "Set store.remote=s3://BUCKET/PREFIX." in line
