"""Execute a plan: make its artifacts, measure them, and verify the file that ships."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.data import Data
from lightexp.core.errors import LightexpError, RunFailed
from lightexp.core.fingerprint import compute_key
from lightexp.core.json_text import find_non_finite
from lightexp.core.protocols import (
    STATE_FILE,
    Artifact,
    Context,
    Measurement,
    MeasurementContext,
    Metric,
    Note,
    Progress,
)
from lightexp.core.record import StageRecord
from lightexp.core.store import Store
from lightexp.core.store_entry import Entry
from lightexp.runner.chance import describe_chance, note_chance
from lightexp.runner.plan import Node, Plan
from lightexp.runner.preview import preview_plan
from lightexp.runner.progress import ProgressReporter
from lightexp.runner.settings import Settings

STOPPED_FACT = "stopped"
"""Key of the epoch after which a training was stopped early, in the facts of its stage."""


@dataclass
class ExecutorCache:
    """What the executors of one process share.

    Attributes:
        measured: Metrics and notes by a key of what was measured and how: runs with the same control measure it once.
        finite: Keys of the store's entries whose numbers have been found to be finite.
        chance: Keys of the controls, each with its data, that have been compared with chance.
    """

    measured: dict[str, Sequence[Metric | Note]] = field(default_factory=dict)
    finite: set[str] = field(default_factory=set)
    chance: set[str] = field(default_factory=set)


class Executor:
    """Runs the stages of one plan, measures their artifacts and verifies the file that ships."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        data: Data,
        store: Store,
        reporter: ProgressReporter,
        cache: ExecutorCache | None = None,
    ) -> None:
        """Create an executor; nothing runs yet.

        Args:
            plan: The plan.
            settings: Settings of the run.
            data: The data set.
            store: The store of artifacts.
            reporter: Shows progress.
            cache: What earlier executors have found, to which this one adds. Defaults to None: an empty cache.
        """
        self._cache = cache or ExecutorCache()
        self._plan, self._settings, self._data, self._store, self._reporter = plan, settings, data, store, reporter
        self._artifacts: dict[str, Artifact] = {}

    def check(self) -> None:
        """Check every stage against the untrained models, if TensorFlow is needed at all.

        A stage that cannot work is found before the stages ahead of it are trained, and before the run has a record.

        Raises:
            BadInput: If a stage cannot work with the model.
        """
        needed = {node.key for node in self._plan.nodes if node.needs_tensorflow}
        if needed - self._store.locate(needed).keys():
            with self._reporter.stage("TensorFlow", 1, 1) as progress:
                progress.say("loading")
                preview_plan(self._plan, self._settings, self._data)

    def make(self) -> list[StageRecord]:
        """Load the artifact of every stage from the store, or make it, in order.

        Raises:
            LightexpError: If a stage fails; the message begins with the stage's name.
        """
        records = []
        for number, node in enumerate(self._plan.nodes, start=1):
            with self._reporter.stage(node.name, number, len(self._plan.nodes)) as progress:
                entry, from_store = self._ensure(node, progress)
            record = StageRecord(node.name, node.key, from_store, entry.seconds, facts=entry.facts)
            self._reporter.finished(record)
            records.append(record)
            if node is self._plan.control:
                self._warn_of_chance(node)
        return records

    def _warn_of_chance(self, node: Node) -> None:
        """Say what to do about a control that is no better than chance.

        Raises:
            LightexpError: If it cannot be run; the message begins with the stage's name.
        """
        key = compute_key([node.key, self._data.key])
        if key in self._cache.chance:  # it has been said
            return
        try:
            problem = describe_chance(self.shipped(node), self._data, self._settings.threads)
        except LightexpError as error:  # its outputs are not finite
            raise type(error)(f"{node.name}: {error}") from error
        self._cache.chance.add(key)
        if problem:
            self._reporter.say(f"  {node.name}: {problem}")

    def measure(
        self,
        records: list[StageRecord],
        test: bool,
        only: Collection[str] | None = None,
        requested: frozenset[str] | None = None,
    ) -> None:
        """Measure the file that would ship after each stage, and add the metrics to the records.

        `time/train_s` is the training time of the stage and of all artifacts that it depends on, teachers included.

        Args:
            records: Records of the stages, as `make` returned them.
            test: Whether the test split may be evaluated.
            only: Names of the stages to measure. Defaults to None: all.
            requested: See `MeasurementContext`. Defaults to None: all metrics.
        """
        control = self.shipped(self._plan.control)
        cache: dict[tuple[Path, str], NDArray[np.float32]] = {}
        with self._reporter.stage("measure", 1, 1) as progress:
            for number, (node, record) in enumerate(zip(self._plan.nodes, records, strict=True)):
                if only is not None and node.name not in only:
                    continue
                report = partial(_step_within, progress, number, len(records))
                report(0.0)
                artifact = self.shipped(node)
                context = MeasurementContext(
                    artifact.tflite,
                    control.tflite,
                    self._data,
                    self._settings.threads,
                    ("val", "test") if test else ("val",),
                    foreign=artifact.foreign,
                    foreign_control=control.foreign,
                    cache=cache,
                    encoded=artifact.encoded,
                    requested=requested,
                    report=report,
                )
                self._measure_node(node, record, context)
                is_control = node is self._plan.control
                note_chance(record, self._data, "the control" if is_control else f"the file after '{node.name}'")
                for file, split in [place for place in cache if place[0] != control.tflite]:
                    del cache[file, split]  # only the control's logits are needed again
                record.metrics.append(Metric("time/train_s", self._sum_training_seconds(node), "s", "min"))

    def _measure_node(self, node: Node, record: StageRecord, context: MeasurementContext) -> None:
        requested = None if context.requested is None else sorted(context.requested)
        conditions = [node.key, self._plan.control.key, self._data.key, "test" in context.splits, requested]
        for measurement in self._settings.measure.values():
            key = compute_key([*conditions, measurement])
            if key not in self._cache.measured:
                if measurement.is_timing:
                    self._store.finish_uploads()  # nothing else may compute
                self._cache.measured[key] = _measure_finite(measurement, context, node.name)
            record.add(self._cache.measured[key])

    def verify(self, records: list[StageRecord]) -> dict[str, str]:
        """Verify every invariant that a stage has established on the file that ships.

        Args:
            records: Records of the stages, as `make` returned them.

        Returns:
            What has become of each waived kind of invariant.

        Raises:
            RunFailed: If an invariant that is not waived is broken; names the stage.
        """
        from lightexp.backend import flatbuffer

        shipped = flatbuffer.read_graph(self.shipped(self._plan.nodes[-1]).tflite)
        waived: dict[str, str] = {}
        for node, record in zip(self._plan.nodes, records, strict=True):
            for invariant in node.stage.establishes():
                broken = node.stage.verify(invariant.kind, record.facts, shipped)
                if invariant.kind in self._settings.waive:
                    result = f"{node.name}: {broken or 'kept'}"
                    waived[invariant.kind] = "; ".join(filter(None, [waived.get(invariant.kind), result]))
                elif broken:
                    raise RunFailed(
                        f"The {invariant.kind} that '{node.name}' made is not in the file that ships: {broken}."
                    )
        return waived

    def shipped(self, node: Node) -> Artifact:
        """Return the artifact of a node that `make` has made or loaded."""
        return self._artifacts[node.key]

    def _sum_training_seconds(self, node: Node) -> float:
        """Return the training time of a node and of all that it depends on, each artifact counted once."""
        pending, seconds = [node], {}
        while pending:
            current = pending.pop()
            history = self._artifacts[current.key].facts.get("history", {})
            seconds[current.key] = sum(history.get("seconds", []))
            pending += [needed for needed in current.inputs.values() if needed.key not in seconds]
        return float(sum(seconds.values()))

    def _ensure(self, node: Node, progress: Progress) -> tuple[Entry, bool]:
        """Load or make the artifact of a node, after those that it needs.

        Returns:
            The store entry, and whether it existed already.
        """
        for role, needed in node.inputs.items():
            if needed.key not in self._artifacts:
                progress.say(f"making its {role}")
                self._ensure(needed, progress)
        entry, from_store = self._store.ensure(
            node.key,
            f"{type(node.stage).__name__} {node.name}",
            lambda out: self._apply(node, out, progress),
            lambda: self._reporter.say(f"Another process is making '{node.name}'; waiting for it."),
        )
        if from_store and node.key not in self._cache.finite:  # made by an earlier version, perhaps
            _require_finite(node, entry.folder, entry.facts)
        self._cache.finite.add(node.key)
        parent = node.inputs.get("parent")
        foreign = node.stage.foreign or (
            parent is not None and self._artifacts[parent.key].foreign and node.form != "keras"
        )
        self._artifacts[node.key] = Artifact(node.form, entry.folder, entry.facts, node.key, foreign)
        return entry, from_store

    def _apply(self, node: Node, out: Path, progress: Progress) -> dict[str, Any]:
        """Run a stage and return its facts.

        Raises:
            LightexpError: If the stage fails; the message begins with the stage's name.
        """
        if node.needs_tensorflow:
            from lightexp.backend import session

            session.start_tensorflow(self._settings.threads)
        parent = node.inputs.get("parent")
        earlier = next(filter(None, map(self._store.find, reversed(node.earlier))), None)
        context = Context(
            data=self._data,
            model=node.model or self._settings.model,
            seed=self._settings.seed,
            threads=self._settings.threads,
            out=out,
            progress=progress,
            inputs={role: self._artifacts[n.key] for role, n in node.inputs.items() if role != "parent"},
            stop=node.stop,
            state=earlier.folder / STATE_FILE if earlier else None,
        )
        try:
            facts = node.stage.apply(self._artifacts[parent.key] if parent else None, context)
        except LightexpError as error:
            raise type(error)(f"{node.name}: {error}") from error
        _require_finite(node, out, facts)
        return {**facts, STOPPED_FACT: node.stop} if node.stop else facts


def _measure_finite(measurement: Measurement, context: MeasurementContext, stage: str) -> Sequence[Metric | Note]:
    """Measure a stage's file.

    Raises:
        LightexpError: If it cannot be measured, or a metric is NaN or infinite; the message begins with the stage.
    """
    try:
        measured = measurement.measure(context)
    except LightexpError as error:
        raise type(error)(f"{stage}: {error}") from error
    for metric in measured:
        if isinstance(metric, Metric) and not math.isfinite(metric.value):
            raise RunFailed(
                f"{stage}: {metric.name} is {metric.value}, measured by {type(measurement).__name__}. Lower the "
                "learning rate of its training, compress it less, or leave out this metric."
            )
    return measured


def _require_finite(node: Node, folder: Path, facts: Mapping[str, Any]) -> None:
    """Check that the weights and facts of a stage's result are finite, and the weights not beyond all reason.

    Raises:
        RunFailed: If a number is not; names the stage and the place.
    """
    from lightexp.backend.finite_weights import find_broken_weight

    broken = find_broken_weight(folder)
    if broken is None and (place := find_non_finite(facts)):
        broken = f"'{place}' of its facts"
    if broken is not None:
        raise RunFailed(
            f"{node.name}: {broken} is NaN, infinite or far too large. Lower the learning rate of the stage or of "
            "those before it, and look for extreme values in the data."
        )


def _step_within(progress: Progress, number: int, total: int, share: float) -> None:
    """Show that a share of the work on stage `number` of `total` is done."""
    progress.step(number + share, total)
