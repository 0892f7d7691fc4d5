"""Making a plan's artifacts, measuring them, and checking the file that ships."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightexp.core.data import Data
from lightexp.core.errors import LightexpError, RunFailed
from lightexp.core.fingerprint import compute_key
from lightexp.core.protocols import STATE_FILE, Artifact, Context, MeasurementContext, Metric, Note, Progress
from lightexp.core.record import StageRecord
from lightexp.core.store import Entry, Store
from lightexp.runner.plan import Node, Plan
from lightexp.runner.preview import preview_plan
from lightexp.runner.progress import ProgressReporter
from lightexp.runner.settings import Settings

STOPPED_FACT = "stopped"
"""The fact, of a training that was cut short, after which epoch."""
Measured = dict[str, Sequence[Metric | Note]]
"""Figures and notes by what they were measured of and how."""


class Executor:
    """Executes one plan."""

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        data: Data,
        store: Store,
        watch: ProgressReporter,
        measured: Measured | None = None,
    ) -> None:
        """Makes nothing yet.

        Args:
            plan: What to execute.
            settings: The run's.
            data: The data set.
            store: Where artifacts are found and put.
            watch: Shows progress.
            measured: What has been measured already of which artifacts, to be added to; for runs that share a control.
        """
        self._measured = {} if measured is None else measured
        self._plan, self._settings, self._data, self._store, self._watch = plan, settings, data, store, watch
        self._artifacts: dict[str, Artifact] = {}

    def check(self) -> None:
        """Builds the untrained models, where TensorFlow is needed at all, and shows them to the stages.

        A stage that cannot work should not wait for the others, nor leave a run behind.

        Raises:
            BadInput: If a stage cannot work with the model.
        """
        if any(node.needs_tensorflow and not self._store.has(node.key) for node in self._plan.nodes):
            with self._watch.stage("TensorFlow", 1, 1) as progress:
                progress.say("loading")
                preview_plan(self._plan, self._settings, self._data)

    def make(self) -> list[StageRecord]:
        """Makes every stage's artifact that is not in the store, in order.

        Raises:
            LightexpError: If a stage fails; the message begins with its name.
        """
        records = []
        for number, node in enumerate(self._plan.nodes, start=1):
            with self._watch.stage(node.name, number, len(self._plan.nodes)) as progress:
                entry, found = self._ensure(node, progress)
            record = StageRecord(node.name, node.key, found, entry.seconds, facts=entry.facts)
            self._watch.finished(record)
            records.append(record)
        return records

    def measure(
        self,
        records: list[StageRecord],
        test: bool,
        only: Collection[str] | None = None,
        wanted: frozenset[str] | None = None,
    ) -> None:
        """Measures the file that would ship after each stage, and enters the figures in the records.

        `time/train_s` is the training behind the file: of its stage and all that this stands on, teachers included.

        Args:
            records: The stages', as `make` gave them.
            test: Whether the test split may be looked at.
            only: The stages to measure. Defaults to None, all.
            wanted: See `Subject`.
        """
        control = self.shipped(self._plan.control)
        cache: dict[tuple[Path, str], NDArray[np.float32]] = {}
        asked = None if wanted is None else sorted(wanted)
        with self._watch.stage("measure", 1, 1) as progress:
            for number, (node, record) in enumerate(zip(self._plan.nodes, records, strict=True)):
                if only is not None and node.name not in only:
                    continue
                progress.step(number, len(records))
                subject = MeasurementContext(
                    self.shipped(node).tflite,
                    control.tflite,
                    self._data,
                    self._settings.threads,
                    ("val", "test") if test else ("val",),
                    foreign=self.shipped(node).foreign,
                    foreign_control=control.foreign,
                    cache=cache,
                    encoded=self.shipped(node).encoded,
                    wanted=wanted,
                )
                for measurement in self._settings.measure.values():
                    what = compute_key([node.key, self._plan.control.key, self._data.key, test, asked, measurement])
                    if what not in self._measured:
                        self._measured[what] = measurement.measure(subject)
                    record.add(self._measured[what])
                for file, split in [place for place in cache if place[0] != control.tflite]:
                    del cache[file, split]  # nobody else asks for it
                record.metrics.append(Metric("time/train_s", self._training(node), "s", "min"))

    def verify(self, records: list[StageRecord]) -> dict[str, str]:
        """Checks on the file that ships what each stage has established.

        Returns:
            Of each waived kind, what has become of it.

        Raises:
            RunFailed: If something is broken that was not waived; names the stage.
        """
        from lightexp.backend import flatbuffer

        shipped = flatbuffer.read_graph(self.shipped(self._plan.nodes[-1]).tflite)
        waived: dict[str, str] = {}
        for node, record in zip(self._plan.nodes, records, strict=True):
            for invariant in node.stage.establishes():
                broken = node.stage.verify(invariant.kind, record.facts, shipped)
                if invariant.kind in self._settings.waive:
                    became = f"{node.name}: {broken or 'kept'}"
                    waived[invariant.kind] = "; ".join(filter(None, [waived.get(invariant.kind), became]))
                elif broken:
                    raise RunFailed(
                        f"The {invariant.kind} that '{node.name}' made is not in the file that ships: {broken}."
                    )
        return waived

    def shipped(self, node: Node) -> Artifact:
        """The artifact of a node that has been made."""
        return self._artifacts[node.key]

    def _training(self, node: Node) -> float:
        """Seconds of training behind a node, each artifact counted once."""
        behind, seen = [node], {}
        while behind:
            one = behind.pop()
            seen[one.key] = sum(self._artifacts[one.key].facts.get("history", {}).get("seconds", []))
            behind += [needed for needed in one.inputs.values() if needed.key not in seen]
        return float(sum(seen.values()))

    def _ensure(self, node: Node, progress: Progress) -> tuple[Entry, bool]:
        for role, needed in node.inputs.items():
            if needed.key not in self._artifacts:
                progress.say(f"making its {role}")
                self._ensure(needed, progress)

        def work(out: Path) -> dict[str, Any]:
            if node.needs_tensorflow:
                from lightexp.backend import session

                session.start_tensorflow(self._settings.threads)
            parent = node.inputs.get("parent")
            others = {role: self._artifacts[n.key] for role, n in node.inputs.items() if role != "parent"}
            model = node.model or self._settings.model
            before = next(filter(None, map(self._store.load, reversed(node.earlier))), None)
            state = before.folder / STATE_FILE if before else None
            seed, threads = self._settings.seed, self._settings.threads
            context = Context(self._data, model, seed, threads, out, progress, others, node.stop, state)
            try:
                facts = node.stage.apply(self._artifacts[parent.key] if parent else None, context)
                return {**facts, STOPPED_FACT: node.stop} if node.stop else facts
            except LightexpError as error:
                raise type(error)(f"{node.name}: {error}") from error

        entry, found = self._store.ensure(
            node.key,
            f"{type(node.stage).__name__} {node.name}",
            work,
            lambda: self._watch.say(f"Another process is making '{node.name}'; waiting for it."),
        )
        parent = node.inputs.get("parent")
        foreign = node.stage.foreign or (
            parent is not None and self._artifacts[parent.key].foreign and node.form != "keras"
        )
        self._artifacts[node.key] = Artifact(node.form, entry.folder, entry.facts, node.key, foreign)
        return entry, found
