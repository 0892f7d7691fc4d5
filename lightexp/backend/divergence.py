"""Stop a training that has diverged: its loss or its weights are not finite, or its loss ends beyond all reason."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lightexp.core.errors import RunFailed
from lightexp.core.training import Training

MAX_FINAL_LOSS = 2.0**24
"""Nats per example; float32 logits of this size cannot differ by 1, so that softmax has no gradient to learn from."""


def require_finite_loss(loss: float, epoch: int, settings: Training) -> None:
    """Check the loss of an epoch.

    Args:
        loss: The loss.
        epoch: The epoch, counted from 0.
        settings: The training's settings.

    Raises:
        RunFailed: If the loss is not finite.
    """
    if not math.isfinite(loss):
        raise _make_error(f"The loss is {loss} in epoch {epoch + 1}", settings)


def require_finite_weights(variables: Iterable[Any], epoch: int, settings: Training) -> None:
    """Check the weights after an epoch; a loss can be finite without them, since ReLU may return 0 for NaN.

    Args:
        variables: The model's variables.
        epoch: The epoch, counted from 0.
        settings: The training's settings.

    Raises:
        RunFailed: If a weight is NaN or infinite; names it.
    """
    for variable in variables:
        if not np.isfinite(variable.numpy()).all():
            raise _make_error(f"'{variable.name}' holds NaN or infinity after epoch {epoch + 1}", settings)


def require_learnt(val_losses: Sequence[float], settings: Training) -> None:
    """Check the validation loss that a finished training ends with.

    Args:
        val_losses: The validation loss after each epoch.
        settings: The training's settings.

    Raises:
        RunFailed: If the loss is `MAX_FINAL_LOSS` or more.
    """
    loss = min(val_losses) if settings.early_stopping else val_losses[-1]  # early stopping restores the best epoch
    if loss >= MAX_FINAL_LOSS:
        raise _make_error(f"The training has diverged: its validation loss ends at {loss:.1e}", settings)


def _make_error(problem: str, settings: Training) -> RunFailed:
    return RunFailed(
        f"{problem}. Received learning_rate={settings.learning_rate:g}; try a tenth of it, and look for extreme values "
        "in the data and in the weights that the training started from."
    )
