"""Studies on a real Ray cluster: raylets on loopback that share PostgreSQL, MLflow and S3, and no folder."""

from __future__ import annotations

import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.documents import ROOT
from tests.object_server import serve_s3
from tests.ray_nodes import RayNode, RayNodes, find_processes, start_ray_nodes
from tests.search.studies import SECONDS, Studies, is_alive, wait_until
from tests.search.test_postgres import Server, list_trials
from tests.system_packages import require_postgresql

pytest.importorskip("s3fs")

GUIDE = ROOT / "lightexp" / "guides" / "cluster.md"
PLACES = ("hydra", "+hydra", "search.storage", "tracking.uri", "store.remote")
"""Settings of the guide's commands that the tests take over; the others are the work, which is tiny here."""
WORKERS = ("lightexp.search.worker", "lightexp.ablation.worker")


@dataclass(frozen=True)
class Cluster:
    """Nodes and servers, as commands name them.

    Attributes:
        nodes: The nodes.
        folder: In which every node and command has its folder.
        places: Replacements for the host names of the guide.
        database: The database server.
    """

    nodes: RayNodes
    folder: Path
    places: dict[str, str]
    database: Server

    def list_overrides(self, command: str) -> list[str]:
        """Return what the guide's command for this cluster says of places, with the names of this one's hosts."""
        text = GUIDE.read_text(encoding="utf-8").partition("\n## Ray\n")[2].replace("\\\n", " ")
        line = next(line for line in text.splitlines() if line.startswith(f"lightexp {command} "))
        for name, place in self.places.items():
            line = line.replace(name, place)
        return [word for word in line.split() if word.startswith(PLACES)]

    def list_trials(self, study: str) -> list[FrozenTrial]:
        """Return the trials of a study that have been started, by number."""
        return [trial for trial in list_trials(self.database, study) if trial.state is not TrialState.WAITING]

    def find_workers(self, node: RayNode) -> list[int]:
        """Return the workers of a node that run."""
        return [pid for pid in find_processes(f"TMPDIR={node.state}") if is_worker(pid) and is_alive(pid)]


def is_worker(pid: int) -> bool:
    try:
        command = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode()
    except OSError:
        return False
    return any(module in command for module in WORKERS)


@pytest.fixture(scope="module")
def cluster(mlflow_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of one CPU, and a database, a tracking server and a bucket."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "s3").mkdir()
    programs = require_postgresql()
    with serve_s3(folder / "s3") as port, tempfile.TemporaryDirectory(prefix="lightexp-postgres-") as data:
        database = Server(Path(data), programs)
        database.start()
        s3 = f"http://127.0.0.1:{port}"
        urllib.request.urlopen(urllib.request.Request(f"{s3}/bucket", method="PUT")).close()
        environment = {**Studies(folder).environment(), "AWS_ENDPOINT_URL": s3, "AWS_DEFAULT_REGION": "us-east-1"}
        environment |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
        try:
            with start_ray_nodes(folder, environment) as nodes:
                places = {
                    "HEAD:6379": nodes.address,
                    "num_cpus=4": "num_cpus=1",
                    "postgresql://me@db.example.org/studies": database.url,
                    "http://mlflow.example.org:5000": mlflow_server,
                    "s3://BUCKET/PREFIX": "s3://bucket/prefix",
                }
                nodes.start("head", cpus=1)
                nodes.start("first", cpus=1)
                yield Cluster(nodes, folder, places, database)
        finally:
            database.stop()


class ClusterStudies(Studies):
    """Starts `lightexp search` in a folder that no node works in, as the guide does."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        """Write the data set."""
        folder = cluster.folder / name
        folder.mkdir()
        super().__init__(folder, tracking="mlflow")
        self._environment = cluster.nodes.environment
        self.overrides += [f"search.study={name}", *cluster.list_overrides("search")]

    def environment(self) -> dict[str, str]:
        """Return that of the cluster."""
        return dict(self._environment)


def test_study_survives_the_death_of_a_node(cluster: Cluster) -> None:
    study = ClusterStudies(cluster, "survives")
    head, first = cluster.nodes.nodes
    process = study.start("search.workers=3", "search.trials=10", f"{SECONDS}=4")
    wait_until(lambda: cluster.find_workers(head) and cluster.find_workers(first), process)
    wait_until(lambda: [t.state for t in cluster.list_trials("survives")] == [TrialState.RUNNING] * 2, process)
    assert [len(cluster.find_workers(node)) for node in (head, first)] == [1, 1]  # three workers want a CPU each
    first.kill()
    second = cluster.nodes.start("second", cpus=1)
    wait_until(lambda: cluster.find_workers(second), process)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "Ray's nodes have room for 2 of 3 workers (CPU=1 each)" in err
    trials = cluster.list_trials("survives")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 10
    assert [trial.number for trial in trials if trial.user_attrs.get("starts", 1) == 2]  # those of the dead node
    folders = {Path(trial.user_attrs["outcome"]["folder"]).relative_to(cluster.folder).parts[0] for trial in trials}
    assert folders <= {"head", "first", "second"} and {"head", "second"} <= folders
    assert not (study.outputs / "searches" / "survives" / "trials").exists()
    assert len(study.read_front("survives")["front"]) == 10
