"""What a stage tells about its progress."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receiver of a stage's progress."""

    def step(self, done: float, total: float, **figures: float) -> None:
        """Show that `done` of `total` epochs are over, with the latest values (loss, accuracy, sparsity)."""

    def say(self, message: str) -> None:
        """Show a message where progress cannot be counted."""
