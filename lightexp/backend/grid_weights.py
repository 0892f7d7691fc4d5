"""Weights on learned grids: train latent weights of which the model computes with rounded multiples of a step.

Rounding is a straight-through estimator, and the step of each grid is learned (Esser et al. 2020, LSQ, arXiv
1902.08153). The weights' estimated bits are part of the loss (Wiedemann et al. 2019, arXiv 1812.07520; Oktay et al.
2020, arXiv 1906.06624), through a penalty that grows with the logarithm of a weight in steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.backend.rate_control import RateControl
from lightexp.backend.session import import_tensorflow
from lightexp.core import compat

tf = import_tensorflow()

_DEFAULT_STEP = 1 / 16  # of a variable whose layer has no weights to take a step from
_SMALLEST_STEP = 1e-12
_JOINED_SIZE = 8192  # most weights of a variable that is computed together with others
_STEP_CANDIDATES = np.linspace(0.2, 1.0, 41)  # shares of the step that just spans a kernel
STEP_SPEED = 5.0
"""Relative change of a step when its variable changes by the learning rate."""


@dataclass(frozen=True)
class GridTensor:
    """A variable whose values are to be multiples of a step.

    Attributes:
        name: Its name.
        variable: The model's variable.
        step: First step: a scalar array, or one that broadcasts to the variable, with a step per output channel.
        limit: Largest multiple, positive and negative; None does not limit it.
        price: Factor on the price of a bit.
    """

    name: str
    variable: Any
    step: NDArray[np.float32]
    limit: int | None = None
    price: float = 1.0


def list_grid_tensors(
    model: Any, prices: Mapping[str, float], limits: Mapping[str, int | None], per_channel: bool
) -> list[GridTensor]:
    """Return the trainable variables of some layers, each with a grid that fits its present values.

    Args:
        model: The model.
        prices: Factors on the price of a bit by layer name; models inside the model count as layers. Normalisation
            layers inside them are left out.
        limits: Largest multiple that a weight of a kernel may be, by layer name; None does not limit it. Biases have no
            limit.
        per_channel: Whether each output channel of a kernel has a step of its own.
    """
    tensors: list[GridTensor] = []
    visited: set[Any] = set()
    for name, price in prices.items():
        for layer in reversed(compat.list_keras_layers(model.get_layer(name))):  # layers before those that contain them
            step = np.array(_DEFAULT_STEP, np.float32)
            variables = [variable for variable in layer.trainable_variables if variable.ref() not in visited]
            visited.update(variable.ref() for variable in variables)
            if type(layer).__name__.endswith("Normalization"):
                continue
            for variable in variables:
                limit = None
                if len(variable.shape) > 1:
                    limit = limits[name]
                    axes = _list_shared_axes(layer, variable) if per_channel else None
                    step = _choose_step(variable.numpy(), axes, limit, bool(price))
                own = step if len(variable.shape) > 1 else step.mean(keepdims=False)  # a bias takes its kernel's step
                title = variable.name.split(":")[0]
                tensors.append(GridTensor(title, variable, np.asarray(own), limit, price))
    return tensors


def _list_shared_axes(layer: Any, variable: Any) -> tuple[int, ...]:
    """Return the axes of a kernel over which an output channel shares a step."""
    rank = len(variable.shape)
    if variable.name.split("/")[-1].startswith("depthwise"):
        return tuple(range(rank - 2))
    channel = rank - (2 if type(layer).__name__.endswith("Transpose") else 1)
    return tuple(axis for axis in range(rank) if axis != channel)


def _choose_step(
    kernel: NDArray[np.float32], axes: tuple[int, ...] | None, limit: int | None, is_priced: bool
) -> NDArray[np.float32]:
    """Return the first step of a kernel: its deviation, or the step with the least squared rounding error.

    The deviation is near the step that a price leads to. It is taken unless bits are free, or too few for it.

    Args:
        kernel: The kernel.
        axes: Axes that share a step; None is all of them.
        limit: Largest multiple of the step, or None.
        is_priced: Whether bits have a price.
    """
    keep = axes is not None
    deviation = kernel.std(axis=axes, keepdims=keep)
    largest = np.abs(kernel).max(axis=axes, keepdims=keep)
    step = deviation
    if limit and not (is_priced and (deviation * limit >= largest).all()):
        candidates = np.stack([np.maximum(share * largest / limit, _SMALLEST_STEP) for share in _STEP_CANDIDATES])
        rounded = [np.clip(np.round(kernel / c), -limit, limit) * c for c in candidates]
        errors = np.stack([np.square(r - kernel).sum(axis=axes, keepdims=keep) for r in rounded])
        step = np.take_along_axis(candidates, np.argmin(errors, axis=0)[None], axis=0)[0]
    return np.where(step > _SMALLEST_STEP, step, _DEFAULT_STEP).astype(np.float32)


class GridWeights:
    """Latent weights and learned steps of a model; a `lightexp.backend.training.Reparameterization`."""

    def __init__(
        self, tensors: Sequence[GridTensor], rate: float, ramp_steps: int, control: RateControl | None = None
    ) -> None:
        """Take the variables' present values as latent weights.

        Args:
            tensors: The variables on a grid.
            rate: Loss that a bit a weight costs, on average over all these weights.
            ramp_steps: Training steps over which the price rises to `rate`, from 0.
            control: Changes the price after each epoch. Defaults to None: the price is `rate`.
        """
        self._variables = [tensor.variable for tensor in tensors]
        sizes = [int(tf.size(variable)) for variable in self._variables]
        self._weight_count = sum(sizes)
        small = [tensor for tensor, size in zip(tensors, sizes, strict=True) if size <= _JOINED_SIZE]
        large = [tensor for tensor, size in zip(tensors, sizes, strict=True) if size > _JOINED_SIZE]
        self._parts = [_Part([tensor]) for tensor in large] + ([_Part(small)] if small else [])
        self.rate = tf.Variable(rate, dtype=tf.float32, trainable=False)
        self.last_step = ramp_steps
        self._control = control

    @property
    def variables(self) -> list[Any]:
        """Latent weights, steps and the price, the state that changes from step to step."""
        state = [variable for part in self._parts for variable in (part.latent, part.log_step)]
        return [self.rate, *state, *(self._control.variables if self._control else [])]

    def replace(self, variables: Sequence[Any]) -> list[Any]:
        """Return what the optimiser updates instead of the model's variables; see `Reparameterization`."""
        latents = {part.key: part.latent for part in self._parts}
        return self._substitute({v.ref(): v for v in variables} | latents, [part.log_step for part in self._parts])

    def pull_back(self, variables: Sequence[Any], gradients: Sequence[Any], step: Any) -> list[Any]:
        """Return the gradients of what `replace` returns; see `Reparameterization`."""
        ramp = tf.minimum(tf.cast(step, tf.float32) / max(self.last_step, 1), 1.0)
        price = self.rate * ramp * 2 / (self._weight_count * math.log(2))
        by_variable = {v.ref(): gradient for v, gradient in zip(variables, gradients, strict=True)}
        pairs = {part.key: part.pull_back(by_variable, price) for part in self._parts}
        of_latents = {key: of_latent for key, (of_latent, _) in pairs.items()}
        return self._substitute(by_variable | of_latents, [of_step for _, of_step in pairs.values()])

    def _substitute(self, by_variable: dict[Any, Any], of_steps: list[Any]) -> list[Any]:
        """Return one value for each part, in the place of its first variable, and one for each other variable."""
        joined = {variable.ref() for variable in self._variables} - {part.key for part in self._parts}
        return [*(value for reference, value in by_variable.items() if reference not in joined), *of_steps]

    def on_step_begin(self, step: Any) -> None:
        """Round the latent weights into the model's variables."""
        for part in self._parts:
            part.round()

    def on_epoch_end(self) -> None:
        """Round the latent weights into the model's variables, and let the control change the price."""
        for part in self._parts:
            part.round()
        if self._control:
            self._control.adjust(self)

    def round_with_threshold(self, threshold: float) -> None:
        """Round the latent weights into the model's variables, those below a threshold to zero.

        Args:
            threshold: In steps; larger weights become at least one step. Plain rounding has 0.5.
        """
        for part in self._parts:
            part.round_with_threshold(threshold)

    def estimate_bytes(self) -> float:
        """Return the entropy of the levels, each variable for itself, in bytes."""
        bits = 0.0
        for variable in self._variables:
            counts = np.unique(variable.numpy(), return_counts=True)[1]
            bits += float(np.sum(counts * np.log2(counts.sum() / counts)))
        return bits / 8

    def compute_sparsity(self) -> float:
        """Return the share of zeros among the weights."""
        nonzero = sum(int(tf.math.count_nonzero(variable)) for variable in self._variables)
        return 1 - nonzero / self._weight_count

    def describe_steps(self) -> dict[str, float]:
        """Return the present step of each variable by its name, the mean of those of its channels."""
        return {name: mean for part in self._parts for name, mean in part.describe_steps().items()}


class _Part:
    """Latent weights and steps of variables that are computed together, and what a training step does with them.

    A large variable is alone, with its shape. Small ones are joined to a vector, as starting an operation takes longer
    than computing it for one of them.

    Attributes:
        key: Reference of the first variable.
        latent: The latent weights.
        log_step: The logarithms of the steps relative to the first ones, divided by `STEP_SPEED`: the steps stay
            positive, and weight decay pulls them to the first ones.
    """

    def __init__(self, tensors: Sequence[GridTensor]) -> None:
        self._tensors, self.key = tensors, tensors[0].variable.ref()
        self._step_counts = [tensor.step.size for tensor in tensors]
        self._limit: Any = tensors[0].limit
        self._price: Any = tensors[0].price
        self._indices: Any = None  # of the step of each weight, if several variables are joined
        latent, first_step = tensors[0].variable.numpy(), tensors[0].step
        if len(tensors) > 1:
            latent = np.concatenate([tensor.variable.numpy().ravel() for tensor in tensors])
            first_step = np.concatenate([tensor.step.ravel() for tensor in tensors])
            self._indices = tf.constant(_index_steps(tensors))
            sizes = [tensor.variable.numpy().size for tensor in tensors]
            self._price = tf.constant(np.repeat([tensor.price for tensor in tensors], sizes), tf.float32)
            limits = [tensor.limit or np.inf for tensor in tensors]
            self._limit = None if min(limits) == np.inf else tf.constant(np.repeat(limits, sizes), tf.float32)
        self.latent = tf.Variable(latent, trainable=False)
        self._first_step = tf.constant(first_step, tf.float32)
        self.log_step = tf.Variable(tf.zeros_like(self._first_step), trainable=False)
        shape = [1] * (latent.ndim - first_step.ndim) + list(first_step.shape)
        self._axes = [axis for axis, size in enumerate(shape) if size == 1]
        self._compute_gradients = tf.function(self._trace_gradients, autograph=False, jit_compile=True)

    def describe_steps(self) -> dict[str, float]:
        steps = tf.reshape(self._compute_steps(), [-1])
        means = [float(tf.reduce_mean(own)) for own in tf.split(steps, self._step_counts)]
        return {tensor.name: mean for tensor, mean in zip(self._tensors, means, strict=True)}

    def round(self) -> None:
        step = self._spread(self._compute_steps())
        self._assign(self._compute_levels(self.latent * (1 / step)) * step)

    def round_with_threshold(self, threshold: float) -> None:
        step = self._spread(self._compute_steps())
        position = self.latent * (1 / step)
        largest = tf.maximum(tf.abs(self._compute_levels(position)), 1.0)
        self._assign(tf.where(tf.abs(position) < threshold, 0.0, tf.sign(position) * largest) * step)

    def _compute_steps(self) -> Any:
        return self._first_step * tf.exp(STEP_SPEED * self.log_step)

    def _spread(self, steps: Any) -> Any:
        """Return steps in a shape that broadcasts to the latent weights."""
        return steps if self._indices is None else tf.gather(steps, self._indices)

    def _compute_levels(self, position: Any) -> Any:
        level = tf.round(position)
        return level if self._limit is None else tf.clip_by_value(level, -self._limit, self._limit)

    def _assign(self, values: Any) -> None:
        variables = [tensor.variable for tensor in self._tensors]
        if len(variables) == 1:
            variables[0].assign(values)
            return
        parts = tf.split(values, [variable.shape.num_elements() for variable in variables])
        for variable, part in zip(variables, parts, strict=True):
            variable.assign(tf.reshape(part, variable.shape))

    def pull_back(self, gradients: Mapping[Any, Any], price: Any) -> tuple[Any, Any]:
        """Return the gradients of the latent weights and of the logarithms of the steps."""
        own = [tf.convert_to_tensor(gradients[tensor.variable.ref()]) for tensor in self._tensors]
        gradient = own[0] if len(own) == 1 else tf.concat([tf.reshape(one, [-1]) for one in own], axis=0)
        of_latent, of_step = self._compute_gradients(gradient, self._spread(self._compute_steps()), price)
        if self._indices is not None:
            of_step = tf.math.unsorted_segment_sum(of_step, self._indices, self.log_step.shape[0])
        return of_latent, STEP_SPEED * tf.reshape(of_step, self.log_step.shape)

    def _trace_gradients(self, gradient: Any, step: Any, price: Any) -> tuple[Any, Any]:
        """Return the gradients of the latent weights and of the logarithm of each step, of joined variables unsummed.

        Each operation alone would read and write as many numbers as the variable has, which for a dense layer takes as
        long as a good part of its products. XLA makes two loops of them.
        """
        position = self.latent * (1 / step)
        # The slope of log2(1 + 2 v^2) with its constant factors in `price`. It is that of the weight before rounding:
        # one that has become zero is pulled to zero, so that it does not return with the next noise.
        slope = position / (0.5 + tf.square(position)) * (price * self._price / step)
        inner = gradient
        if self._limit is not None:
            inner = tf.where(tf.abs(position) <= self._limit + 0.5, gradient, 0.0)
        of_latent = inner + slope
        of_step = gradient * (self._compute_levels(position) * step) - of_latent * self.latent
        if self._indices is None:
            # XLA sums the last axis one number after the other: it is left to the end, when the others are summed.
            last = len(of_latent.shape) - 1
            of_step = tf.reduce_sum(of_step, [axis for axis in self._axes if axis != last], keepdims=True)
            of_step = tf.reduce_sum(of_step, [axis for axis in self._axes if axis == last])
        return of_latent, of_step


def _index_steps(tensors: Sequence[GridTensor]) -> NDArray[np.int32]:
    """Return the index of each weight's step among those of all tensors, both flattened and one after the other."""
    indices: list[NDArray[np.int32]] = []
    first = 0
    for tensor in tensors:
        own = np.arange(first, first + tensor.step.size, dtype=np.int32).reshape(tensor.step.shape)
        indices.append(np.broadcast_to(own, tensor.variable.shape).ravel())
        first += tensor.step.size
    return np.concatenate(indices)
