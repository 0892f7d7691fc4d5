"""Data sets in memory or on disk: raw arrays, their digests, and the scaling from raw values to model inputs."""

from __future__ import annotations

import hashlib
import math
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core import memmap
from lightexp.core.formatting import format_bytes
from lightexp.core.layout import LayoutChoice
from lightexp.core.preprocessing import Augment, Factor
from lightexp.core.streamed_array import Rows, StreamedArray
from lightexp.core.task import Task, make_default_task


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        x: Raw examples, `(n, *shape)`, as stored (often uint8); where they do not fit in memory, a
            `numpy.memmap`, or rows that are read when they are used.
        y: Targets of the task: labels `(n,)` int32, from 0, or numbers `(n, outputs)` float32.
        groups: What each example belongs to, such as a machine's id, strings `(n,)`; None where that is not known.
    """

    x: Rows
    y: NDArray[Any]
    groups: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def on_disk(self) -> bool:
        """Whether the examples are in files and too large to be read into memory at once."""
        return isinstance(self.x, np.memmap | StreamedArray)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over dtypes, shapes and bytes of the arrays."""
        digest = hashlib.sha256()
        for array in (self.x, self.y, *(() if self.groups is None else (self.groups,))):
            if isinstance(array, StreamedArray) and array.digest:
                digest = array.digest.copy()  # the examples come first
                continue
            digest.update(memmap.describe_array(array))
            if isinstance(array, np.memmap | StreamedArray):  # not at once, which would need memory for all
                for _, rows in memmap.read_in_chunks(array):
                    digest.update(rows.data)
            else:
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def sample(self, count: int, seed: int = 0) -> NDArray[np.generic]:
        """Return `count` different raw examples, drawn with `seed`; all if there are fewer."""
        chosen = np.random.default_rng(seed).permutation(len(self))[:count]
        return memmap.read_chunk(self.x, np.sort(chosen))


@dataclass(frozen=True)
class Data:
    """A data set's three splits and its input scaling.

    Attributes:
        name: The data set's name, for people.
        train: The split that stages train and calibrate on.
        val: The split that choices are made on.
        test: The split that is evaluated once, at the end.
        classes: Number of classes; 0 where targets are numbers.
        scale: Inputs are `raw * scale + offset`; one number, or a number for each channel.
        offset: See `scale`.
        augment: Random changes of the examples that are trained on.
        probabilities: Whether the model outputs probabilities instead of logits, as a model from a file may. Defaults
            to None: it does if its last operator is a softmax.
        names: Names of the classes in the order of the model's outputs. Defaults to none.
        layout: Order of the axes that the model's file takes. Defaults to `auto`: what fits.
        notes: Sentences on how the data were read, for the user. Defaults to none.
        task: What is learnt from it. Defaults to classification.
        target_scale: Targets in their own unit are `y * target_scale + target_offset`, with a number for each target.
            Defaults to none: `y` is in that unit.
        target_offset: See `target_scale`.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: int
    scale: Factor = 1.0
    offset: Factor = 0.0
    augment: Augment = field(default_factory=Augment)
    probabilities: bool | None = None
    names: tuple[str, ...] = ()
    layout: LayoutChoice = "auto"
    notes: tuple[str, ...] = ()
    task: Task = field(default_factory=make_default_task)
    target_scale: tuple[float, ...] = ()
    target_offset: tuple[float, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example, with the channel last."""
        return tuple(self.train.x.shape[1:])

    @property
    def outputs(self) -> int:
        """Number of the model's outputs."""
        return self.task.count_outputs(self)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def key(self) -> dict[str, object]:
        """The parts of the data that a trained artifact depends on, which exclude the test split."""
        return {
            "train": self.train.digest,
            "val": self.val.digest,
            "classes": self.classes,
            "scale": self.scale,
            "offset": self.offset,
            **({"augment": self.augment} if self.augment.active else {}),
            **({} if self.task == make_default_task() else {"task": self.task}),
        }

    def compute_targets(self, split: Split) -> NDArray[Any]:
        """Return what the outputs on a split of these data are compared with: `y`, or the scaled inputs, flat."""
        if not self.task.learns_inputs:
            return split.y
        if not split.on_disk:
            return self.inputs(split.x[:]).reshape(len(split), -1)
        targets = memmap.allocate((len(split), math.prod(self.shape)), np.float32, 0)
        for chunk in memmap.iterate_chunks(targets):
            targets[chunk] = self.inputs(memmap.read_chunk(split.x, chunk)).reshape(-1, targets.shape[1])
            memmap.release_pages(targets[chunk])
        return targets

    def describe(self) -> str:
        """Return one line on the examples: what they are, their shape and their numbers."""
        rank = len(self.shape)
        kind = {1: "features", 2: "series (steps, channels)", 3: "images (height, width, channels)"}.get(
            rank, "examples"
        )
        counts = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        return f"{self.name}: {kind} of shape {self.shape}, {self.task.describe_outputs(self)}; {counts}"

    def describe_storage(self) -> list[str]:
        """Return sentences on the splits that are not in memory, for the user."""
        encoded = {name for name, s in self.splits.items() if isinstance(s.x, StreamedArray) and s.x.is_encoded}
        mapped = {name for name, split in self.splits.items() if split.on_disk} - encoded
        sentences = []
        for names, where in (
            (mapped, f"Kept on disk in {tempfile.gettempdir()}, by dataset.memory_mb, and read batch by batch"),
            (
                encoded,
                "Decoded again whenever they are used, by dataset.memory_mb and the disk (dataset.disk_gb)",
            ),
        ):
            if splits := {name: split for name, split in self.splits.items() if name in names}:
                size = format_bytes(sum(split.x.nbytes for split in splits.values()))
                sentences.append(f"{where}: {', '.join(splits)} ({size}).")
        return sentences

    def inputs(self, raw: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return raw examples as float32 model inputs."""
        return scale_inputs(raw, self.scale, self.offset)


def scale_inputs(raw: NDArray[np.generic], scale: Factor, offset: Factor) -> NDArray[np.float32]:
    """Return `raw * scale + offset` in float32, with one factor or one for each channel (the last axis)."""
    inputs: NDArray[np.float32] = np.multiply(raw, np.asarray(scale, np.float32), dtype=np.float32, casting="unsafe")
    inputs += np.asarray(offset, np.float32)
    return inputs


def split_stratified(y: NDArray[Any], count: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Split indices into (rest, chosen) with `count` chosen, each class in proportion.

    Targets `(n, targets)`, which are numbers, are split at random. Counts are rounded by largest remainder, ties in
    favour of the lower class, so that exactly `count` are chosen.

    Args:
        y: Labels, `(n,)`, or numbers `(n, targets)`.
        count: Number of indices to choose, from 0 to n.
        seed: Seed of the shuffle; the same seed gives the same split.
    """
    rng = np.random.default_rng(seed)
    if y.ndim > 1:
        y = np.zeros(len(y), np.int32)
    labels, sizes = np.unique(y, return_counts=True)
    exact = sizes * (count / max(len(y), 1))
    take = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - take), kind="stable")[: count - take.sum()]:
        take[index] += 1
    chosen = [rng.permutation(np.flatnonzero(y == label))[:n] for label, n in zip(labels, take, strict=True)]
    picked = np.sort(np.concatenate(chosen)) if chosen else np.empty(0, np.intp)
    return np.setdiff1d(np.arange(len(y)), picked), picked
