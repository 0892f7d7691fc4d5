"""Studies and ablations on real Ray: raylets on loopback that share PostgreSQL, MLflow and S3, and no folder."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.version import __version__
from lightexp.tracking import stores
from tests.documents import ROOT
from tests.object_server import serve_s3
from tests.ray_nodes import RayNode, RayNodes, find_processes, start_ray_nodes
from tests.run_records import load_records
from tests.search.postgres_server import Server
from tests.search.studies import COMMAND, PATIENCE_S, SECONDS, Studies, is_alive, wait_until
from tests.search.test_postgres import list_trials
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

    @property
    def gate(self) -> Path:
        """The file that lets all stages end, which wait until it exists."""
        return self.folder / "gate"

    def count_running(self, study: str) -> int:
        """Return the number of a study's trials that run."""
        return sum(trial.state is TrialState.RUNNING for trial in self.list_trials(study))

    def list_trials(self, study: str) -> list[FrozenTrial]:
        """Return the trials of a study that have been started, by number."""
        return [trial for trial in list_trials(self.database, study) if trial.state is not TrialState.WAITING]

    @property
    def living_nodes(self) -> list[RayNode]:
        """The nodes that have not been killed."""
        return [node for node in self.nodes.nodes if node.is_alive]

    def list_mlflow_runs(self) -> list[Any]:
        """Return all runs in MLflow, the newest first."""
        client = stores.import_mlflow().MlflowClient(tracking_uri=self.places["http://mlflow.example.org:5000"])
        return list(client.search_runs([client.get_experiment_by_name("lightexp").experiment_id]))

    def find_workers(self, node: RayNode) -> list[int]:
        """Return the workers of a node that run."""
        return [pid for pid in find_processes(f"TMPDIR={node.state}") if is_worker(pid) and is_alive(pid)]


def is_worker(pid: int) -> bool:
    try:
        command = (Path("/proc") / str(pid) / "cmdline").read_bytes().decode()
    except OSError:
        return False
    return any(module in command for module in WORKERS)


def list_runs(node: RayNode) -> list[Path]:
    return sorted((node.folder / "outputs" / "runs").glob("*/record.json"))


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
        environment["FAULTY_GATE"] = str(folder / "gate")
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

    def __init__(self, cluster: Cluster, name: str, tracking: str = "none") -> None:
        """Write the data set."""
        folder = cluster.folder / name
        folder.mkdir()
        cluster.gate.unlink(missing_ok=True)
        super().__init__(folder, tracking)
        self._environment = cluster.nodes.environment
        self.overrides += [f"search.study={name}", *cluster.list_overrides("search")]
        if tracking == "none":
            self.overrides = [text for text in self.overrides if not text.startswith("tracking.uri=")]

    def environment(self) -> dict[str, str]:
        """Return that of the cluster."""
        return dict(self._environment)


def test_study_survives_the_death_of_a_node(cluster: Cluster) -> None:
    study = ClusterStudies(cluster, "survives", "mlflow")
    head, first = cluster.nodes.nodes
    process = study.start("search.workers=3", "search.trials=6", f"{SECONDS}=900")
    wait_until(lambda: cluster.count_running("survives") == 2, process)
    assert [len(cluster.find_workers(node)) for node in (head, first)] == [1, 1]  # three workers want a CPU each
    cluster.nodes.start("second", cpus=1)
    wait_until(lambda: cluster.count_running("survives") == 3, process)
    first.kill()
    cluster.gate.touch()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert "Ray's nodes have room for 2 of 3 workers (CPU=1 each)" in err
    trials = cluster.list_trials("survives")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
    assert [trial.user_attrs.get("starts", 1) for trial in trials].count(2) == 1  # that of the dead node
    folders = {Path(trial.user_attrs["outcome"]["folder"]).relative_to(cluster.folder).parts[0] for trial in trials}
    assert folders == {"head", "second"}
    assert not (study.outputs / "searches" / "survives" / "trials").exists()
    assert len(study.read_front("survives")["front"]) == 6
    assert len(cluster.list_mlflow_runs()) == 7  # the study and its trials


def test_workers_end_with_the_command(cluster: Cluster) -> None:
    study, nodes = ClusterStudies(cluster, "ends", "mlflow"), cluster.living_nodes
    overrides = ["search.workers=2", "search.trials=4", f"{SECONDS}=900"]
    process = study.start(*overrides)
    wait_until(lambda: all(cluster.find_workers(node) for node in nodes), process)
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while any(map(cluster.find_workers, nodes)):
        assert time.monotonic() < end
        time.sleep(0.2)
    process = study.start(*overrides, "+hydra.launcher.ray.remote.num_gpus=1")
    expected = "No node of Ray has room for a worker (CPU=1, GPU=1): the largest has CPU=1, GPU=0."
    wait_until(lambda: expected in process.stderr.readline(), process)
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: "being finished" in process.stderr.readline(), process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert not cluster.list_trials("ends")  # all are in the queue again


def test_ablation_survives_the_death_of_a_node(cluster: Cluster) -> None:
    study = ClusterStudies(cluster, "ablates", "mlflow")
    base = [text for text in study.overrides if not text.startswith(("search", "pipeline", "hydra", "+hydra"))]
    path = study.folder / "10_cluster.yaml"
    row = "+pipeline.stages.faulty={_target_:faulty.faulty.Faulty,level:%s,seconds:900,mode:%s}"
    rows = {f"level_{n}": [row % (n / 10, "fine"), "pipeline.order=[train,faulty]"] for n in range(1, 4)}
    rows["fails"] = [row % (0.5, "raise"), "pipeline.order=[train,faulty]"]
    latency = ["+measure.latency={_target_:lightexp.metrics.latency.Latency,warmup:1,runs:20}"]
    values = {"claim": "None.", "control": "control", "seeds": [0], "rows": {"control": latency, **rows}}
    path.write_text(yaml.safe_dump({**values, "base": [*base, "pipeline=control", "measure=quick"]}, sort_keys=False))
    head, second = cluster.living_nodes
    command = [str(COMMAND), "ablate", str(path), "workers=3", *cluster.list_overrides("ablate")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=study.folder, env=study.environment(), start_new_session=True, **pipes)
    wait_until(lambda: list_runs(head) and list_runs(second), process)
    third = cluster.nodes.start("third", cpus=1)
    wait_until(lambda: list_runs(third), process)
    second.kill()
    cluster.gate.touch()
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, err
    assert err.count("it broke") == 1 and "lightexp: fails, seed 0: " in err
    records = load_records(study.outputs)[0]
    assert sorted(r.tags["row"] for r in records) == ["control", *(f"level_{n}" for n in range(1, 4))], out + err
    assert "latency/p50_us" in next(r for r in records if r.tags["row"] == "control").metrics
    assert "level_3" in out
    finished = [run for run in cluster.list_mlflow_runs() if run.info.status == "FINISHED"]
    (parent,) = (run.info.run_id for run in cluster.list_mlflow_runs() if run.info.run_name == f"ablation {path.stem}")
    row_runs = [run for run in cluster.list_mlflow_runs() if "lightexp.row" in run.data.tags]
    shown = [run for run in finished if "lightexp.row" in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in row_runs} == {parent}
    assert "RUNNING" not in {run.info.status for run in row_runs}  # the killed node's run is closed
    assert sorted(run.data.tags["lightexp.row"] for run in shown) == sorted(r.tags["row"] for r in records)
    assert not list(study.outputs.glob("runs/*/model.tflite"))  # they stay where they were made


def test_other_versions_and_stores_are_refused(cluster: Cluster) -> None:
    text = (
        "import pathlib, sys; import ray; from lightexp.core import version\n"
        "if sys.argv[1] == 'ray': ray.__version__ = '9.9'\n"
        "if sys.argv[1] == 'lightexp': version.__version__ = '9.9'\n"
        "from lightexp.execution.ray_cluster import RayCluster\n"
        "RayCluster({'address': sys.argv[2]}, {}).connect(pathlib.Path.cwd(), 's3://absent/prefix')"
    )
    errors = []
    for package in ("lightexp", "ray", "none"):
        command = [sys.executable, "-c", text, package, cluster.nodes.address]
        finished = subprocess.run(
            command, env=cluster.nodes.environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
        errors.append(finished.stderr.splitlines()[-1])
    assert re.search(f"Ray's node 127.0.0.. has lightexp {__version__}, {platform.node()} 9.9. I", errors[0]), errors[0]
    assert re.search(r"cannot be used: Version mismatch: The cluster was started with: .* Ray: 9\.9 ", errors[1])
    assert re.search(
        r"Ray's node 127.0.0..: s3://absent/prefix: there is no such bucket\. .* 'ray start'\.$", errors[2]
    )
