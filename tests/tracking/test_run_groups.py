"""Parent runs of ablations and sweeps in MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightexp.core.record import Record
from lightexp.tracking import stores
from lightexp.tracking.mirror import MirrorSettings
from lightexp.tracking.mlflow import Mlflow, MlflowMirror
from lightexp.tracking.remote_mirror import RemoteMirror
from lightexp.tracking.run_groups import RunGroupTracker, find_group, make_group_tag
from tests import stand_in_servers

TABLE = "| Row | Accuracy |\n| --- | ---: |\n| int8 | 97% |\n"


@pytest.fixture
def outputs(run_folder: Path, copy_database: Callable[[Path], None]) -> Path:
    copy_database(run_folder.parents[1])
    return run_folder.parents[1]


@pytest.fixture
def mirror(outputs: Path, messages: list[str]) -> MlflowMirror:
    return Mlflow().open_mirror(outputs, messages.append)


class LocalMirror(RemoteMirror):
    """A mirror of studies in this process, whose start is not waited for."""

    def __init__(self, mirror: MlflowMirror) -> None:
        super().__init__(print)
        self.mirror = mirror

    def sync_study(self, study: Any, settings: MirrorSettings) -> dict[str, str]:
        return self.mirror.sync_study(study)


def make_tracker(mirror: MlflowMirror, outputs: Path, target: str = "lightexp.tracking.mlflow.Mlflow") -> Any:
    group = find_group({"ablation": "article"}, outputs)
    assert group is not None
    return RunGroupTracker(group, MirrorSettings({"_target_": target}, [], str(outputs)), LocalMirror(mirror))


def list_runs(mirror: MlflowMirror) -> tuple[Any, list[Any]]:
    """Return the one parent run in MLflow and its children."""
    client = stores.import_mlflow().MlflowClient(tracking_uri=mirror.uri)
    runs = client.search_runs([client.get_experiment_by_name("lightexp").experiment_id])
    (parent,) = (run for run in runs if "lightexp.study" in run.data.tags)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return parent, children


def test_ablation_is_the_parent_of_its_runs(
    outputs: Path,
    mirror: MlflowMirror,
    run_folder: Path,
    make_record: Callable[..., Record],
    sync: Callable[..., bool],
    messages: list[str],
) -> None:
    tracker = make_tracker(mirror, outputs)
    tracker.start()
    record = make_record(tags={"ablation": "article", "row": "prune+qat"})
    sync(mirror, record)
    assert [run.info.status for run in (list_runs(mirror)[0], *list_runs(mirror)[1])] == ["RUNNING", "RUNNING"]
    record.status, record.ended = "done", record.started + 5
    sync(mirror, record)
    (outputs / "table.md").write_text(TABLE)
    tracker.end("FINISHED", outputs / "table.md")
    parent, (child,) = list_runs(mirror)
    assert (parent.info.run_name, child.info.run_name) == ("ablation article", "prune+qat · seed 3")
    assert (parent.info.status, child.info.status) == ("FINISHED", "FINISHED")
    assert parent.data.tags["mlflow.note.content"] == TABLE.strip()
    assert not sync(mirror, record)
    (outputs / "table.md").write_text(TABLE + "| int4 | 90% |\n")
    make_tracker(mirror, outputs).end("FINISHED", outputs / "table.md")
    assert "int4" in list_runs(mirror)[0].data.tags["mlflow.note.content"]
    client = stores.import_mlflow().MlflowClient(tracking_uri=mirror.uri)
    client.set_tag(parent.info.run_id, "mlflow.note.content", "mine")
    make_tracker(mirror, outputs).end("FINISHED", outputs / "table.md")
    assert list_runs(mirror)[0].data.tags["mlflow.note.content"] == "mine"
    assert messages == []


@pytest.mark.parametrize(("status", "closed"), [("running", "KILLED"), ("done", "FINISHED")])
def test_run_makes_the_parent_that_is_not_there(
    status: str,
    closed: str,
    mirror: MlflowMirror,
    make_record: Callable[..., Record],
    sync: Callable[..., bool],
    messages: list[str],
    outputs: Path,
) -> None:
    record = make_record(status=status, tags={"sweep": "today", "job": "prune.sparsity=0.5"})
    sync(mirror, record)
    parent, (child,) = list_runs(mirror)
    assert parent.info.status == ("RUNNING" if status == "running" else "FINISHED")
    assert child.info.run_name == "prune.sparsity=0.5 · seed 3"
    mirror.close_running()  # as when the sweep's process dies
    assert list_runs(mirror)[0].info.status == closed
    assert messages == []


def test_parent_is_searched_once_for_many_runs(
    make_record: Callable[..., Record], tmp_path: Path, messages: list[str]
) -> None:
    with stand_in_servers.serve() as server:
        server.answers["runs/search"] = lambda answer: {"runs": []}
        mirror = Mlflow(server.url).open_mirror(tmp_path, messages.append)
        for name in "abc":
            folder = tmp_path / "runs" / name
            folder.mkdir(parents=True)
            make_record(id=name, status="failed", tags={"sweep": "today"}).write(folder)
            mirror.sync(folder)
        assert server.requests.count("runs/search") == len(["a", "b", "c", "the sweep"])
        assert server.requests.count("runs/create") == len(["a", "b", "c", "the sweep"])
    assert messages == []


def test_nothing_is_shown_if_nothing_is_tracked(outputs: Path, mirror: MlflowMirror) -> None:
    tracker = make_tracker(mirror, outputs, "lightexp.tracking.mirror.NoTracking")
    tracker.start()
    tracker.end("FINISHED")
    client = stores.import_mlflow().MlflowClient(tracking_uri=mirror.uri)
    assert client.get_experiment_by_name("lightexp") is None


def test_find_group_differs_by_kind_name_and_folder(tmp_path: Path) -> None:
    groups = [
        find_group(tags, folder)
        for tags in ({"ablation": "a"}, {"ablation": "b"}, {"sweep": "a"})
        for folder in (tmp_path, tmp_path / "other")
    ]
    assert len({group.id for group in groups if group}) == 6
    assert find_group({"row": "a"}, tmp_path) is None


def test_group_tag_names_the_group_of_the_command(tmp_path: Path) -> None:
    tags = {"ablation": "a"}
    group = find_group(tags, tmp_path / "command")
    tagged = tags | make_group_tag(tags, tmp_path / "command")
    assert find_group(tagged, tmp_path / "node") == group != find_group(tags, tmp_path / "node")
    assert make_group_tag({"row": "a"}, tmp_path) == {}
    for strange in ("' OR tags.x = '", ""):
        assert find_group(tags | {"group": strange}, tmp_path / "command") == group


def test_end_closes_the_runs_of_dead_workers(
    outputs: Path,
    mirror: MlflowMirror,
    make_record: Callable[..., Record],
    sync: Callable[..., bool],
    messages: list[str],
) -> None:
    sync(mirror, make_record(tags={"ablation": "article", "row": "a", "call": "call-1"}))
    tracker = make_tracker(mirror, outputs)
    tracker.end("FINISHED", call="call-2")
    assert list_runs(mirror)[1][0].info.status == "RUNNING"  # another command's
    make_tracker(mirror, outputs).end("FINISHED", call="call-1")
    assert list_runs(mirror)[1][0].info.status == "KILLED"
    assert messages == []
