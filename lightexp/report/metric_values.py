"""Values of metrics by name, in a quarter of the memory that a dictionary takes."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from typing import TypeVar, overload

_Default = TypeVar("_Default")


class MetricValues(Mapping[str, float]):
    """An immutable mapping whose names are kept once for all stages that have the same ones.

    Example:
        >>> values = MetricValues({"accuracy/test": 0, "size/file_bytes": 1}, array("d", [0.9, 512.0]))
        >>> values["size/file_bytes"], values.get("loss/test"), dict(values)
        (512.0, None, {'accuracy/test': 0.9, 'size/file_bytes': 512.0})
    """

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: array[float]) -> None:
        """Keep names and values.

        Args:
            places: The place of each name in `values`, in their order.
            values: The values.
        """
        self._places = places
        self._values = values

    def __getitem__(self, name: str) -> float:
        return self._values[self._places[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._values)

    @overload
    def get(self, name: str, /) -> float | None: ...

    @overload
    def get(self, name: str, default: float | _Default, /) -> float | _Default: ...

    def get(self, name: str, default: float | _Default | None = None, /) -> float | _Default | None:
        """Return a value, or `default` for an absent name."""
        place = self._places.get(name)
        return default if place is None else self._values[place]
