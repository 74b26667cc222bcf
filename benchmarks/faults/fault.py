"""What a fault is, and what came of it: a row of the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults.workshop import Check, Workshop


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    told: str
    """What a person reads of it."""
    after: str
    """How the sweep stands in the end."""
    sound: bool
    """Whether nothing was lost or counted twice, and what was told is what it should be."""

    @classmethod
    def of(cls, told: str, check: Check, as_expected: bool = True, after: str = "") -> Outcome:
        """Args: after: what is to be said more of a sweep that is sound."""
        text = f"{check}{f'; {after}' if after else ''}"
        return cls(told, text if as_expected else f"{text}; NOT WHAT WAS EXPECTED", check.sound and as_expected)


@dataclass(frozen=True)
class Fault:
    """A fault, and the function that makes it."""

    name: str
    what: str
    make: Callable[[Workshop], Outcome]


def line_with(text: str, *parts: str) -> str:
    """The first line of an output that holds one of `parts`; empty if none does."""
    return next((line.strip() for line in text.splitlines() if any(part in line for part in parts)), "")
