"""Optuna's storage in a database, SQLite or PostgreSQL, that outlives the loss of its connection and does nothing twice.

What a lost connection interrupted is done again: at once, and, where a driver has said that it waits (`patience`), until the
server is back. Whether the first attempt was carried out before its answer was lost is found out first. Every error of the
database is a `StorageError`, which names the place and never the password.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from optuna.exceptions import DuplicatedStudyError, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from sweeps import tables
from sweeps.errors import StorageError, Unreachable
from sweeps.places import PASSWORD_PLACES, Place

PATIENCE_SECONDS = 300.0
"""How long a driver waits for a server that is gone."""
LONGEST_PAUSE = 15.0
_CREATIONS = 5
_Result = TypeVar("_Result")

_TRANSIENT = {"57P01", "57P02", "57P03", "53300", "40001", "40P01"}
"""SQLSTATEs of PostgreSQL: it is shutting down, has crashed, starts up; too many connections; a transaction to be repeated."""
_CALLS = (
    "delete_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "get_trial_number_from_id",
    "get_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "get_trial_params",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_n_trials",
    "get_best_trial",
    "_get_best_trial_id",
)
"""What may be done twice: it reads, or leaves what it found."""


class _Lost(Exception):
    """The connection is lost or was never made: what was asked may be asked again. No error of SQLAlchemy's, which Optuna
    would answer by itself, without knowing whether the first attempt was carried out."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a database that does not answer."""

    tell: Callable[[str], None]
    """Is told once that it waits, and once that it goes on."""
    give_up: Callable[[], bool] = lambda: False
    """Whether somebody wants to wait no longer; asked several times a second."""
    seconds: float = PATIENCE_SECONDS

    def pause(self, seconds: float) -> None:
        """Wait so long, or until somebody gives up."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.give_up():
            time.sleep(min(left, 0.2))


class StudyDatabase(RDBStorage):
    """See the module."""

    def __init__(self, place: Place, directory: Path, connection: dict[str, Any], new: bool) -> None:
        """Args: directory: the sweep's; connection: options of the driver; new: make the tables where they are missing."""
        self._place, self._where = place, place.within(directory)
        self.patience: Patience | None = None
        self._newest: dict[int, int] = {}
        """Study → the greatest id of a trial that is known to be in it."""
        for attempt in range(1, _CREATIONS + 1):
            try:
                super().__init__(_url(place, directory), {"connect_args": connection}, skip_table_creation=not new)
            except (IntegrityError, ProgrammingError) as error:
                if not new or attempt == _CREATIONS:
                    raise self._refused(error, opening=True) from error
                time.sleep(0.2 * attempt)  # somebody else is making the same tables
            except (SQLAlchemyError, StorageInternalError) as error:
                raise self._refused(error, opening=True) from error
            except ImportError as error:
                raise StorageError(
                    f"{self._where}: the driver for PostgreSQL is missing. Install it with: pip install 'psycopg[binary]' "
                    "(the extra `postgres` of this project)."
                ) from error
            except RuntimeError as error:  # another version of Optuna made the tables
                raise StorageError(f"{self._where}: {error}") from error
            else:
                break
        event.listen(self.engine, "handle_error", _sort_out)

    def __getstate__(self) -> dict[Any, Any]:
        raise TypeError("a storage is not written down: it knows the password of its database")

    def _persist(self, call: Callable[[], _Result], again: Callable[[], _Result] | None = None) -> _Result:
        """What `call` returns; where the connection is lost meanwhile, what `again` (else `call`) returns once it is back.

        Raises:
            StorageError: the database refuses, or has not answered for as long as there is patience.
        """
        begun, pause, told = 0.0, 0.0, False
        while True:
            try:
                result = call() if not begun else (again or call)()
            except _Lost as error:
                patience, begun = self.patience, begun or time.monotonic()
                if pause and (patience is None or patience.give_up() or time.monotonic() - begun > patience.seconds):
                    raise self._refused(error, opening=True) from error
                if pause and not told and patience:
                    patience.tell(f"{self._where} does not answer ({_reason(error)}): waiting for it")
                    told = True
                if patience:
                    patience.pause(pause)
                pause = min(LONGEST_PAUSE, 2 * pause or 0.5)
            except (SQLAlchemyError, StorageInternalError) as error:
                raise self._refused(error) from error
            else:
                if told and self.patience:
                    self.patience.tell(f"{self._where} answers again after {time.monotonic() - begun:.0f} s: going on")
                return result

    def _refused(self, error: BaseException, opening: bool = False) -> StorageError:
        reason = _reason(error)
        if self._place.kind == "sqlite":
            if opening or "malformed" in reason or "not a database" in reason:
                what = "opened as an SQLite database" if opening else "read"
                hint = " Every trial's truth is in that file: if it is damaged, restore it from a copy."
                if "disk I/O error" in reason:  # a killed driver, or one without room, has left more beside it
                    hint = " To read it, SQLite must be able to write beside it: make room, and see that you may write there."
                return StorageError(f"{self._where} cannot be {what} ({reason}).{hint}")
            return StorageError(f"{self._where} cannot be written ({reason}).")
        if "password" in reason:
            return Unreachable(f"{self._where}: {reason}. Its password is given by {PASSWORD_PLACES}.")
        if "does not exist" in reason and "database" in reason:
            return Unreachable(f"{self._where}: {reason}. Make it with `createdb`, or correct the name.")
        if "permission denied" in reason:
            return StorageError(f"{self._where}: {reason}. The user must be allowed to make tables there and to write to them.")
        if opening and not reason.endswith("?"):
            reason += ". Is the server running, and can this machine reach it?"
        if opening:
            return Unreachable(f"{self._where}: {reason}")
        return StorageError(f"{self._where}: {reason}.")

    # What must not be done twice

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        create = super().create_new_study

        def again() -> int:
            try:
                return create(directions, study_name)
            except DuplicatedStudyError:
                if study_name is None:
                    raise
                return self.get_study_id_from_name(study_name)

        return self._persist(lambda: create(directions, study_name), again)

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        create = super()._create_new_trial
        if study_id not in self._newest:
            self._get_trials(study_id, None, set(), -1)

        def again() -> FrozenTrial:
            made = self._made_meanwhile(study_id)
            return made[-1] if made else create(study_id, template_trial)

        trial = self._persist(lambda: create(study_id, template_trial), again)
        self._newest[study_id] = trial._trial_id
        return trial

    def _get_trials(self, study_id: int, states: Any, included_trial_ids: set[int], trial_id_greater_than: int) -> Any:
        def get() -> list[FrozenTrial]:
            with self.engine.connect() as connection:
                return tables.read(connection, study_id, states, trial_id_greater_than, included_trial_ids)

        trials = self._persist(get)
        newest = max((trial._trial_id for trial in trials), default=-1)
        self._newest[study_id] = max(newest, self._newest.get(study_id, -1))
        return trials

    def _made_meanwhile(self, study_id: int) -> list[FrozenTrial]:
        """The trials that are there and that this process has not heard of: those that it made without being told so."""
        with self.engine.begin() as connection:
            if self._place.kind == "postgresql":  # a lost transaction that still runs is waited for
                tables.lock(connection, study_id)
            return tables.read(connection, study_id, after=self._newest[study_id])

    # As a driver asks (`sweeps.held.Home`)

    def trials(self, study_id: int) -> list[FrozenTrial]:
        """All of a study's trials, in the order in which they were made."""
        return self._get_trials(study_id, None, set(), -1)

    def add(self, study_id: int, trial: FrozenTrial) -> int:
        """Make a new trial with all that `trial` holds; its id. `trials` was asked for before."""

        def once() -> int:
            with self.engine.begin() as connection:
                return tables.add(connection, study_id, trial)

        def again() -> int:
            made = self._made_meanwhile(study_id)
            return made[-1]._trial_id if made else once()

        self._newest[study_id] = self._persist(once, again)
        return self._newest[study_id]

    def write(self, trial_id: int, changes: tables.Changes) -> None:
        """Write what has changed of a trial, in one transaction."""

        def once() -> None:
            with self.engine.begin() as connection:
                tables.write(connection, trial_id, changes)

        self._persist(once)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        set_state = super().set_trial_state_values

        def again() -> bool:
            try:  # one driver at a time holds a sweep: what runs already, this one has started
                return set_state(trial_id, state, values) or state == TrialState.RUNNING
            except UpdateFinishedTrialError:
                trial = self.get_trial(trial_id)
                if trial.state != state or (values is not None and trial.values != list(values)):
                    raise
                return True

        return self._persist(lambda: set_state(trial_id, state, values), again)


def _persistent(name: str) -> Callable[..., Any]:
    @wraps(getattr(RDBStorage, name))
    def call(self: StudyDatabase, *arguments: Any, **keywords: Any) -> Any:
        return self._persist(lambda: getattr(super(StudyDatabase, self), name)(*arguments, **keywords))

    return call


for _name in _CALLS:
    setattr(StudyDatabase, _name, _persistent(_name))


def _url(place: Place, directory: Path) -> str:
    """SQLAlchemy's URL, for Optuna, which fills in what stands in braces."""
    file = place.file(directory)
    url = f"sqlite:///{file}" if file else place.url.replace("postgresql://", "postgresql+psycopg://", 1)
    return url.replace("{", "{{").replace("}", "}}")


def _sort_out(context: ExceptionContext) -> BaseException | None:
    """Tell a connection that is lost from everything else that can go wrong in a database."""
    error = context.original_exception
    if context.dialect.name == "sqlite":
        lost = "database is locked" in str(error)
    else:
        lost = context.connection is None or context.is_disconnect or getattr(error, "sqlstate", None) in _TRANSIENT
    return _Lost(_reason(error)) if lost else None


def _reason(error: BaseException) -> str:
    """What the database said, on one line."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig
    words = " ".join(str(error).split()) or type(error).__name__
    return words.removeprefix("connection failed: ").rstrip(".")
