"""What a sweep's trials came to: each one's best values, the best of all, the Pareto front. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sweeps.winners import Configuration, Mode, Outcome, Values, best, configurations, front


class Found:
    """Hears every epoch of every trial, and which trials are COMPLETE."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        """Args: modes: of each objective."""
        self._modes = tuple(modes)
        self._sign = 1.0 if modes[0] == "max" else -1.0
        self._values: dict[int, Values] = {}
        self._groups: dict[int, list[Outcome]] = {}
        """The COMPLETE trials of each configuration, by its first trial."""
        self._configurations: dict[int, Configuration] = {}
        self._sources: dict[int, int] = {}
        self._winner: Configuration | None = None
        self.complete_trials = 0
        """How many there are."""
        self.infeasible = 0
        """How many of them are not within all outcome constraints."""

    def note(self, number: int, values: Values) -> None:
        """One epoch of trial `number`. Its values are those of its best epoch by the first objective, as those of its best
        checkpoint are; an epoch that is not finite counts for nothing."""
        earlier = self._values.get(number)
        if all(map(math.isfinite, values)) and (earlier is None or self._sign * values[0] > self._sign * earlier[0]):
            self._values[number] = values

    def complete(self, outcome: Outcome) -> None:
        """A trial is COMPLETE; each is told once. What it costs does not depend on how many there are, unless it is one of the
        winner's."""
        self.complete_trials += 1
        self.infeasible += not outcome.feasible
        source = outcome.number if outcome.source is None else outcome.source
        self._sources[outcome.number] = source
        group = self._groups.setdefault(source, [])
        group.append(outcome)
        earlier, (found,) = self._configurations.get(source), configurations(group)
        self._configurations[source] = found
        if earlier is not None and earlier is self._winner:  # its mean has changed
            self._winner = best(self._configurations.values(), self._modes)
        else:
            self._winner = best([found, *([self._winner] if self._winner else [])], self._modes)

    def kin(self, number: int) -> Sequence[int]:
        """The COMPLETE trials of the configuration of trial `number`; of one that is not COMPLETE, itself."""
        source = self._sources.get(number)
        return (number,) if source is None else self._configurations[source].trials

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def __getitem__(self, number: int) -> Values:
        return self._values[number]

    @property
    def configurations(self) -> list[Configuration]:
        """The COMPLETE trials, those of one setting together."""
        return sorted(self._configurations.values(), key=lambda each: each.number)

    @property
    def winner(self) -> Configuration | None:
        """The configuration with the best first objective that is within all outcome constraints: by mean, if one ran with
        several seeds."""
        return self._winner

    @property
    def best(self) -> tuple[int, float] | None:
        """The trial that stands for the winner, and its first objective."""
        winner = self.winner
        return (winner.number, winner.values[0]) if winner else None

    @property
    def front(self) -> dict[int, Values]:
        """The configurations that no other one dominates, by the trials that stand for them: with one objective the best."""
        return {each.number: each.values for each in front(self.configurations, self._modes)}

    def told(self, metrics: Sequence[str]) -> str:
        """The front in words, the best by the first objective first. Args: metrics: the objectives' names."""
        order = sorted(self.front.items(), key=lambda item: -self._sign * item[1][0])
        shown = ", ".join(f"trial {number} ({' / '.join(f'{value:.6g}' for value in values)})" for number, values in order)
        winner = self.winner
        none = "none within the outcome constraints" if self.infeasible else "no trial has finished yet"
        return f"{shown or none} by {' / '.join(metrics)}{winner.by().replace(' by', ',') if winner else ''}"
