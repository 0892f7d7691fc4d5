"""What a model can be read from: a regular file, or the folder of a SavedModel."""

from __future__ import annotations

from pathlib import Path

from lightexp.core.regular_files import open_regular


def find_model_problem(path: Path, trust: bool) -> str | None:
    """Return why no model can be read from a path, with what to do, or None; reads nothing but names.

    Args:
        path: The file, or a SavedModel's folder.
        trust: Whether a SavedModel may be read, which can run code.
    """
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            return f"{path} is a folder without saved_model.pb, so no SavedModel. Set model.path=FILE"
        if not trust:
            return (
                f"{path} is a SavedModel, which can run code of its own. "
                "If you know where it is from, set model.trust=true"
            )
        return None
    try:
        open_regular(path).close()
    except FileNotFoundError:
        return f"{path} does not exist. Set model.path=FILE"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}. Set model.path=FILE"
    return None
