"""Hydra's launchers as the tests use them: on this host, without outside services, and without leftovers."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

PACKAGES = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher", "ray": "hydra_ray_launcher"}


@contextmanager
def use_launcher(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Provide the overrides that select a launcher of two processes."""
    if find_spec(f"hydra_plugins.{PACKAGES[name]}") is None:
        pytest.skip(f"the launcher {name} is missing: pip install 'lightexp[{name.partition('_')[0]}]'")
    overrides = [f"hydra/launcher={name}"]
    if name != "ray":
        yield overrides
        return
    folder = tempfile.mkdtemp(prefix="lightexp-ray-")  # short: paths of sockets are limited
    # Without a token Ray writes one into the user's home folder.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-this-test-alone-0123456789abcdef")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "300")  # a busy machine is no failure
    settings = {"num_cpus": 2, "include_dashboard": "false", "_temp_dir": folder, "_node_ip_address": "127.0.0.1"}
    try:
        yield [*overrides, *(f"+hydra.launcher.ray.init.{setting}={value}" for setting, value in settings.items())]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
