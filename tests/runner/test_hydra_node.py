"""The node `hydra` of config files: what would run code or write elsewhere is refused before Hydra acts on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from lightexp.ablation.spec import read_spec
from lightexp.cli.main import main
from lightexp.core.errors import BadInput
from lightexp.runner.compose import add_config_dirs, clear_cache, compose_config

COPY = "{_target_: shutil.copyfile, src: /etc/hostname, dst: MARK}"
FACTORY = '{version: 1, root: {handlers: [h]}, handlers: {h: {"()": shutil.copyfile, src: /etc/hostname, dst: MARK}}}'
JOBLIB = "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
RAY = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
SWEEPER = "hydra_plugins.lightexp_sweeper.LightexpSweeper"
HOSTILE = {
    f"hydra: {{callbacks: {{x: {COPY}}}}}": "hydra.callbacks.x._target_ names 'shutil.copyfile'",
    f"mine: {COPY}\nhydra: {{callbacks: {{x: '${{mine}}'}}}}": "hydra.callbacks.x must be a mapping",
    "name: shutil.copyfile\nhydra: {callbacks: {x: {_target_: '${name}', src: /etc/hostname, dst: MARK}}}": (
        "hydra.callbacks.x._target_ names '${name}'"
    ),
    f"hydra: {{hydra_logging: {FACTORY}}}": "hydra.hydra_logging.root.handlers may be set on the command line",
    f"hydra: {{job_logging: {FACTORY}}}": "hydra.job_logging.root.handlers may be set on the command line",
    f"hydra: {{launcher: {COPY}}}": "hydra.launcher._target_ names",
    f"hydra: {{launcher: {{_target_: {JOBLIB}, n_jobs: {COPY}}}}}": "hydra.launcher: _target_ is not allowed within",
    f"hydra: {{launcher: {{_target_: {JOBLIB}, list: [{COPY}]}}}}": "hydra.launcher: _target_ is not allowed within",
    f"mine: {COPY}\nhydra: {{launcher: {{_target_: {JOBLIB}, n_jobs: '${{mine}}'}}}}": "hydra.launcher.n_jobs may be",
    f"hydra: {{launcher: {{_target_: {JOBLIB}, _partial_: true}}}}": "hydra.launcher: _partial_ is not allowed",
    f"hydra: {{launcher: {{_target_: {JOBLIB}, _args_: [1]}}}}": "hydra.launcher: _args_ is not allowed",
    f"hydra: {{launcher: {{_target_: {SLURM}, setup: [reboot]}}}}": "hydra.launcher.setup may be",
    f'hydra: {{launcher: {{_target_: {SLURM}, comment: "a\\nreboot"}}}}': "hydra.launcher: a text of several lines",
    f"hydra: {{launcher: {{_target_: {RAY}, ray: {{init: {{address: evil}}}}}}}}": "hydra.launcher.ray.init.address",
    f"hydra: {{sweeper: {COPY}}}": "hydra.sweeper._target_ names",
    f"hydra: {{sweeper: {{_target_: {SWEEPER}, pruner: {COPY}}}}}": "hydra.sweeper: _target_ is not allowed within",
    "hydra: {sweeper: {params: {hydra.job.env_set.A: b}}}": "hydra.sweeper.params.hydra.job.env_set.A may be",
    "hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}": "hydra.job.env_set.LD_PRELOAD may be",
    "hydra: {job: {name: ../../evil}}": "hydra.job.name must be no path",
    "hydra: {run: {dir: MARK}}": "hydra.run.dir may be",
    "hydra: {sweep: {dir: MARK}}": "hydra.sweep.dir may be",
    "hydra: {output_subdir: MARK}": "hydra.output_subdir may be",
    "hydra: {overrides: {hydra: [hydra.job.env_set.A=b]}}": "hydra.overrides.hydra is what the command line gives",
    "hydra: {searchpath: ['pkg://antigravity']}": "hydra.searchpath takes folders",
    'hydra: {help: {template: "a\\e[2Jb"}}': "control characters are not allowed",
}


@pytest.fixture(autouse=True)
def clear_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    clear_cache()
    yield
    add_config_dirs([])
    GlobalHydra.instance().clear()


def write_config(folder: Path, text: str) -> Path:
    """Write `trial.yaml`, a primary config of others: lightexp's own, changed by a text."""
    config = OmegaConf.create(text.replace("MARK", str(folder / "mark")))
    defaults: list[object] = ["run"]
    for name in ("launcher", "sweeper"):
        node = config.get("hydra", {}).get(name, {})
        if "_target_" in node:  # Hydra merges no other settings into those of its own launcher
            (folder / "hydra" / name).mkdir(parents=True)
            (folder / "hydra" / name / "evil.yaml").write_text(OmegaConf.to_yaml(config.hydra.pop(name)))
            defaults.append({f"override hydra/{name}": "evil"})
    (folder / "trial.yaml").write_text(OmegaConf.to_yaml({"defaults": [*defaults, "_self_"], **config}))
    return folder


def compose_trial(folder: Path, *overrides: str) -> None:
    """Compose `trial.yaml` as a launcher's job does."""
    add_config_dirs([str(folder)])
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    hydra.compose_config("trial", list(overrides), RunMode.MULTIRUN, with_log_configuration=False)


def plan(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Return the exit code and the errors of `lightexp run --plan`."""
    code = main(["run", "--plan", "tracking=none", *arguments])
    return code, capfd.readouterr().err


@pytest.mark.parametrize("text", HOSTILE, ids=HOSTILE.values())
def test_hydra_node_of_hostile_file_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        compose_trial(write_config(tmp_path, text))
    assert HOSTILE[text] in str(refused.value)


@pytest.mark.parametrize("index", [0, 3, 4])
def test_run_refuses_hostile_file(index: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text, message = list(HOSTILE.items())[index]
    write_config(tmp_path, text)
    code, errors = plan(capfd, f"--config-dir={tmp_path}", "--config-name=trial")
    assert (code, len(errors.splitlines())) == (2, 1), errors
    assert message in errors and "plugins=[" in errors
    assert not (tmp_path / "mark").exists()


def test_overrides_in_files_import_no_package(tmp_path: Path) -> None:
    override = "hydra.searchpath=[pkg://antigravity]"
    with pytest.raises(BadInput, match=r"hydra\.searchpath takes folders"):  # as a teacher's overrides are composed
        compose_config([override])
    table = {"claim": "c", "control": "a", "seeds": [0], "rows": {"a": ["pipeline=control", override]}}
    path = tmp_path / "table.yaml"
    path.write_text(OmegaConf.to_yaml(table))
    with pytest.raises(BadInput, match=r"hydra\.searchpath takes folders"):
        read_spec(path, [])
    assert "antigravity" not in sys.modules


def test_callback_of_package_needs_the_command_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_callbacks.py").write_text(
        "from hydra.experimental.callback import Callback\n"
        "class Hello(Callback):\n"
        "    def on_run_start(self, config, **kwargs): print('hello of the callback')\n"
        "class NoCallback: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    write_config(tmp_path, "plugins: [my_callbacks]\nhydra: {callbacks: {x: {_target_: my_callbacks.Hello}}}")
    arguments = [f"--config-dir={tmp_path}", "--config-name=trial"]
    assert "add plugins=[my_callbacks] to the command line" in plan(capfd, *arguments)[1]
    wrong = "hydra.callbacks.x._target_=my_callbacks.NoCallback"
    assert "must be a Callback of Hydra's" in plan(capfd, *arguments, "plugins=[my_callbacks]", wrong)[1]
    assert main(["run", "--plan", "tracking=none", *arguments, "plugins=[my_callbacks]"]) == 0
    assert "hello of the callback" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        (f"hydra: {{launcher: {{_target_: {JOBLIB}, n_jobs: 2}}}}", []),
        (f"hydra: {{launcher: {{_target_: {SLURM}, partition: cpu}}}}", []),
        ("", ["hydra/launcher=submitit_slurm", "hydra.launcher.setup=[module load cuda]"]),
        ("", ["hydra/launcher=ray", "hydra.launcher.ray.init.address=HEAD", "+hydra.launcher.ray.remote.num_cpus=4"]),
        ("", ["hydra/launcher=submitit_local", "hydra.job.env_copy=[HOME]", "hydra.sweep.dir=elsewhere"]),
        ("", ["hydra/sweeper=lightexp", "hydra.sweeper.trials=3", "+hydra.sweeper.space.seed='choice(1,2)'"]),
        ("hydra: {run: {dir: .}, output_subdir: null, job: {chdir: false}}", ["hydra/job_logging=default"]),
    ],
)  # fmt: skip
def test_hydra_node_accepts_known_classes(text: str, arguments: list[str], tmp_path: Path) -> None:
    compose_trial(write_config(tmp_path, text or "{}"), *arguments)
