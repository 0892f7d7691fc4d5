"""Tests of silencing file descriptor 2."""

from __future__ import annotations

import os

import pytest

from lightexp.backend.stderr import silence_stderr
from lightexp.core.errors import RunFailed


def write_and_raise(output: bytes, error: Exception) -> None:
    os.write(2, output)
    raise error


def test_silence_stderr_discards_output(capfd: pytest.CaptureFixture[str]) -> None:
    with silence_stderr():
        os.write(2, b"hidden")
    os.write(2, b"visible")
    assert capfd.readouterr().err == "visible"


def test_silence_stderr_keeps_output_of_unexpected_errors(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), silence_stderr():
        write_and_raise(b"a hint", ZeroDivisionError())
    assert capfd.readouterr().err == "a hint"


def test_silence_stderr_discards_output_of_lightexp_errors(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunFailed), silence_stderr():
        write_and_raise(b"hidden", RunFailed("failed"))
    assert capfd.readouterr().err == ""


def test_silence_stderr_can_be_nested(capfd: pytest.CaptureFixture[str]) -> None:
    with silence_stderr():
        with silence_stderr():
            os.write(2, b"hidden")
        os.write(2, b"hidden")
    assert capfd.readouterr().err == ""
