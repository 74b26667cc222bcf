"""What is said about a trial: its report after a validation, and the verdict that ends it. Knows neither Ray nor Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["finished", "spent", "outranked", "broken", "failed", "rejected", "waiting"]


@dataclass(frozen=True)
class Verdict:
    """How a trial ended, and why.

    `finished` ran all its epochs; `spent` had nothing left to learn; both are COMPLETE in the study. `outranked` is PRUNED.
    `broken` (numbers not finite, dead or exploding gradients), `failed` (an exception, a killed process) and `rejected`
    (never ran: a constraint refused it) are FAIL. `waiting` is no end and is written nowhere: the trial leaves its process,
    and goes on from its last checkpoint once its scheduler lets it (`Scheduler.waiting`).
    """

    verdict: Kind
    reason: str
    epoch: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def as_text(self) -> str:
        """For a line of the history."""
        return f"{self.verdict}: {self.reason}"

    def as_attribute(self) -> dict[str, Any]:
        """The form in which the study keeps it: numbers that are not finite as text, since JSON has none."""
        numbers = {name: value if math.isfinite(value) else str(value) for name, value in self.numbers.items()}
        return {**asdict(self), "numbers": numbers}


@dataclass(frozen=True)
class Report:
    """What one trial says after one validation: epochs count from 1, `value` is the objective's metric (the first one's, if
    there are several)."""

    number: int
    epoch: int
    max_epochs: int
    value: float
    metrics: Mapping[str, float]
    others: tuple[float, ...] = ()
    """The metrics of the second objective and of those after it."""
    place: int | None = None
    """How many trials ran before this one. Unlike its number, it does not depend on proposals that never ran."""

    @property
    def values(self) -> tuple[float, ...]:
        """Of every objective."""
        return (self.value, *self.others)

    @property
    def last(self) -> bool:
        """Whether the trial ends with this epoch anyway."""
        return 0 < self.max_epochs <= self.epoch  # -1: it runs until something else ends it


def objective_not_finite(report: Report) -> Verdict | None:
    """Broken, if an objective is NaN or infinite, with or without a guard.

    A ranking must never see such a value: every comparison with NaN is false, so it would pass every rung.
    """
    if math.isfinite(report.value) and all(map(math.isfinite, report.others)):
        return None
    names = ["objective", *(f"objective {place}" for place in range(2, len(report.values) + 1))]
    found = dict(zip(names, report.values, strict=True))
    return not_finite({name: value for name, value in found.items() if not math.isfinite(value)}, report.epoch)


def not_finite(bad: Mapping[str, float], epoch: int) -> Verdict:
    """Broken, by the numbers that are `bad`."""
    return Verdict("broken", f"not finite: {', '.join(f'{name} = {value}' for name, value in bad.items())}", epoch, bad)
