"""What a sweep's trials came to: each one's best values, the best of all, the Pareto front. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from sweeps.stopping.pareto import fronts

Values = tuple[float, ...]
"""One of each objective."""


class Found:
    """Hears every epoch of every trial, and which trials are COMPLETE."""

    def __init__(self, modes: Sequence[Literal["max", "min"]]) -> None:
        """Args: modes: of each objective."""
        self._signs = tuple(1.0 if mode == "max" else -1.0 for mode in modes)
        self._values: dict[int, Values] = {}
        self._complete: set[int] = set()

    def note(self, number: int, values: Values) -> None:
        """One epoch of trial `number`. Its values are those of its best epoch by the first objective, as those of its best
        checkpoint are; an epoch that is not finite counts for nothing."""
        earlier = self._values.get(number)
        if all(map(math.isfinite, values)) and (earlier is None or self._sign * values[0] > self._sign * earlier[0]):
            self._values[number] = values

    def complete(self, number: int) -> None:
        """Trial `number` is COMPLETE with the values that it has."""
        self._complete.add(number)

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def __getitem__(self, number: int) -> Values:
        return self._values[number]

    @property
    def best(self) -> tuple[int, float] | None:
        """The COMPLETE trial with the best first objective, the earliest of equals, and that value."""
        if not self._complete:
            return None
        number = min(self._complete, key=lambda number: (-self._sign * self._values[number][0], number))
        return number, self._values[number][0]

    @property
    def front(self) -> dict[int, Values]:
        """The COMPLETE trials that no other one dominates, and their values: with one objective the best."""
        scores = {
            number: tuple(sign * value for sign, value in zip(self._signs, self._values[number], strict=True))
            for number in sorted(self._complete)
        }
        return {number: self._values[number] for number in (fronts(scores)[0] if scores else [])}

    def told(self, metrics: Sequence[str]) -> str:
        """The front in words, the best by the first objective first. Args: metrics: the objectives' names."""
        order = sorted(self.front.items(), key=lambda item: -self._sign * item[1][0])
        shown = ", ".join(f"trial {number} ({' / '.join(f'{value:.6g}' for value in values)})" for number, values in order)
        return f"{shown or 'no trial has finished yet'} by {' / '.join(metrics)}"

    @property
    def _sign(self) -> float:
        return self._signs[0]
