"""How a study is opened where it lives, so that every fault of what is below Optuna is one error that names the place.

It knows places, and neither sweeps nor what is in a study. `database.py` holds what a database asks for, this the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC
from pathlib import Path
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial
from sqlalchemy import event

from sweeps.database import Patience, StudyDatabase
from sweeps.errors import StorageError
from sweeps.filesystems import local
from sweeps.places import FILES, Place, overruled, password
from sweeps.tables import Changes, Kind

SQLITE_SECONDS = 60
"""How long SQLite waits for another process that writes."""
CONNECT_SECONDS = 5
"""How long a server may take to answer."""
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""A connection whose other end is gone without a word is given up after a minute."""


def open_storage(place: Place, directory: Path, new: bool = False) -> BaseStorage:
    """The storage of a sweep's study.

    Args:
        directory: the sweep's.
        new: make the file, or the tables, where they are missing; else they must be there, and opening them writes nothing.

    Raises:
        StorageError: it is missing or damaged, or the database cannot be reached.
    """
    file = place.file(directory)
    if file and not new and not file.exists():
        raise StorageError(f"{file} is missing: without it nothing is known of the sweep's trials. Restore it from a copy.")
    if place.kind == "journal":
        return StudyJournal(Journal(file))  # type: ignore[arg-type]
    return StudyDatabase(place, directory, _connection(place), new)


def _connection(place: Place) -> dict[str, Any]:
    """What the driver of the database is told beside the URL."""
    if place.kind == "sqlite":
        return {"timeout": SQLITE_SECONDS}
    secret = password(place)
    return {"connect_timeout": CONNECT_SECONDS, **_KEEPALIVE} | ({} if secret is None else {"password": secret})


def check(place: Place) -> str | None:
    """Make sure, before anything is started, that a database lets this process in; where the study will be, if that is no
    file or not what was said everywhere.

    Raises:
        StorageError: it does not, or its driver is missing.
    """
    if place.url:
        try:
            close(open_storage(place, Path(), new=True))
        except StorageError as error:
            said = str(error) if str(error).endswith((".", "?")) else f"{error}."
            raise type(error)(f"{said} Nothing was started: mend that, or name another place with `storage`.") from error
    words = [word for word in (place.url or FILES[place.kind], overruled(place)) if word]
    return ", ".join(words) if place.url or len(words) > 1 else None


def wait_for(storage: BaseStorage, patience: Patience) -> None:
    """Let a driver wait for a database that is gone; without this it is asked once more. Files do not go away."""
    if isinstance(storage, StudyDatabase):
        storage.patience = patience


def close(storage: BaseStorage) -> None:
    """Let go of files and connections."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()


@contextmanager
def writing_ahead(storage: BaseStorage, place: Place, directory: Path) -> Iterator[None]:
    """For as long as a driver writes: let SQLite write ahead (WAL), and not wait for the disk at every commit.

    A killed process loses nothing by that. After a loss of power the last commits may be missing, of a database that is sound:
    the study is then as it was moments before, and what trials have left since then is taken up as after the copy of an older
    study (`older_study.py`). In exchange an epoch's report takes a tenth of the time. Only on a local file system: the memory
    that all who have the file open then share does not reach other machines, from which `status` may be asked on a shared one.
    Afterwards the file alone holds all, and is as before, so that it can be read where nothing can be written. If the driver is
    killed, what it wrote last is in `study.db-wal` beside it, and the next one sees to it.
    """
    file = place.file(directory)
    if place.kind != "sqlite" or file is None or not local(file) or not isinstance(storage, StudyDatabase):
        yield
        return

    def relax(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous = NORMAL")

    _ask(file, "PRAGMA journal_mode = WAL")
    event.listen(storage.engine, "connect", relax)
    storage.engine.dispose()
    try:
        yield
    finally:
        event.remove(storage.engine, "connect", relax)
        storage.remove_session()
        storage.engine.dispose()
        _ask(file, "PRAGMA wal_checkpoint(TRUNCATE)")  # into the file itself, also while others have it open
        _ask(file, "PRAGMA journal_mode = DELETE")  # of which nothing comes then


def _ask(file: Path, statement: str) -> None:
    # It may be damaged, as whoever reads it next will say; or there is no room, which is no loss: what is beside it stays.
    with closing(sqlite3.connect(file, timeout=2)) as connection, suppress(sqlite3.DatabaseError):
        connection.execute(statement)


@contextmanager
def made(place: Place, directory: Path) -> Iterator[BaseStorage]:
    """A new sweep's storage; see `open_storage`."""
    storage = open_storage(place, directory, new=True)
    try:
        yield storage
    finally:
        close(storage)


class StudyJournal(JournalStorage):
    """A study's journal, as a driver asks of it, too (`sweeps.held.Home`)."""

    def trials(self, study_id: int) -> list[FrozenTrial]:
        """All of a study's trials, in the order in which they were made."""
        return self.get_all_trials(study_id, deepcopy=False)

    def add(self, study_id: int, trial: FrozenTrial) -> int:
        """Make a new trial with all that `trial` holds, in one line of the journal; its id."""
        return self.create_new_trial(study_id, trial)

    def write(self, trial_id: int, changes: Changes) -> None:
        """Write what has changed of a trial: lines that are on the disk together. A kill may leave the first ones alone."""
        lines = [_line(kind, name, value) for (kind, name), value in changes.entries.items()]
        with self._thread_lock:
            who = {"worker_id": self._replay_result.worker_id, "trial_id": trial_id}
            self._backend.append_logs([{"op_code": operation, **who, **what} for operation, what in lines])
            self._sync_with_backend()


def _line(kind: Kind, name: Any, value: Any) -> tuple[JournalOperation, dict[str, Any]]:
    """What the journal says of one entry of `Changes`."""
    match kind:
        case "param":
            number, distribution = value
            dumped = {"param_name": name, "param_value_internal": number, "distribution": distribution_to_json(distribution)}
            return JournalOperation.SET_TRIAL_PARAM, dumped
        case "user":
            return JournalOperation.SET_TRIAL_USER_ATTR, {"user_attr": {name: value}}
        case "system":
            return JournalOperation.SET_TRIAL_SYSTEM_ATTR, {"system_attr": {name: value}}
        case "report":
            return JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE, {"step": name, "intermediate_value": value}
        case "state":
            values, at = value
            when = {"datetime_complete" if name.is_finished() else "datetime_start": at.astimezone(UTC).isoformat()}
            return JournalOperation.SET_TRIAL_STATE_VALUES, {"state": name, "values": values, **when}


class Journal(JournalFileBackend):
    """A journal file that one process appends to, the one that holds the sweep, and any may read, also on other machines."""

    def __init__(self, file: Path) -> None:
        # Of Optuna's two locks this one works on NFS from version 3 on. The other one, a symbolic link, waits for ever where
        # a killed process on a machine that knows the file by another path has left it.
        super().__init__(str(file), JournalFileOpenLock(str(file)))
        self._file = file
        self._taken_over = False

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from this one on. A last line that a killed process left half-written is left out."""
        line = log_number_from
        try:
            for entry in super().read_logs(log_number_from):
                if not isinstance(entry, dict) or not {"op_code", "worker_id"} <= entry.keys():
                    raise ValueError("no entry of a study's journal")
                line += 1
                yield entry
        except ValueError as error:
            raise StorageError(
                f"{self._file} is damaged near line {line + 1} ({error}). Every trial's truth is in that file: restore it "
                "from a copy, or delete that line if nothing but its end is missing."
            ) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries, on the disk before this returns."""
        if not self._taken_over:
            self._take_over()
        super().append_logs(logs)

    def _take_over(self) -> None:
        """Clear away what a process that was killed while it wrote has left: its lock, and half a line, after which the
        next one would not be read. Whoever appends holds the sweep, so that nobody else is at it."""
        self._file.with_name(f"{self._file.name}.lock").unlink(missing_ok=True)
        with self._file.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
        self._taken_over = True
