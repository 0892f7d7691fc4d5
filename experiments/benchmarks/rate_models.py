"""Compare models of the rate that rate-aware training may minimise: validation accuracy, and bytes of the whole file.

LeNet-300-100 is trained from scratch on Fashion-MNIST at several prices of a bit, once for each model of the rate of
the two large kernels; small tensors always pay the log penalty. The models are:

- log: log2(1 + 2 v^2) bits for a weight of v steps, as the stage `rate` does;
- density: a mixture of two logistics a kernel, fitted to the histogram of its levels after each epoch (Oktay et al.
  2020, arXiv 1906.06624, with a parametric density), whose bits are -log2 of the mass within half a step;
- group: log, and the norms of the kernel's rows and columns, so that neurons and inputs become zero as a whole.

The compared figure is the bytes of `log` divided by those of the other model at the validation accuracy of `log` at its
middle price, interpolated between the prices. The test split is not used.

    python experiments/benchmarks/rate_models.py --runs 2
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import Result, load_fashion, make_parser, print_results
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

PRICES = (0.5, 1.0, 2.0)
BATCH, RAMP = 128, 0.4
GROUP_PRICE = 0.5  # bits that the norm of a row or column costs, in steps
LARGE = 10_000  # weights of a kernel whose rate is modelled
LOG_SCALES = (math.log(0.05), math.log(20))  # limits, in steps: a kernel of zeros has no scale
TABLE_STEP, TABLE_END = 1 / 8, 32  # of the table of a density's slopes, in steps of the grid


def main() -> None:
    """Train with each model of the rate, and print how the sizes compare at equal accuracy."""
    options = make_parser(__doc__, runs=2)
    options.add_argument("--epochs", type=int, default=10, help="of each training (default: %(default)s)")
    arguments = options.parse_args()
    runs = 1 if arguments.smoke else arguments.runs
    prices, epochs = ((1.0,), 1) if arguments.smoke else (PRICES, arguments.epochs)
    curves = {
        name: [[train(name, price, seed, epochs, arguments.smoke) for price in prices] for seed in range(runs)]
        for name in ("log", "density", "group")
    }
    print_results([compare(name, curves) for name in ("density", "group")], arguments.json)


def compare(name: str, curves: dict[str, list[list[tuple[float, int]]]]) -> Result:
    """Compare a model of the rate with the log penalty."""
    ours, theirs = [], []
    for log, other in zip(curves["log"], curves[name], strict=True):
        accuracy, size = log[len(log) // 2]
        ours.append(float(size))
        theirs.append(interpolate_size(other, accuracy))
    means = {key: np.mean(curves[key], axis=0) for key in ("log", name)}
    points = "; ".join(
        f"{key}: " + ", ".join(f"{accuracy:.2%} at {size:,.0f}" for accuracy, size in mean)
        for key, mean in means.items()
    )
    return Result(f"bytes of log by those of {name}", ours, theirs, "bytes", 1.0, at_least=False, note=points)


def interpolate_size(curve: Sequence[tuple[float, int]], accuracy: float) -> float:
    """Return the bytes at an accuracy, between the points of a curve; beyond them, those of the nearest point."""
    accuracies, sizes = zip(*sorted(curve), strict=True)
    return float(np.exp(np.interp(accuracy, accuracies, np.log(sizes))))


def train(name: str, price: float, seed: int, epochs: int, smoke: bool) -> tuple[float, int]:
    """Train LeNet-300-100 with a model of the rate; return validation accuracy and bytes of the encoded file."""
    data = load_fashion(500 if smoke else None)
    from lightexp.backend import session

    session.start_tensorflow(1)
    session.reset_graph(seed)
    from lightexp.backend.grid_weights import list_grid_tensors
    from lightexp.backend.training import Trainer
    from lightexp.core.training import Training, count_steps_per_epoch
    from lightexp.models.lenet_300_100 import LeNet300100
    from lightexp.objectives.cross_entropy import CrossEntropy

    model = LeNet300100(width=0.1 if smoke else 1.0).build(data.shape, data.classes)
    layers = {layer.name: 1.0 for layer in model.layers if hasattr(layer, "kernel")}
    tensors = list_grid_tensors(model, layers, dict.fromkeys(layers), False)
    steps = round(RAMP * epochs * count_steps_per_epoch(len(data.train), BATCH))
    settings = Training(objective=CrossEntropy(), epochs=epochs, batch_size=BATCH, learning_rate_schedule="cosine")
    trainer = Trainer(model, settings, data, seed, constraint=make_weights(name, tensors, price, steps))
    history = trainer.run(_Silence())
    return history["val_accuracy"][-1], measure_encoded_bytes(model)


def measure_encoded_bytes(model: Any) -> int:
    """Return the size of a model's encoded file."""
    from lightexp.backend import converter
    from lightexp.backend.flatbuffer import read_constant_spans
    from lightexp.backend.pruning import clear_negative_zeros
    from lightexp.export import lxe

    clear_negative_zeros(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(converter.convert_to_float32(model))
        return len(lxe.encode(path.read_bytes(), read_constant_spans(path)))


def make_weights(name: str, tensors: Sequence[Any], price: float, ramp_steps: int) -> Any:
    """Return weights on grids whose large kernels pay for their bits by a model of the rate."""
    import tensorflow as tf

    from lightexp.backend.grid_weights import STEP_SPEED, GridWeights

    if name == "log":
        return GridWeights(tensors, price, ramp_steps)
    large = [tensor for tensor in tensors if math.prod(tensor.variable.shape) > LARGE]
    count = sum(math.prod(tensor.variable.shape) for tensor in tensors)

    class PricedWeights(GridWeights):  # type: ignore[misc, valid-type]
        """Weights whose large kernels have no price in `GridWeights`, and get the slope of another one here."""

        def __init__(self) -> None:
            free = [replace(tensor, price=0.0) if tensor in large else tensor for tensor in tensors]
            super().__init__(free, price, ramp_steps)
            start = tf.constant(tabulate_slopes(None))
            self._tables = [tf.Variable(start, trainable=False) for _ in large]

        def pull_back(self, variables: Sequence[Any], gradients: Sequence[Any], step: Any) -> list[Any]:
            """Add the gradients of the large kernels' bits; see `Reparameterization`."""
            results = super().pull_back(variables, gradients, step)
            replaced = self.replace(variables)
            references = [variable.ref() for variable in variables]
            ramp = tf.minimum(tf.cast(step, tf.float32) / max(ramp_steps, 1), 1.0) * price / count
            for number, tensor in enumerate(large):
                place = references.index(tensor.variable.ref())
                steps_place = len(replaced) - len(large) - 1 + number  # large variables, then the joined small ones
                latent, log_step = replaced[place], replaced[steps_place]
                width = tensor.step * tf.exp(STEP_SPEED * log_step)
                slope = ramp * compute_slope(name, latent / width, self._tables[number]) / width
                results[place] += slope
                results[steps_place] -= STEP_SPEED * tf.reduce_sum(slope * latent)
            return results

        def on_epoch_end(self) -> None:
            """Fit the densities to the levels; see `WeightConstraint`."""
            super().on_epoch_end()
            steps = self.describe_steps()
            for table, tensor in zip(self._tables, large, strict=True):
                table.assign(tabulate_slopes(np.abs(tensor.variable.numpy()) / steps[tensor.name]))

    return PricedWeights()


def compute_slope(name: str, position: Any, table: Any) -> Any:
    """Return the bits by which each weight costs more per step, by a model of the rate, in the graph.

    Args:
        name: Name of the model.
        position: The weights in steps.
        table: Slopes of a density; see `tabulate_slopes`.
    """
    import tensorflow as tf

    if name == "group":
        norms = [tf.norm(position, axis=axis, keepdims=True) + 1e-3 for axis in (0, 1)]
        log = position / (0.5 + tf.square(position)) * (2 / math.log(2))
        return log + GROUP_PRICE * position * sum(1 / norm for norm in norms)
    place = tf.minimum(tf.abs(position) / TABLE_STEP, TABLE_END / TABLE_STEP - 1)
    return tf.sign(position) * tf.gather(table, tf.cast(place, tf.int32))


def tabulate_slopes(magnitudes: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return the bits by which a weight costs more per step of magnitude, in the middle of each cell of the table.

    Args:
        magnitudes: Magnitudes in steps that the density is fitted to; None gives the slopes of the log penalty.
    """
    cells = np.arange(0, TABLE_END, TABLE_STEP) + TABLE_STEP / 2
    if magnitudes is None:
        return (4 * cells / (1 + 2 * cells**2) / math.log(2)).astype(np.float32)
    counts = np.bincount(np.minimum(np.round(magnitudes), TABLE_END).astype(int).ravel()).astype(float)
    levels = np.arange(len(counts))

    def count_bits(positions: NDArray[Any], parameters: NDArray[Any]) -> NDArray[Any]:
        share, scales = expit(parameters[0]), np.exp(np.clip(parameters[1:], *LOG_SCALES))
        masses = [expit((positions + 0.5) / scale) - expit((positions - 0.5) / scale) for scale in scales]
        return -np.log2(share * masses[0] + (1 - share) * masses[1] + 1e-12)

    start = np.array([2.0, math.log(0.1), math.log(1.0)])
    fitted = minimize(lambda parameters: counts @ count_bits(levels, parameters), start, method="Nelder-Mead").x
    edges = count_bits(np.arange(0, TABLE_END + TABLE_STEP, TABLE_STEP), fitted)
    return (np.diff(edges) / TABLE_STEP).astype(np.float32)


class _Silence:
    """Progress that is not shown."""

    def step(self, done: float, total: float, **metrics: float) -> None:
        pass

    def say(self, message: str) -> None:
        pass


if __name__ == "__main__":
    main()
