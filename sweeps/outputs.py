"""The sections of a search space that say what becomes of what a sweep finds: `keep_checkpoints`, `results`, `notify`.

Only structure: `quota.py`, `mirror.py` and `notify.py` do it. None of them changes which trials there are.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from sweeps.located_yaml import describe
from sweeps.results_place import ResultsPlace
from sweeps.schema import Section

if TYPE_CHECKING:
    from sweeps.space_reader import SpaceReader

NotifyEvent = Literal["complete", "failed", "interrupted", "budget"]
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class KeepCheckpoints(Section):
    """Which checkpoints of the trials that have ended stay."""

    best: int | None = Field(None, ge=1, description="best.ckpt of so many of the best trials")
    last: int | None = Field(None, ge=1, description="last.ckpt of so many of the trials that ended last")

    @model_validator(mode="after")
    def _some(self) -> KeepCheckpoints:
        if self.best is None and self.last is None:
            raise ValueError("says nothing: expected best, last or both, as in `best 5, last 1`")
        return self

    @classmethod
    def parse(cls, text: str) -> dict[str, Any]:
        """What stands in `best 5, last 1`.

        Raises:
            ValueError: it is not of that form.
        """
        found = [re.fullmatch(r"\s*(best|last)\s+(\d+)\s*", part) for part in text.split(",")]
        if not all(found) or len({match[1] for match in found if match}) < len(found):
            raise ValueError(f"found {describe(text)}: expected `best 5`, `last 1` or `best 5, last 1`")
        return {match[1]: int(match[2]) for match in found if match}

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.model_dump(exclude_none=True).items())


class Results(Section):
    """Where the sweep's directory is copied to while it runs."""

    url: str = Field(description="a directory, such as s3://bucket/sweeps; the sweep becomes one under it")
    every_minutes: float = Field(5.0, gt=0, description="how often what has not ended is copied too")

    @field_validator("url")
    @classmethod
    def _url(cls, text: str) -> str:
        return ResultsPlace.parse(text).url

    @classmethod
    def parse(cls, text: str) -> dict[str, Any]:
        """A URL alone."""
        return {"url": text}


class Notify(Section):
    """Who is told when a run of the sweep ends."""

    command: str | None = Field(None, description="run without a shell, with SWEEP_NAME, SWEEP_STATE, … in its environment")
    webhook: str | None = Field(None, description="a URL to which JSON is posted")
    on: list[NotifyEvent] = Field(["complete", "failed", "budget"], min_length=1, description="how the run must have ended")

    @field_validator("command")
    @classmethod
    def _command(cls, text: str | None) -> str | None:
        try:
            words = text is None or shlex.split(text)
        except ValueError as error:
            raise ValueError(f"found {describe(text)}: {error}") from None
        if not words:
            raise ValueError("is empty: expected a program and its arguments")
        return text

    @field_validator("webhook")
    @classmethod
    def _webhook(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            parts = urlsplit(text)
            host = parts.hostname
            _ = parts.port
        except ValueError:
            host = None
        if host is None or parts.scheme not in {"http", "https"} or re.search(r"\s", text):
            raise ValueError("is no URL of the form https://host/path")
        if not text.isascii():
            raise ValueError("holds letters that no URL has: write them as %C3%A4, a host's as xn--…")
        if "@" in parts.netloc:
            raise ValueError("holds a user or password before its host, which is not sent: expected a URL that needs none")
        if parts.scheme == "http" and host not in LOOPBACK:
            raise ValueError(f"would send what it says in the clear to {host}: expected https:// (http:// is for this machine)")
        return text

    @model_validator(mode="after")
    def _some(self) -> Notify:
        if self.command is None and self.webhook is None:
            raise ValueError("tells nobody: expected a command, a webhook or both")
        return self

    @property
    def arguments(self) -> list[str]:
        """The command's words."""
        return shlex.split(self.command or "")


def shown_url(url: str) -> str:
    """Scheme and host of a URL whose path may be a secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}"


_SECTIONS: dict[str, type[Section]] = {"keep_checkpoints": KeepCheckpoints, "results": Results, "notify": Notify}
KEYS = tuple(_SECTIONS)


@dataclass(frozen=True)
class Outputs:
    """What becomes of what a sweep finds; None where the space says nothing of it."""

    keep_checkpoints: KeepCheckpoints | None = None
    """None keeps all."""
    results: Results | None = None
    notify: Notify | None = None

    @classmethod
    def read(cls, reader: SpaceReader) -> Outputs:
        """Those of a search space; what is wrong becomes a problem of `reader`."""
        found: dict[str, Any] = {}
        for name, model in _SECTIONS.items():
            value = reader.raw.get(name)
            if isinstance(value, str) and hasattr(model, "parse"):
                value = reader.attempt((name,), model.parse, value)
            if value is not None:
                found[name] = reader.validated(model, value, (name,))
        return cls(**found)

    def dump(self) -> dict[str, Any]:
        """As a search space says it."""
        found: dict[str, Any] = {}
        if self.keep_checkpoints:
            found["keep_checkpoints"] = str(self.keep_checkpoints)
        if self.results:
            found["results"] = self.results.model_dump()
        if self.notify:
            found["notify"] = self.notify.model_dump(exclude_none=True)
        return found
