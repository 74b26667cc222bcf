"""The trials that follow from others by the search space's own rules: which of them are due, and do not exist yet.

All of it is derived from the study's trials alone, so that asking twice, or after a kill, asks once. Each rule is a module.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from optuna.trial import FrozenTrial

from sweeps import memory, population, repeats
from sweeps.attributes import FollowUp
from sweeps.schema import SearchSpace
from sweeps.stopping import Verdict


class Rule(Protocol):
    """By which trials follow from others."""

    def possible(self, space: SearchSpace) -> bool:
        """Whether anything can become due in a sweep of this space, so that the end of a running trial is to be waited for."""
        ...

    def concerns(self, space: SearchSpace, verdict: Verdict) -> bool:
        """Whether anything can become due when a trial ends so."""
        ...

    def due(self, space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
        """What is to be enqueued. Args: trials: all of the study's own, waiting ones too."""
        ...


RULES: tuple[Rule, ...] = (memory, repeats, population)


def possible(space: SearchSpace) -> bool:
    """Whether anything can become due at all."""
    return any(rule.possible(space) for rule in RULES)


def concern(space: SearchSpace, verdict: Verdict) -> bool:
    """Whether anything can become due when a trial ends so."""
    return any(rule.concerns(space, verdict) for rule in RULES)


def due(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
    """What is to be enqueued now. Args: trials: all of the study's own, waiting ones too."""
    for rule in RULES:
        yield from rule.due(space, trials)
