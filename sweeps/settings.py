"""The settings of a space, one by one, and which of them a sweep has tried.

A setting is what the study holds of one trial: the active parameters and their values. It knows neither Optuna nor files.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import islice

from sweeps.hydra_overrides import Scalar
from sweeps.schema import Parameter, SearchSpace

MOST_LISTED = 100_000
"""A space of more settings counts as endless."""


def settings(parameters: Mapping[str, Parameter]) -> Iterator[dict[str, Scalar]]:
    """Every setting, the last parameter's values changing fastest; inactive parameters are in none.

    Args: parameters: in the order of a space, each after those that its conditions name; all finite.
    """
    return _settings(list(parameters.values()), {})


def _settings(parameters: list[Parameter], chosen: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
    if not parameters:
        yield dict(chosen)
        return
    first, *rest = parameters
    if not first.active(chosen):
        yield from _settings(rest, chosen)
        return
    for value in first.distribution.values():
        yield from _settings(rest, {**chosen, first.key: value})


def count(parameters: Mapping[str, Parameter]) -> int | None:
    """How many settings there are; None if a parameter is continuous, or if there are more than `MOST_LISTED`."""
    if not all(parameter.distribution.finite for parameter in parameters.values()):
        return None
    found = sum(1 for _ in islice(settings(parameters), MOST_LISTED + 1))
    return found if found <= MOST_LISTED else None


class Tried:
    """The settings that a sweep has tried: that ran, run, or were rejected by a constraint."""

    def __init__(self, space: SearchSpace) -> None:
        self._numbers: dict[frozenset[tuple[str, Scalar]], int] = {}
        self._all: list[dict[str, Scalar]] = []
        self._first = 0
        """All settings before this place have been tried: what has been stays so."""
        self._endless = count(space.parameters) is None
        if not self._endless:
            self._all = list(settings(space.parameters))
            random.Random(space.search.seed).shuffle(self._all)  # so that a part of them is a fair part

    def add(self, setting: Mapping[str, Scalar], number: int) -> None:
        """Trial `number` has, or had, this setting."""
        self._numbers.setdefault(frozenset(setting.items()), number)

    def number(self, setting: Mapping[str, Scalar]) -> int | None:
        """The first trial that had this setting, if there is one."""
        return self._numbers.get(frozenset(setting.items()))

    def untried(self, given: Mapping[str, Scalar] | None = None) -> dict[str, Scalar] | None:
        """A setting that nobody has had, with the values that are `given`; always the same one until it has been tried. None
        if there is none, or if the space is endless."""
        while self._first < len(self._all) and self.number(self._all[self._first]) is not None:
            self._first += 1
        wanted = set((given or {}).items())
        rest = (self._all[place] for place in range(self._first, len(self._all)))
        return next((each for each in rest if wanted <= each.items() and self.number(each) is None), None)

    @property
    def exhausted(self) -> bool:
        """Whether every setting of the space has been tried."""
        return not self._endless and self.untried() is None
