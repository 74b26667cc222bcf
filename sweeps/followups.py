"""The trials that follow from others by the search space's own rules: which of them are due, and do not exist yet.

All of it is derived from the study's trials alone, so that asking twice, or after a kill, asks once. Each rule is a module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    def concerns(self, space: SearchSpace, verdict: Verdict, trial: FrozenTrial, searched: bool) -> bool:
        """Whether anything can become due when `trial` ends so. Args: searched: False while the search surely goes on."""
        ...

    def alone(self, space: SearchSpace) -> bool:
        """Whether what becomes due when a trial ends can be told from that trial: `due` then need not see the others."""
        ...

    def due(self, space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
        """What is to be enqueued. Args: trials: all of the study's own, waiting ones too."""
        ...


RULES: tuple[Rule, ...] = (memory, repeats, population)


def possible(space: SearchSpace) -> bool:
    """Whether anything can become due at all."""
    return any(rule.possible(space) for rule in RULES)


def due(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
    """What is to be enqueued now. Args: trials: all of the study's own, waiting ones too."""
    for rule in RULES:
        yield from rule.due(space, trials)


def after(
    space: SearchSpace, verdict: Verdict, trial: FrozenTrial, searched: bool, trials: Callable[[], Sequence[FrozenTrial]]
) -> Iterator[FollowUp]:
    """What is to be enqueued as `trial` has ended so; what was due before that is there. It is what `due` says, but the end of
    one trial does not cost a look at all of them.

    Args:
        searched: False while the search surely goes on.
        trials: gives all of the study's own, waiting ones too.
    """
    for rule in RULES:
        if rule.concerns(space, verdict, trial, searched):
            yield from rule.due(space, [trial] if rule.alone(space) else trials())
