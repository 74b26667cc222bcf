"""Optuna's tables in a database: all trials of a study read at once, and what there is to say of one written at once.

Optuna's own storage reads every row as an object and writes every value in a transaction of its own, which costs a driver
most of its time. It knows the tables (`optuna.storages._rdb.models`, whose version that storage checks), and not who asks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
USER: Table = models.TrialUserAttributeModel.__table__
SYSTEM: Table = models.TrialSystemAttributeModel.__table__
REPORTS: Table = models.TrialIntermediateValueModel.__table__
Kind = Literal["param", "user", "system", "report", "state"]
_MOST_LISTED = 500
"""Trials that one statement names; SQLite takes no more than 999 values in older versions."""


@dataclass
class Changes:
    """What is to be written of one trial. Done again, it leaves what it found."""

    entries: dict[tuple[Kind, Any], Any] = field(default_factory=dict)
    """In the order in which it was said: of a kind and a name (or a step, or a state) what it is now. Parameters in Optuna's
    internal representation, with their distribution; of a state its objectives' values and when the trial came to it, local
    time."""

    def set(self, kind: Kind, name: Any, value: Any) -> None:
        """Say something; what was said of it before does not matter any more."""
        self.entries.pop((kind, name), None)
        self.entries[kind, name] = value

    def of(self, kind: Kind) -> dict[Any, Any]:
        """What there is of this kind."""
        return {name: value for (each, name), value in self.entries.items() if each == kind}


# Writing


def add(connection: Connection, study_id: int, trial: FrozenTrial) -> int:
    """Make a new trial with all that `trial` holds, its number too; its id."""
    if connection.dialect.name == "postgresql":  # as Optuna does it; and so whoever asks whether it was done waits for it
        lock(connection, study_id)
    row = {"study_id": study_id, "number": trial.number, "state": trial.state}
    times = {"datetime_start": _utc(trial.datetime_start), "datetime_complete": _utc(trial.datetime_complete)}
    trial_id = int(connection.execute(insert(TRIALS).values(row | times)).inserted_primary_key[0])
    held, changes = trial.distributions, Changes()
    for name, value in trial.params.items():
        changes.set("param", name, (held[name].to_internal_repr(value), held[name]))
    for kind, found in (("user", trial.user_attrs), ("system", trial.system_attrs), ("report", trial.intermediate_values)):
        for name, value in found.items():
            changes.set(kind, name, value)
    if trial.values is not None:
        changes.set("state", trial.state, (trial.values, trial.datetime_complete))
    write(connection, trial_id, changes)
    return trial_id


def lock(connection: Connection, study_id: int) -> None:
    """Wait in PostgreSQL until nobody else makes a trial of this study, and keep others waiting until the transaction ends."""
    connection.execute(text("SELECT 1 FROM studies WHERE study_id = :id FOR UPDATE"), {"id": study_id})


def write(connection: Connection, trial_id: int, changes: Changes) -> None:
    """Write what has changed of a trial; what stood there before is replaced."""
    as_stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr
    params = [
        {"param_name": name, "param_value": value, "distribution_json": distribution_to_json(distribution)}
        for name, (value, distribution) in changes.of("param").items()
    ]
    reports = [
        {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}
        for step, (stored, kind) in ((step, as_stored(value)) for step, value in changes.of("report").items())
    ]
    for table, key, rows in (
        (PARAMS, "param_name", params),
        (USER, "key", _attributes(changes.of("user"))),
        (SYSTEM, "key", _attributes(changes.of("system"))),
        (REPORTS, "step", reports),
    ):
        _put(connection, table, key, trial_id, rows)
    for state, (values, at) in changes.of("state").items():
        _put(connection, VALUES, "objective", trial_id, _values(values or ()))
        new = {"state": state, "datetime_complete" if state.is_finished() else "datetime_start": _utc(at)}
        connection.execute(update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(new))


def _values(values: Sequence[float]) -> list[dict[str, Any]]:
    stored = map(models.TrialValueModel.value_to_stored_repr, values)
    return [{"objective": place, "value": value, "value_type": kind} for place, (value, kind) in enumerate(stored)]


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]


def _put(connection: Connection, table: Table, key: str, trial_id: int, rows: list[dict[str, Any]]) -> None:
    """Insert rows of a trial, or update them where it has one with this key."""
    if not rows:
        return
    connection.execute(_replacing(connection.dialect.name, table, key), [{"trial_id": trial_id, **row} for row in rows])


@cache
def _replacing(dialect: str, table: Table, key: str) -> Any:
    """The statement; made once, since that takes longer than to carry it out."""
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    new = {
        each.name: statement.excluded[each.name]
        for each in table.c
        if each.name not in ("trial_id", key) and not each.primary_key
    }
    return statement.on_conflict_do_update(index_elements=["trial_id", key], set_=new)


def _utc(time: datetime | None) -> datetime | None:
    """Local time as the tables have it."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


# Reading


def read(
    connection: Connection,
    study_id: int,
    states: Collection[TrialState] | None = None,
    after: int = -1,
    besides: Iterable[int] = (),
) -> list[FrozenTrial]:
    """A study's trials, in the order in which they were made.

    Args:
        states: those in one of these states alone.
        after: those with a greater id alone, and
        besides: those with one of these ids.
    """
    own = [TRIALS.c.study_id == study_id]
    if states is not None:
        own.append(TRIALS.c.state.in_(list(states)))
    found = _read(connection, [*own, TRIALS.c.trial_id > after])
    chosen = sorted(trial_id for trial_id in besides if trial_id <= after)
    for start in range(0, len(chosen), _MOST_LISTED):
        found += _read(connection, [*own, TRIALS.c.trial_id.in_(chosen[start : start + _MOST_LISTED])])
    return sorted(found, key=lambda trial: trial._trial_id)


def _read(connection: Connection, where: list[Any]) -> list[FrozenTrial]:
    rows = connection.execute(
        select(TRIALS.c.trial_id, TRIALS.c.number, TRIALS.c.state, TRIALS.c.datetime_start, TRIALS.c.datetime_complete).where(
            *where
        )
    ).all()
    if not rows:
        return []
    distribution = _cached(json_to_distribution)
    name = _cached(str)  # one text for a key, and not one for each trial
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    for trial_id, key, number, dumped in _rows(connection, where, PARAMS, "param_id"):
        held = distributions[trial_id][name(key)] = distribution(dumped)
        params[trial_id][name(key)] = held.to_external_repr(number)
    attributes = []
    for table, row_id in ((USER, "trial_user_attribute_id"), (SYSTEM, "trial_system_attribute_id")):
        found: dict[int, dict[str, Any]] = defaultdict(dict)
        for trial_id, key, dumped in _rows(connection, where, table, row_id):
            found[trial_id][name(key)] = json.loads(dumped)
        attributes.append(found)
    reports: dict[int, dict[int, float]] = defaultdict(dict)
    unstored = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    for trial_id, step, number, kind in _rows(connection, where, REPORTS, "trial_intermediate_value_id"):
        reports[trial_id][step] = unstored(number, kind)
    values: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, place, number, kind in _rows(connection, where, VALUES, "trial_value_id"):
        values[trial_id][place] = models.TrialValueModel.stored_repr_to_value(number, kind)
    user, system = attributes
    return [
        FrozenTrial(
            number=number,
            state=state,
            value=None,
            values=[value for _, value in sorted(values[trial_id].items())] if trial_id in values else None,
            datetime_start=_local(begun),
            datetime_complete=_local(ended),
            params=params.get(trial_id, {}),
            distributions=distributions.get(trial_id, {}),
            user_attrs=user.get(trial_id, {}),
            system_attrs=system.get(trial_id, {}),
            intermediate_values=reports.get(trial_id, {}),
            trial_id=trial_id,
        )
        for trial_id, number, state, begun, ended in rows
    ]


def _rows(connection: Connection, where: list[Any], table: Table, row_id: str) -> Iterator[Any]:
    """What a table holds of the trials, in the order in which it was written; without its own ids."""
    columns = [column for column in table.c if column.name != row_id]
    joined = table.join(TRIALS, table.c.trial_id == TRIALS.c.trial_id)
    query = select(*columns).select_from(joined).where(*where).order_by(table.c[row_id])
    return iter(connection.execute(query.execution_options(yield_per=1000)))


def _cached(make: Callable[[str], Any]) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(dumped: str) -> Any:
        found = made.get(dumped)
        if found is None:
            found = made[dumped] = make(dumped)
        return found

    return get


def _local(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
