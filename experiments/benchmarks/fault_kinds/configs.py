"""Config files that want to run a command: none is run, and the file is refused in one line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fault_kinds.attempts import Attempt, Lost, run_command
from lightexp.core.store import remove_path
from lightexp.runner.compose import compose_config
from tests.fuzz import list_paths

TARGETS: dict[str, Any] = {
    "os.system": {"command": "touch MARK"},
    "subprocess.run": {"args": ["touch", "MARK"]},
    "subprocess.Popen": {"args": ["touch", "MARK"]},
    "shutil.copyfile": {"src": "/etc/hostname", "dst": "MARK"},
    "shutil.copy": {"src": "/etc/hostname", "dst": "MARK"},
    "os.mkdir": {"path": "MARK"},
    "builtins.open": {"file": "MARK", "mode": "w"},
    "builtins.exec": {"_args_": ["open('MARK', 'w')"]},
    "runpy.run_path": {"path_name": "MARK.py"},
    "importlib.import_module": {"name": "hostile_module"},
    "mlflow.utils.process._exec_cmd": {"cmd": ["touch", "MARK"]},
    "logging.FileHandler": {"filename": "MARK"},
    "numpy.savetxt": {"fname": "MARK", "X": [1.0]},
    "omegaconf.OmegaConf.save": {"config": {}, "f": "MARK"},
    "hydra.utils.call": {"config": {"_target_": "os.system", "command": "touch MARK"}},
    "hostile_module.run": {},
}
"""Functions that leave the file MARK if they are called, and their arguments."""
HYDRA_PLACES = (
    "hydra.callbacks.x",
    "hydra.callbacks.x",
    "hydra.job_logging.handlers.x",
    "hydra.job_logging.formatters.x",
    "hydra.hydra_logging.handlers.x",
    "hydra.launcher",
    "hydra.sweeper",
    "hydra.job.config",
    "hydra.help",
)
"""Nodes that Hydra acts on; it takes launchers and sweepers from files of their own."""
MODULE = "from pathlib import Path\ndef run(*args, **kwargs): Path('MARK').touch()\nrun()\n"
COMMANDS = (["run", "--plan"], ["run", "--plan"], ["run", "-m"])


@contextmanager
def prepare(folder: Path) -> Iterator[Attempt]:
    """Each attempt composes a config with a hostile node at a random place."""
    mark = folder / "mark"
    overrides = ["tracking=none", f"paths.outputs={folder / 'outputs'}"]
    tree = OmegaConf.to_container(compose_config(["pipeline=distill_prune_quantize"]))
    paths = [path for path in list_paths(tree) if not any(isinstance(part, int) for part in path)]
    places = [".".join(map(str, path)) for path in paths if path != ("paths", "outputs")]  # which the command sets
    for name in ("hostile_module.py", "mark.py"):  # a module of the config's folder
        (folder / name).write_text(MODULE.replace("MARK", str(mark)), encoding="utf-8")

    def attempt(rng: random.Random) -> None:
        place = rng.choice([*rng.sample(HYDRA_PLACES, 2), rng.choice(places), f"{rng.choice(places)}.x"])
        remove_path(mark)
        _write_config(folder, place, _make_node(rng, mark), rng)
        command = rng.choice(COMMANDS)
        code = run_command(*command, *overrides, f"--config-dir={folder}", "--config-name=trial")
        if mark.exists():
            raise Lost(f"{place} has run its command")
        if code == 0:
            raise Lost(f"{place} is accepted")

    yield attempt


def _write_config(folder: Path, place: str, node: Any, rng: random.Random) -> None:
    """Write `trial.yaml`, a config with a node at a place."""
    name = place.removeprefix("hydra.")
    if name in ("launcher", "sweeper"):
        group = folder / "hydra" / name
        group.mkdir(parents=True, exist_ok=True)
        (group / "hostile.yaml").write_text(OmegaConf.to_yaml(node), encoding="utf-8")
        config = OmegaConf.create({"defaults": ["run", {f"override hydra/{name}": "hostile"}, "_self_"]})
    else:
        config = OmegaConf.create({"defaults": ["run", "_self_"]})
        OmegaConf.update(config, place, node, force_add=True)
        if rng.random() < 0.2:  # as the name of a node elsewhere
            OmegaConf.update(config, "elsewhere", node, force_add=True)
            OmegaConf.update(config, place, "${elsewhere}", force_add=True)
    (folder / "trial.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")


def _make_node(rng: random.Random, mark: Path) -> Any:
    target = rng.choice(list(TARGETS))
    arguments = _insert(TARGETS[target], mark)
    form = rng.choice(["node", "node", "node", "partial", "factory", "class", "list", "nested"])
    node = {"_target_": target, **arguments}
    return {
        "node": node,
        "partial": {**node, "_partial_": True},
        "factory": {"()": target, **arguments},
        "class": {"class": target, **arguments},
        "list": {"inner": [node]},
        "nested": {"_target_": "builtins.dict", "inner": node},
    }[form]


def _insert(value: Any, mark: Path) -> Any:
    """Return arguments with the path of the file that shows a call."""
    if isinstance(value, dict):
        return {name: _insert(inner, mark) for name, inner in value.items()}
    if isinstance(value, list):
        return [_insert(inner, mark) for inner in value]
    return value.replace("MARK", str(mark)) if isinstance(value, str) else value
