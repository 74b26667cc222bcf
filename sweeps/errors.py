"""The errors that a user of sweeps can cause. Each message names what was found, where, and what would have been accepted.

They subclass the builtin that a caller would expect, so `except ValueError` keeps working.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class SweepError(ValueError):
    """Whatever a sweep refuses: the base of the others."""


class LedgerError(SweepError):
    """A sweep's directory is missing, damaged, in use, or already there."""


class StorageError(LedgerError):
    """A study cannot be read or written where it lives. The message names the place, and never a password."""


class Unreachable(StorageError):
    """The database does not answer, or lets nobody in."""


class MirrorError(SweepError):
    """Where a sweep's results are copied to cannot be reached or written, or holds another sweep."""


class ResourceError(SweepError):
    """A trial asks for more than the machine or the cluster has."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a search space: where it stands, and what to do about it."""

    where: str
    """`file:line`, or the file alone."""
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class SpaceError(SweepError):
    """A search space that cannot be read or whose trials would not run. `problems` holds everything that was found."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        """Args: problems: all that was found; or one message, where there is no line to point to."""
        self.problems: tuple[Problem, ...] = () if isinstance(problems, str) else tuple(problems)
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, problems)))


def suggestions(found: str, accepted: Sequence[str]) -> str:
    """The end of an error about a name that is not among `accepted`: near ones first, then all of them.

    >>> suggestions("tpee", ["tpe", "random"])
    'Did you mean tpe? Accepted: tpe, random.'
    """
    near = get_close_matches(found, accepted, n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{hint}Accepted: {', '.join(accepted)}." if accepted else f"{hint}There is none."
