"""Where a sweep is mirrored to, in words: the URL of a directory that `pyarrow.fs` or `fsspec` knows. And who may know it.

A place never holds a secret: credentials are the file system library's to find. It opens the file system, and copies nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from sweeps.errors import MirrorError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

VARIABLE = "SWEEPS_RESULTS"
OPTIONS = ("region", "endpoint_override", "scheme", "retry_limit_seconds")
"""What the query of a URL may hold; pyarrow's names."""
CREDENTIALS = "the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, …)"
_RETRY_SECONDS = 30
"""How long Google's client tries to reach its service; its own default is 15 minutes."""
_ATOMIC = {"s3", "s3a", "gcs", "gs", "abfs", "abfss", "az", "adl", "oss", "memory"}
"""File systems in which an object is there when it has been written whole, and not before."""


@dataclass(frozen=True)
class ResultsPlace:
    """A directory under which sweeps are mirrored, each under its name.

    >>> ResultsPlace.parse("s3://bucket/sweeps?region=eu-west-1").of("digits").shown
    's3://bucket/sweeps/digits'
    """

    url: str

    @classmethod
    def parse(cls, text: str) -> ResultsPlace:
        """The place that `text` names.

        Raises:
            ValueError: it is no URL of a directory, or holds a secret. The message repeats nothing that could be one.
        """
        try:
            parts = urlsplit(text)
            secret = parts.password is not None or (bool(parts.username) and parts.scheme not in {"sftp", "ssh", "hdfs", "smb"})
            query = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:
            raise ValueError("is no URL: expected one such as s3://bucket/directory or file:///directory") from None
        if not re.fullmatch(r"[A-Za-z][\w+.-]*", parts.scheme) or "://" not in text:
            raise ValueError("is no URL: expected one such as s3://bucket/directory or file:///directory")
        if secret or "@" in parts.path:
            raise ValueError(f"holds credentials, which would be written down with it. They belong into {CREDENTIALS}")
        if unknown := [name for name, value in query if name not in OPTIONS or "@" in value]:
            named = ", ".join(repr(name) for name in unknown)
            raise ValueError(
                f"has options that are not taken: {named}. Accepted: {', '.join(OPTIONS)}. "
                f"Credentials belong into {CREDENTIALS}"
            )
        if parts.fragment:
            raise ValueError("has a part after '#', which means nothing here")
        if not (parts.netloc + parts.path).strip("/"):
            raise ValueError("names no directory: expected one such as s3://bucket/directory or file:///directory")
        if parts.scheme == "file" and parts.netloc not in {"", "localhost"}:
            raise ValueError(f"names the machine {parts.netloc!r}: a path on this one has three slashes, file:///directory")
        return cls(text)

    @property
    def shown(self) -> str:
        """For messages: without the options."""
        return self.url.partition("?")[0].rstrip("/")

    def of(self, name: str) -> ResultsPlace:
        """The directory of one sweep."""
        base, mark, query = self.url.partition("?")
        return ResultsPlace(f"{base.rstrip('/')}/{name}{mark}{query}")

    def open(self) -> tuple[FileSystem, str]:
        """The file system, and the directory's path in it.

        Raises:
            MirrorError: nothing here knows the scheme, what knows it is not installed, or it cannot be reached.
        """
        import pyarrow
        from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

        try:
            try:
                return FileSystem.from_uri(self._for_arrow())
            except pyarrow.ArrowInvalid as error:
                if "Unrecognized filesystem type" not in str(error):
                    raise
            from fsspec.core import url_to_fs

            found, path = url_to_fs(self.url)
            return PyFileSystem(FSSpecHandler(found)), path.rstrip("/")
        except Exception as error:  # each file system's library has its own errors
            raise MirrorError(f"{self.shown} cannot be opened: {told(error).rstrip('.')}.") from error

    def _for_arrow(self) -> str:
        """The URL as pyarrow takes it: a bucket without a directory too, and nobody waits a quarter of an hour."""
        parts = urlsplit(self.url)
        query = dict(parse_qsl(parts.query))
        if parts.scheme in {"gs", "gcs"}:
            query.setdefault("retry_limit_seconds", str(_RETRY_SECONDS))
        return parts._replace(query=urlencode(query)).geturl()


def chosen(said: str | None) -> ResultsPlace | None:
    """Where a sweep is mirrored to: where its space says, else where `VARIABLE` says; None: nowhere.

    Raises:
        MirrorError: the space says nothing, and `VARIABLE` holds no such URL.
    """
    text = said if said is not None else os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        return ResultsPlace.parse(text)
    except ValueError as error:
        raise MirrorError(f"{VARIABLE}: {error}.") from None


def is_atomic(files: FileSystem) -> bool:
    """Whether an object is there only once it has been written whole, so that it needs no temporary name."""
    return files.type_name.rpartition("+")[2] in _ATOMIC


def told(error: BaseException) -> str:
    """What a file system's library says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
