"""Invariants: what a stage makes true of a model and a later stage may destroy, such as its zeros."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum, auto


class InvariantFamily(Enum):
    """What a stage has to leave as it is for all invariants of the family to survive."""

    ZEROS = auto()
    """The zeros of the kernels."""
    SHARED_VALUES = auto()
    """Which weights of a kernel are equal."""
    GRID = auto()
    """The step of a kernel, or of each output channel, of which all weights are multiples."""
    DATA_TYPES = auto()
    """The data types of the flatbuffer's tensors."""
    OTHER = auto()
    """Anything else: a plugin's own kind."""


class InvariantKind(StrEnum):
    """The kinds of invariants, by the words that records and `pipeline.waive` use."""

    SPARSITY = "sparsity"
    """Share of zeros."""
    N_OF_M = "n_m"
    """At most n non-zero weights among m neighbours along the inputs."""
    BLOCKS = "blocks"
    """Share of blocks that hold only zeros."""
    CODEBOOK = "codebook"
    """Number of different values in a kernel."""
    GRID = "grid"
    """Bits of the multiples of a step that the weights of a kernel are; 0 without a limit."""
    DATA_TYPE = "dtype"
    """Data types of the weights, inputs and outputs."""


_FAMILIES = {
    InvariantKind.SPARSITY: InvariantFamily.ZEROS,
    InvariantKind.N_OF_M: InvariantFamily.ZEROS,
    InvariantKind.BLOCKS: InvariantFamily.ZEROS,
    InvariantKind.CODEBOOK: InvariantFamily.SHARED_VALUES,
    InvariantKind.GRID: InvariantFamily.GRID,
    InvariantKind.DATA_TYPE: InvariantFamily.DATA_TYPES,
}


@dataclass(frozen=True)
class Invariant:
    """Something true of an artifact that later stages may destroy.

    Attributes:
        kind: One of `InvariantKind`, or a plugin's own word.
        value: How much of it, in the kind's own unit. Defaults to 0, for kinds without a degree.

    Example:
        >>> Invariant("sparsity", 0.8).family is InvariantFamily.ZEROS
        True
    """

    kind: str
    value: float = 0.0

    @property
    def family(self) -> InvariantFamily:
        """The family of the kind; `OTHER` for a plugin's own kind."""
        return _FAMILIES[InvariantKind(self.kind)] if self.kind in _FAMILIES else InvariantFamily.OTHER
