"""The arithmetic of a sweep's budgets: what trials cost, whether a budget is spent, and how that is told.

It knows numbers, and neither where they come from (`usage.py`) nor who stops a sweep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sweeps.schema import Budget, Prices, Resources

LIMITS = ("hours", "epochs", "cost")
"""What a budget can limit; `make extend` takes each in capitals."""


@dataclass(frozen=True)
class Used:
    """What a sweep has used up: hours of all its runs, epochs that its trials have trained, and their cost."""

    hours: float = 0.0
    epochs: int = 0
    cost: float = 0.0


@dataclass(frozen=True)
class Work:
    """What one trial has done by itself: without what it took over, copied, from the trial that it trains further."""

    epochs: int
    seconds: float
    allotted: Mapping[str, float]
    """CPUs and shares of a GPU, by the names of `Prices`."""

    def cost(self, prices: Prices | None) -> float:
        """In the currency of the prices; 0 without any."""
        return self.seconds / 3600 * hourly(self.allotted, prices)


def allotted(resources: Resources) -> dict[str, float]:
    """What of a trial's resources has a price."""
    return {name: getattr(resources, name) for name in Prices.model_fields}


def hourly(amounts: Mapping[str, float], prices: Prices | None) -> float:
    """What it costs to hold these for an hour."""
    return sum(amount * getattr(prices, name) for name, amount in amounts.items()) if prices else 0.0


def unpriced(budget: Budget, resources: Resources) -> str | None:
    """Why a budget of cost would never be spent; None if it would."""
    if budget.cost is None or hourly(allotted(resources), budget.prices):
        return None
    return "would never be spent: nothing that a trial is allotted under `resources` has a price"


def spent(budget: Budget, used: Used) -> str | None:
    """The limit that has been reached, one of `LIMITS`; None if there is some left of each."""
    return next((name for name in LIMITS if _limit(budget, name) <= getattr(used, name)), None)


def _limit(budget: Budget, name: str) -> float:
    limit = getattr(budget, name)
    return math.inf if limit is None else limit


def told(budget: Budget, used: Used) -> str:
    """What is used of each limit, in words: `0.52 of 2 hours, 130 of 500 epochs`; empty if there is none."""
    amounts = {"hours": f"{used.hours:.2f}", "epochs": str(used.epochs), "cost": f"{used.cost:.2f}"}
    parts = [
        f"cost {amounts[name]} of {getattr(budget, name):g}"
        if name == "cost"
        else f"{amounts[name]} of {getattr(budget, name):g} {name}"
        for name in LIMITS
        if getattr(budget, name) is not None
    ]
    if budget.prices and budget.cost is None:
        parts.append(f"cost {amounts['cost']}")
    return ", ".join(parts)


def more(budget: Budget, used: Used, name: str) -> str:
    """What make is to be given so that there is some left of the limit `name`: `HOURS=+1`.

    >>> more(Budget(hours=2), Used(hours=2.01), "hours")
    'HOURS=+1'
    """
    limit = _limit(budget, name)
    return f"{name.upper()}=+{math.ceil(max(limit / 2, math.floor(getattr(used, name) - limit) + 1))}"
