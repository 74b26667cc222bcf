"""Where a sweep's study may live, in words: `sqlite`, `journal`, or the URL of a PostgreSQL database. And where passwords are.

A place never holds a password. It opens nothing: `storage.py` does.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlencode

from sweeps.errors import StorageError, suggestions

VARIABLE = "SWEEPS_STORAGE"
PASSWORD_VARIABLE = "PGPASSWORD"
DATABASE = "postgresql://user@host:port/database"
ACCEPTED = ("sqlite", "journal", DATABASE)
FILES = {"sqlite": "study.db", "journal": "study.journal"}
PASSWORD_PLACES = f"{VARIABLE}=postgresql://user:PASSWORD@host:port/database, {PASSWORD_VARIABLE}, or ~/.pgpass"

_withdrawn: dict[str, str] = {}
"""What `withdraw_passwords` has taken out of the environment: the password of a place (by its text), and that of
`PASSWORD_VARIABLE`; or the whole of a `VARIABLE` that is no place."""


@dataclass(frozen=True)
class Place:
    """Where a study lives.

    >>> Place.parse("postgresql://ada@db.example:5432/sweeps")
    Place(kind='postgresql', url='postgresql://ada@db.example:5432/sweeps')
    """

    kind: Literal["sqlite", "journal", "postgresql"] = "sqlite"
    url: str = ""
    """Of a database; without a password."""

    @classmethod
    def parse(cls, text: str) -> Place:
        """The place that `text` names.

        Raises:
            ValueError: it names none, or holds a password. The message repeats nothing that could be one.
        """
        place, password = _split(text)
        if password is not None:
            raise ValueError(f"holds a password, which would be written down with it. It belongs into {PASSWORD_PLACES}")
        return place

    def file(self, directory: Path) -> Path | None:
        """The study's file in a sweep's directory; None in a database."""
        return directory / FILES[self.kind] if self.kind in FILES else None

    def within(self, directory: Path) -> str:
        """The file, or the database, for messages."""
        return str(self.file(directory) or self.url)

    def __str__(self) -> str:
        """As a search space says it."""
        return self.url or self.kind


def _split(text: str) -> tuple[Place, str | None]:
    """The place that `text` names, and the password in it. Raises ValueError, which repeats nothing that could be one."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    if text in FILES:
        return Place(text), None  # type: ignore[arg-type]
    scheme, separator, _ = text.partition("://")
    if not separator or scheme != "postgresql":
        named = re.match(r"\w*", text)[0]  # type: ignore[index]
        raise ValueError(f"{named!r} is no place for a study. {suggestions(named, ACCEPTED)}")
    odd = f"is no URL of the form {DATABASE}; '@', ':', '/' and '%' in a name or a password are written as %40, %3A, %2F, %25"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ValueError(odd) from None
    query = dict(url.query)
    secrets = [str(value) for value in (url.password, query.pop("password", None)) if value is not None]
    if "@" in f"{url.host}{url.database}" or any("@" in f"{key}{value}" for key, value in query.items()):
        raise ValueError(odd)  # part of a password would be taken for part of a name
    if not url.database:
        raise ValueError(f"names no database: expected {DATABASE}")
    if any("password" in key for key in query):
        raise ValueError(f"holds a password as an option of the connection. Passwords belong into {PASSWORD_PLACES}")
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
    where = f"{quote(url.username, safe='')}@{host}" if url.username else host
    where += f":{url.port}" if url.port else ""
    options = f"?{urlencode(query, doseq=True)}" if query else ""
    return Place("postgresql", f"postgresql://{where}/{quote(url.database, safe='')}{options}"), secrets[0] if secrets else None


def _variable() -> tuple[Place, str | None] | None:
    """What `VARIABLE` says, if it is set. Raises StorageError where that is no place."""
    text = os.environ.get(VARIABLE) or _withdrawn.get(VARIABLE)
    if not text:
        return None
    try:
        return _split(text)
    except ValueError as error:
        raise StorageError(f"{VARIABLE}: {str(error).removesuffix('.')}.") from None


def chosen(said: str | None) -> Place:
    """Where a new sweep's study goes: where its space says, else where `VARIABLE` says, else into an SQLite file.

    Args:
        said: `storage` of the space, which has been read; None if it says nothing.

    Raises:
        StorageError: the space says nothing, and `VARIABLE` names no place.
    """
    if said is not None:
        return Place.parse(said)
    found = _variable()
    return found[0] if found else Place()


def overruled(place: Place) -> str | None:
    """In words, that `VARIABLE` names another place than a new sweep's, whose space comes first; None if it does not."""
    found = _variable()
    return f"as its search space says; {VARIABLE} says {found[0]}" if found and found[0] != place else None


def password(place: Place) -> str | None:
    """The password for a database; None where none was given in the environment: then libpq looks for one by itself.

    Raises:
        StorageError: `VARIABLE` names no place.
    """
    found = _variable()
    if found and found[0] == place and found[1] is not None:
        return found[1]
    return _withdrawn.get(str(place), _withdrawn.get(PASSWORD_VARIABLE))


def withdraw_passwords() -> None:
    """Take the passwords out of the environment, so that nothing which this process starts inherits them: neither Ray, whose
    workers show their environment, nor trials, nor commands. This process still knows them (`password`)."""
    if PASSWORD_VARIABLE in os.environ:
        _withdrawn[PASSWORD_VARIABLE] = os.environ.pop(PASSWORD_VARIABLE)
    try:
        found = _variable()
    except StorageError:  # that is told where somebody asks for the place
        _withdrawn[VARIABLE] = os.environ.pop(VARIABLE, "")
        return
    if found and found[1] is not None:
        _withdrawn[str(found[0])] = found[1]
        os.environ[VARIABLE] = str(found[0])
