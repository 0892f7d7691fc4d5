"""Secrets in URIs, and values that configs take from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightexp.core import secrets
from lightexp.core.errors import BadInput

MARK = "m4rk"
PLACES = [
    f"postgresql://me:{MARK}@h/db",
    f"postgresql://:{MARK}@h/db",
    f"postgresql+psycopg://h/db?user=me&password={MARK}",
    f"postgresql://h/db?sslmode=require&sslpassword={MARK}&application_name=x",
    f"http://{MARK}@host:5000/path",
    f"HTTPS://{MARK}:@host",
    f"https://me:{MARK}@[::1]:5000",
    f"https://me:{MARK}@[broken",
    f"https://host/data.npz?api_key={MARK}",
    f"https://host/data.npz?X-Amz-Signature={MARK}",
    f"https://host/container?sv=2026-01-01&sig={MARK}",
    f"https://host/#access_token={MARK}",
    f"https://host/?PassWord={MARK};a=b",
    f"https://host/?%70assword={MARK}",
    f"mssql://h/db?Pwd={MARK}",
]
HARMLESS = [
    "postgresql://me@host:5432/db?sslmode=verify-full&sslkey=/home/me/client.key",
    "sqlite:////home/me/mlflow.db",
    "http://127.0.0.1:5000/path?monkeys=1",
    "https://host/me:you@home",
    "key=value",
    "postgresql://me:${oc.env:PW}@h/db?password=${oc.env:PW,${oc.env:OTHER}}",
]


@pytest.mark.parametrize("uri", PLACES)
def test_secret_is_found_and_hidden_in_every_place(uri: str) -> None:
    assert secrets.find_secret(f"a.b='{uri}'") is not None
    shown = secrets.hide_secrets(f"cannot reach {uri}: no route")
    assert MARK not in shown and "***" in shown and shown.endswith(" no route")
    assert MARK not in str(BadInput(f"Received: {uri}"))


@pytest.mark.parametrize("uri", HARMLESS)
def test_harmless_text_stays(uri: str) -> None:
    assert secrets.find_secret(uri) is None
    assert secrets.hide_secrets(uri) == uri


def test_environment_is_kept_as_interpolation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHTEXP_TEST_A", "first-value")
    monkeypatch.setenv("LIGHTEXP_TEST_B", str(tmp_path))
    monkeypatch.setenv("LIGHTEXP_TEST_C", "x")
    name = "${oc.env:LIGHTEXP_TEST_A}"
    raw = {"a": f"u:{name}", "b": "${a}", "c": {"d": [name, 1]}, "e": "${c}", "f": "first-value", "n": "${oc.decode:5}"}
    raw |= {"path": "${oc.env:LIGHTEXP_TEST_B}", "short": "${oc.env:LIGHTEXP_TEST_C}"}
    value, content = "u:first-value", {"d": ["first-value", 1]}
    resolved = {"a": value, "b": value, "c": content, "e": content, "f": "first-value", "n": 5}
    resolved |= {"path": str(tmp_path), "short": "x"}
    assert secrets.keep_interpolations(raw, resolved) == {
        **raw,
        "b": f"u:{name}",
        "e": {"d": [name, 1]},
        "n": 5,
    }
    secrets.remember_environment(raw)
    shown = secrets.hide_secrets(f"first-value, first-values, x, {tmp_path}")
    assert shown == f"{name}, first-values, x, {tmp_path}"
