"""Which configuration of a sweep won: the one rule that the driver, `status`, `promote` and the report go by. Pure arithmetic.

It knows the values of trials, and neither Optuna nor files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from sweeps.stopping.pareto import fronts, ranked

Values = tuple[float, ...]
"""One of each objective."""
Mode = Literal["max", "min"]


@dataclass(frozen=True)
class Outcome:
    """What a COMPLETE trial came to."""

    number: int
    values: Values
    source: int | None = None
    """The trial that it repeats with another seed."""
    violations: Mapping[str, float] = field(default_factory=dict)
    """By outcome constraint, how far it is violated; one of 0 or less holds."""

    @property
    def feasible(self) -> bool:
        return all(violation <= 0 for violation in self.violations.values())


@dataclass(frozen=True)
class Configuration:
    """All COMPLETE trials of one setting that differ in their seeds alone."""

    number: int
    """The trial that stands for it: its first seed."""
    trials: tuple[int, ...]
    """Of every seed, the first one first."""
    values: Values
    """The mean over them."""
    deviations: Values
    """The standard deviation over them (n - 1); NaN with one seed."""
    violations: Mapping[str, float]
    """The mean over them."""

    @property
    def seeds(self) -> int:
        return len(self.trials)

    @property
    def feasible(self) -> bool:
        """Whether every outcome constraint holds for the mean over its seeds."""
        return all(violation <= 0 for violation in self.violations.values())

    @property
    def repeated(self) -> bool:
        return self.seeds > 1

    def by(self) -> str:
        """By what it is measured: ` by mean over 3 seeds`, or nothing.

        >>> Configuration(4, (4, 9), (0.5,), (0.1,), {}).by()
        ' by mean over 2 seeds'
        """
        return f" by mean over {self.seeds} seeds" if self.repeated else ""


def configurations(outcomes: Iterable[Outcome]) -> list[Configuration]:
    """The outcomes by configuration, in the order of the trials that stand for them."""
    groups: dict[int, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda outcome: outcome.number):
        groups.setdefault(outcome.number if outcome.source is None else outcome.source, []).append(outcome)
    return sorted((_configuration(group) for group in groups.values()), key=lambda found: found.number)


def _configuration(group: Sequence[Outcome]) -> Configuration:
    columns = list(zip(*(outcome.values for outcome in group), strict=True))
    names = dict.fromkeys(name for outcome in group for name in outcome.violations)
    return Configuration(
        number=group[0].number,
        trials=tuple(outcome.number for outcome in group),
        values=tuple(mean(column) for column in columns),
        deviations=tuple(deviation(column) for column in columns),
        violations={name: mean([one.violations[name] for one in group if name in one.violations]) for name in names},
    )


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean; of one value the value itself."""
    return values[0] if len(values) == 1 else math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample (n - 1); NaN of one value."""
    if len(values) < 2:
        return math.nan
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def rivals(found: Iterable[Configuration]) -> list[Configuration]:
    """Those among which the winner is: the feasible ones; where some of these were repeated, these alone.

    The value of a single seed that is good among many is good by luck in part, and would win over a mean by that.
    """
    feasible = [each for each in found if each.feasible]
    return [each for each in feasible if each.repeated] or feasible


def order(found: Iterable[Configuration], modes: Sequence[Mode]) -> list[Configuration]:
    """The feasible ones by the first objective, best first: what was repeated before what ran with one seed; of equals, the
    earlier."""
    sign = 1.0 if modes[0] == "max" else -1.0
    feasible = [each for each in found if each.feasible]
    return sorted(feasible, key=lambda each: (not each.repeated, -sign * each.values[0], each.number))


def best(found: Iterable[Configuration], modes: Sequence[Mode]) -> Configuration | None:
    """The winner, with several objectives by the first; None if none is feasible."""
    return next(iter(order(found, modes)), None)


def front(found: Iterable[Configuration], modes: Sequence[Mode]) -> list[Configuration]:
    """The rivals that no other one dominates, in their order: with one objective the best, and its equals."""
    those = rivals(found)
    by_number = {each.number: each for each in those}
    return [by_number[number] for number in fronts(_scores(those, modes))[0]] if those else []


def top(found: Iterable[Configuration], modes: Sequence[Mode], count: int) -> list[Configuration]:
    """The `count` best: of several objectives, by front, and in a front those in the emptier places first; of equals, the
    earlier."""
    by_number = {each.number: each for each in found}
    numbers = [number for equals in ranked(_scores(by_number.values(), modes)) for number in equals]
    return [by_number[number] for number in numbers[:count]]


def _scores(found: Iterable[Configuration], modes: Sequence[Mode]) -> dict[int, Values]:
    """Of every objective, more is better."""
    signs = [1.0 if mode == "max" else -1.0 for mode in modes]
    return {each.number: tuple(sign * value for sign, value in zip(signs, each.values, strict=True)) for each in found}
