"""Optuna's PostgreSQL storage, which reads each trial's content once and stores a trial's changes in one transaction.

Many workers read what all others have done before each proposal. Optuna's own storage reads every running trial each
time, and stores each parameter and attribute in a transaction. Here both use one connection, that of the study's locks,
and statements on the tables that Optuna 5 creates; everything else is Optuna's.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lightexp.core.json_text import encode_json
from lightexp.execution.postgres_locks import PostgresLocks
from lightexp.search.proposal_storage import LostTrialError, TrialChanges

_SELECT_CONTENT = {  # the rows of each kind, of the trials that a condition names
    "params": "select trial_id, param_name, param_value, distribution_json from trial_params {} order by param_id",
    "values": "select trial_id, objective, value, value_type::text from trial_values {} order by objective",
    "user": "select trial_id, key, value_json from trial_user_attributes {}",
    "system": "select trial_id, key, value_json from trial_system_attributes {}",
    "steps": "select trial_id, step, intermediate_value, intermediate_value_type::text"
    " from trial_intermediate_values {} order by step",
}
_SPECIAL_VALUES = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_SELECT_TRIALS = "select trial_id, number, state::text, datetime_start, datetime_complete from trials"
# The parts of the statement that stores a trial's changes: `live` is the trial unless it has ended.
_UPDATE_TRIAL = (
    "with live as (update trials set state = coalesce(%(state)s::trialstate, state),"
    " datetime_complete = coalesce(%(ended)s::timestamp, datetime_complete)"
    " where trial_id = %(trial)s and state in ('RUNNING', 'WAITING') returning trial_id)"
)
_INSERT_PARAMS = (
    ", params as (insert into trial_params (trial_id, param_name, param_value, distribution_json)"
    " select trial_id, name, value, kind from live, unnest(%(names)s::text[], %(numbers)s::float8[], %(kinds)s::text[])"
    " as rows (name, value, kind) on conflict (trial_id, param_name) do nothing)"
)
_UPSERT_ATTRIBUTES = (
    ", {0}_rows as (insert into trial_{0}_attributes (trial_id, key, value_json)"
    " select trial_id, key, value from live, unnest(%({0}_keys)s::text[], %({0}_texts)s::text[]) as rows (key, value)"
    " on conflict (trial_id, key) do update set value_json = excluded.value_json)"
)
_INSERT_VALUES = (
    ", outcome as (insert into trial_values (trial_id, objective, value, value_type)"
    " select trial_id, place - 1, value, kind::trialvaluetype from live, unnest(%(values)s::float8[],"
    " %(types)s::text[]) with ordinality as rows (value, kind, place) on conflict (trial_id, objective) do nothing)"
)


@dataclass
class _KnownTrials:
    """A study's trials as this process has read them last.

    Attributes:
        ids: Their ids in the database, by number.
        trials: The trials, by number.
        unfinished: Numbers by id of those that had not ended.
    """

    ids: list[int] = field(default_factory=list)
    trials: list[FrozenTrial] = field(default_factory=list)
    unfinished: dict[int, int] = field(default_factory=dict)


class PostgresStorage(RDBStorage):
    """Optuna's storage on a PostgreSQL server, for processes that share a study with many others."""

    def __init__(self, url: str, locks: PostgresLocks, follows_running: bool, has_tables: bool = False) -> None:
        """Create the tables if needed.

        Args:
            url: The server's, as SQLAlchemy takes it.
            locks: The study's locks, whose connection is used for most of the work.
            follows_running: Whether to read the content of running trials each time, which pruners need.
            has_tables: Whether another process has created and checked the tables. Defaults to False.
        """
        from sqlalchemy.pool import NullPool  # connections are scarce where many workers share a server

        engine = {"poolclass": NullPool, "connect_args": {"connect_timeout": 5}}
        super().__init__(url, engine, skip_compatibility_check=has_tables, skip_table_creation=has_tables)
        self._locks, self._follows_running = locks, follows_running
        self._known: dict[int, _KnownTrials] = {}
        self._created_ids: dict[tuple[int, int], int] = {}  # of the last trial that this process has created
        self._created: dict[int, FrozenTrial] = {}  # until it is read
        self._volatile: dict[int, datetime] = {}  # start of a trial that a crash of the server would lose, by its id
        self._directions: dict[int, list[StudyDirection]] = {}

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the study's directions, which never change."""
        if study_id not in self._directions:
            self._directions[study_id] = super().get_study_directions(study_id)
        return self._directions[study_id]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """See `optuna.storages.BaseStorage.get_all_trials`."""
        trials = self._locks.run(lambda connection: self._read_changes(connection, study_id))
        if states is not None:
            trials = [trial for trial in trials if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else list(trials)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """See `optuna.storages.BaseStorage.get_trial`."""
        if created := self._created.pop(trial_id, None):
            return created

        def read(connection: Any) -> list[FrozenTrial]:
            rows = connection.execute(f"{_SELECT_TRIALS} where trial_id = %s", [trial_id]).fetchall()
            return _read_trials(connection, rows)

        trials = self._locks.run(read)
        if not trials:
            raise KeyError(f"There is no trial {trial_id}.")
        return trials[0]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """See `optuna.storages.BaseStorage.get_trial_id_from_study_id_trial_number`."""
        known = self._known.get(study_id)
        if known is not None and trial_number < len(known.ids):
            return known.ids[trial_number]
        if (study_id, trial_number) in self._created_ids:
            return self._created_ids[study_id, trial_number]
        return super().get_trial_id_from_study_id_trial_number(study_id, trial_number)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See `optuna.storages.BaseStorage.create_new_trial`."""
        if template_trial is not None:
            return super().create_new_trial(study_id, template_trial)

        now = _read_utc_clock()

        def create(connection: Any) -> tuple[int, int]:
            with connection.pipeline(), connection.transaction():
                # What waits for the disk is the statement with the trial's parameters, which follows.
                connection.execute(
                    "select set_config('synchronous_commit', 'off', true) from studies where study_id = %s for update",
                    [study_id],
                )
                cursor = connection.execute(
                    "insert into trials (study_id, number, state, datetime_start) values (%s, coalesce((select number"
                    " from trials where study_id = %s order by trial_id desc limit 1), -1) + 1, 'RUNNING', %s)"
                    " returning trial_id, number",
                    [study_id, study_id, now],
                )
            trial_id, number = cursor.fetchone()
            return trial_id, number

        trial_id, number = self._locks.run(create)
        self._created_ids = {(study_id, number): trial_id}
        self._created = {trial_id: _make_trial((trial_id, number, "RUNNING", now, None), {})}
        self._volatile = {trial_id: now}
        return trial_id

    def write_trial(self, trial_id: int, changes: TrialChanges) -> None:
        """See `lightexp.search.storage.RetryingStorage.write_trial`."""
        statement, parameters = _build_statement(trial_id, changes)
        tries = itertools.count(1)

        def write(connection: Any) -> None:
            is_first = next(tries) == 1
            if not is_first and trial_id in self._volatile:
                self._require_trial(connection, trial_id, self._volatile[trial_id])
            written = connection.execute(statement, parameters).fetchone()[0]
            if not written and is_first:  # else the try whose answer was lost has written it
                raise UpdateFinishedTrialError(f"Trial {trial_id} has ended.")

        self._locks.run(write)
        self._volatile.pop(trial_id, None)

    def _require_trial(self, connection: Any, trial_id: int, started: datetime) -> None:
        """Raise an error if a crash of the server has lost a trial; its id may be that of another one by now."""
        statement = f"{_SELECT_TRIALS} where trial_id = %s and datetime_start = %s"
        if connection.execute(statement, [trial_id, started]).fetchone() is None:
            raise LostTrialError(f"The server has lost trial {trial_id} in a crash.")

    def _read_changes(self, connection: Any, study_id: int) -> list[FrozenTrial]:
        """Read the trials that are new or have changed, and return all."""
        known = self._known.get(study_id, _KnownTrials())
        last = known.ids[-1] if known.ids else -1
        condition = "where study_id = %s and (trial_id > %s or trial_id = any(%s)) order by trial_id"
        rows = connection.execute(f"{_SELECT_TRIALS} {condition}", [study_id, last, list(known.unfinished)]).fetchall()
        if not {row[0] for row in rows}.issuperset(known.unfinished):  # a crash of the server has lost some
            del self._known[study_id]
            return self._read_changes(connection, study_id)
        changed = [row for row in rows if self._has_changed(known, row)]
        present = _KnownTrials([*known.ids], [*known.trials], {**known.unfinished})
        for trial, (trial_id, *_) in zip(_read_trials(connection, changed), changed, strict=True):
            if trial.number == len(present.trials):
                present.ids.append(trial_id)
                present.trials.append(trial)
            else:
                present.trials[trial.number] = trial
            present.unfinished[trial_id] = trial.number
            if trial.state.is_finished():
                del present.unfinished[trial_id]
        self._known[study_id] = present  # at once: Ctrl-C may come in the middle of this
        return present.trials

    def _has_changed(self, known: _KnownTrials, row: Sequence[Any]) -> bool:
        """Return whether a trial's content has to be read: parameters of a running trial appear all at once."""
        number = known.unfinished.get(row[0])
        if number is None or self._follows_running:
            return True
        return known.trials[number].state.name != row[2] or not known.trials[number].params


def _read_trials(connection: Any, rows: Sequence[Sequence[Any]]) -> list[FrozenTrial]:
    """Read the content of trials.

    Args:
        connection: To the server.
        rows: What `_SELECT_TRIALS` selects of each.
    """
    ids = [row[0] for row in rows]
    if not ids:
        return []
    with connection.pipeline():
        cursors = {
            name: connection.execute(select.format("where trial_id = any(%s)"), [ids])
            for name, select in _SELECT_CONTENT.items()
        }
    content = {name: _group_by_trial(cursor.fetchall()) for name, cursor in cursors.items()}
    return [
        _make_trial(row, {name: groups[row[0]] for name, groups in content.items() if row[0] in groups}) for row in rows
    ]


def _group_by_trial(rows: Iterable[Sequence[Any]]) -> dict[int, list[Sequence[Any]]]:
    groups: dict[int, list[Sequence[Any]]] = {}
    for row in rows:
        groups.setdefault(row[0], []).append(row)
    return groups


def _make_trial(row: Sequence[Any], content: Mapping[str, list[Sequence[Any]]]) -> FrozenTrial:
    trial_id, number, state, started, completed = row
    params = content.get("params", [])
    distributions = {name: _parse_distribution(text) for _, name, _, text in params}
    return FrozenTrial(
        number=number,
        trial_id=trial_id,
        state=TrialState[state],
        value=None,
        values=[_SPECIAL_VALUES.get(kind, value) for *_, value, kind in content.get("values", [])] or None,
        datetime_start=_convert_to_local(started),
        datetime_complete=_convert_to_local(completed),
        params={name: distributions[name].to_external_repr(value) for _, name, value, _ in params},
        distributions=distributions,
        user_attrs={key: json.loads(text) for _, key, text in content.get("user", [])},
        system_attrs={key: json.loads(text) for _, key, text in content.get("system", [])},
        intermediate_values={
            step: _SPECIAL_VALUES.get(kind, value) for _, step, value, kind in content.get("steps", [])
        },
    )


def _build_statement(trial_id: int, changes: TrialChanges) -> tuple[str, dict[str, Any]]:
    """Return the one statement that stores a trial's changes if it has not ended, and the statement's parameters.

    It returns the number of trials that it has changed, 1 or 0.
    """
    parts = [_UPDATE_TRIAL]
    ended = changes.state.name if changes.state else None
    parameters: dict[str, Any] = {"trial": trial_id, "state": ended, "ended": _read_utc_clock() if ended else None}
    if changes.params:
        parts.append(_INSERT_PARAMS)
        parameters["names"] = list(changes.params)
        parameters["numbers"] = [float(value) for value, _ in changes.params.values()]
        parameters["kinds"] = [_format_distribution(distribution) for _, distribution in changes.params.values()]
    for table, attributes in (("user", changes.user_attrs), ("system", changes.system_attrs)):
        if attributes:
            parts.append(_UPSERT_ATTRIBUTES.format(table))
            parameters[f"{table}_keys"] = list(attributes)
            parameters[f"{table}_texts"] = [encode_json(value) for value in attributes.values()]
    if changes.values:
        parts.append(_INSERT_VALUES)
        infinite = {math.inf: "INF_POS", -math.inf: "INF_NEG"}  # a NaN is stored as it is
        parameters["values"] = [None if value in infinite else float(value) for value in changes.values]
        parameters["types"] = [infinite.get(value, "FINITE") for value in changes.values]
    return f"{''.join(parts)} select count(*) from live", parameters


@cache
def _parse_distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


_format_distribution: Callable[[BaseDistribution], str] = cache(distribution_to_json)


def _read_utc_clock() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def _convert_to_local(moment: datetime | None) -> datetime | None:
    """Return the local time of a moment in UTC, both without a time zone, as Optuna has them."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
