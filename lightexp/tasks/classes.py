"""Classes that a task's settings name by number or by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lightexp.core.errors import BadInput, suggest_nearest

if TYPE_CHECKING:
    from lightexp.core.data import Data

ClassName = Annotated[int, Field(ge=0)] | str
"""The number of a class, from 0, or its name."""


def find_classes(classes: Sequence[ClassName], data: Data, setting: str) -> list[int]:
    """Return the numbers of classes of a data set.

    Args:
        classes: Their numbers or names.
        data: The data set.
        setting: The setting that names them, for messages.

    Raises:
        BadInput: If there is no such class.
    """
    numbers = []
    for name in classes:
        if isinstance(name, str) and name not in data.names:
            known = suggest_nearest(name, list(data.names)) if data.names else "its classes have no names; number them."
            raise BadInput(f"{setting}: {data.name} has no class {name}: {known}")
        number = data.names.index(name) if isinstance(name, str) else name
        if number >= data.classes:
            raise BadInput(f"{setting}: {data.name} has no class {number}. It has {data.classes}, from 0.")
        numbers.append(number)
    return numbers
