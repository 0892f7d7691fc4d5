"""Every argument and setting that takes a path, and files at known places: pipes, devices and loops among them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from lightexp.core.errors import BadInput
from tests.path_arguments import PATH_ARGUMENTS, plan
from tests.special_files import IRREGULAR, SPECIAL_FILES, deadline


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("kind", SPECIAL_FILES)
@pytest.mark.parametrize("case", PATH_ARGUMENTS)
def test_path_that_is_no_file_is_refused(
    case: str, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name, attempt = PATH_ARGUMENTS[case]
    (tmp_path / "place").mkdir()
    path = tmp_path / "place" / name
    SPECIAL_FILES[kind](path)
    with deadline():
        try:
            code = attempt(path)
            message = capfd.readouterr().err
        except BadInput as error:
            code, message = error.exit_code, f"lightexp: {error}\n"
    assert "traceback" not in message and "[Errno" not in message, message
    if kind in IRREGULAR:
        assert code == 2 and len(message.splitlines()) == 1, (code, message)
        assert path.name in message or path.parent.name in message


OPTIONAL = (
    "dataset.path, an image",
    "paths.outputs",
    "search.storage",
    "export RUN, model",
    "tracking.uri",
    "ui",
    "track sync",
)
"""Paths that need not exist, or whose folder a command makes."""


@pytest.mark.parametrize("case", [case for case in PATH_ARGUMENTS if case not in OPTIONAL])
def test_absent_path_is_named_in_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name, attempt = PATH_ARGUMENTS[case]
    (tmp_path / "place").mkdir()
    try:
        code = attempt(tmp_path / "place" / name)
        message = capfd.readouterr().err
    except BadInput as error:
        code, message = error.exit_code, f"lightexp: {error}\n"
    assert code == 2 and len(message.splitlines()) == 1, (code, message)
    assert "[Errno" not in message
    assert name in message or "place" in message


@pytest.mark.parametrize("name", ["other.pb", "saved_model.pb"])
def test_refused_folder_is_not_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 43)  # which takes no room on the disk, and hours to read
    message = r"is a (SavedModel, which can run code|folder without saved_model\.pb)"
    with deadline(), pytest.raises(BadInput, match=message):
        plan("model=from_file", "model.path=FOLDER")(tmp_path / name)
