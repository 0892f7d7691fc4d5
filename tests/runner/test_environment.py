"""What a record says of the place of its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.runner import environment

CASES = [
    ({}, None, None),
    ({"cpufreq/policy0/scaling_governor": "performance\n"}, "performance", None),
    (
        {
            "cpufreq/policy0/scaling_governor": "schedutil\n",
            "cpufreq/policy4/scaling_governor": "performance\n",
            "cpufreq/boost": "1\n",
        },
        "performance, schedutil",
        True,
    ),
    ({"cpufreq/boost": "0\n"}, None, False),
    ({"intel_pstate/no_turbo": "1\n"}, None, False),
    ({"intel_pstate/no_turbo": "0\n"}, None, True),
]


@pytest.mark.parametrize(("files", "governor", "turbo"), CASES)
def test_read_governor_and_turbo(
    files: dict[str, str], governor: str | None, turbo: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "CPU", tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert (environment.read_governor(), environment.read_turbo()) == (governor, turbo)
