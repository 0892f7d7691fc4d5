"""Selection of Hydra's launchers by overrides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.core.errors import BadInput
from lightexp.execution.ray_cluster import RayCluster
from lightexp.runner.launcher import connect_grid, drop_sweeps, select_launcher, split_hydra_overrides


@pytest.fixture(autouse=True)
def clear_hydra() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def test_split_hydra_overrides_keeps_the_order() -> None:
    overrides = ["a=1", "+hydra.launcher.n_jobs=2", "hydra/launcher=joblib", "~b", "hydration=3"]
    assert split_hydra_overrides(overrides) == (
        ["+hydra.launcher.n_jobs=2", "hydra/launcher=joblib"],
        ["a=1", "~b", "hydration=3"],
    )


def test_drop_sweeps_keeps_single_values() -> None:
    assert drop_sweeps(["a=1,2", "b=[1,2]", "c=choice(1,2)", "d=interval(0,1)", "e='1,2'"]) == ["b=[1,2]", "e='1,2'"]


def test_basic_launcher_runs_in_this_process(tmp_path: Path) -> None:
    assert select_launcher(["hydra/launcher=basic"], [], tmp_path / "it's a \\ folder").is_in_process


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hydra/launcher=joblob", "hydra/launcher=joblob: no such choice, did you mean"),
        ("hydra.launcher.n_job=2", "hydra.launcher.n_job"),
    ],
)
def test_wrong_launcher_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        select_launcher([override], [], tmp_path)
    assert message in str(refused.value)


def test_unknown_setting_of_a_launcher_names_the_nearest(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    with pytest.raises(BadInput, match=r"^hydra\.launcher\.n_job is not a setting: did you mean 'n_jobs'\? \(in hydra"):
        select_launcher(["hydra/launcher=joblib", "hydra.launcher.n_job=2"], [], tmp_path)


def test_grid_needs_nodes_that_see_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    connected: list[RayCluster] = []

    def connect(self: RayCluster, folder: Path) -> list[str]:
        connected.append(self)
        assert folder == Path.cwd()
        return ["10.0.0.2"]

    monkeypatch.setattr(RayCluster, "connect", connect)
    place = "hydra.launcher.ray"
    cluster = ["hydra/launcher=ray", f"{place}.init.address=HEAD:6379", f"+{place}.remote.num_cpus=2"]
    with pytest.raises(BadInput, match=r"^Ray's nodes 10\.0\.0\.2 do not see .*, which the jobs of a grid need\."):
        connect_grid(["-m", "seed=0,1", *cluster])
    assert connected == [RayCluster({"address": "HEAD:6379"}, {"num_cpus": 2})]
    connect_grid(["-m", "seed=0,1", "hydra/launcher=ray"])  # which Ray starts by itself
    assert len(connected) == 1
