"""What a sweep's trials came to: each one's best values, the best of all, the Pareto front. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from sweeps.winners import Configuration, Mode, Outcome, Values, best, configurations, front


class Found:
    """Hears every epoch of every trial, and which trials are COMPLETE."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        """Args: modes: of each objective."""
        self._modes = tuple(modes)
        self._sign = 1.0 if modes[0] == "max" else -1.0
        self._values: dict[int, Values] = {}
        self._outcomes: dict[int, Outcome] = {}

    def note(self, number: int, values: Values) -> None:
        """One epoch of trial `number`. Its values are those of its best epoch by the first objective, as those of its best
        checkpoint are; an epoch that is not finite counts for nothing."""
        earlier = self._values.get(number)
        if all(map(math.isfinite, values)) and (earlier is None or self._sign * values[0] > self._sign * earlier[0]):
            self._values[number] = values

    def complete(self, outcome: Outcome) -> None:
        """A trial is COMPLETE."""
        self._outcomes[outcome.number] = outcome
        self.__dict__.pop("configurations", None)

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def __getitem__(self, number: int) -> Values:
        return self._values[number]

    @cached_property
    def configurations(self) -> list[Configuration]:
        """The COMPLETE trials, those of one setting together."""
        return configurations(self._outcomes.values())

    @property
    def winner(self) -> Configuration | None:
        """The configuration with the best first objective that is within all outcome constraints: by mean, if one ran with
        several seeds."""
        return best(self.configurations, self._modes)

    @property
    def best(self) -> tuple[int, float] | None:
        """The trial that stands for the winner, and its first objective."""
        winner = self.winner
        return (winner.number, winner.values[0]) if winner else None

    @property
    def front(self) -> dict[int, Values]:
        """The configurations that no other one dominates, by the trials that stand for them: with one objective the best."""
        return {each.number: each.values for each in front(self.configurations, self._modes)}

    @property
    def complete_trials(self) -> int:
        """How many there are."""
        return len(self._outcomes)

    @property
    def infeasible(self) -> int:
        """How many COMPLETE trials are not within all outcome constraints."""
        return sum(not outcome.feasible for outcome in self._outcomes.values())

    def told(self, metrics: Sequence[str]) -> str:
        """The front in words, the best by the first objective first. Args: metrics: the objectives' names."""
        order = sorted(self.front.items(), key=lambda item: -self._sign * item[1][0])
        shown = ", ".join(f"trial {number} ({' / '.join(f'{value:.6g}' for value in values)})" for number, values in order)
        winner = self.winner
        none = "none within the outcome constraints" if self.infeasible else "no trial has finished yet"
        return f"{shown or none} by {' / '.join(metrics)}{winner.by().replace(' by', ',') if winner else ''}"
