"""What a trial's user attributes in the study say of it: which other trial it follows, where it came from, whether it ran.

It knows Optuna's trials, and neither files nor search spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

RETRIES = "retries"
"""The number of the trial that it runs again."""
HALVED = "halved"
"""Of a trial that runs another again: with half its batch, as that one ran out of memory."""
CONTINUES = "continues"
"""The number of the trial that it trains further, until epoch `EPOCHS`."""
REPEATS = "repeats"
"""The number of the trial whose parameters it runs with another seed."""
REPLACES = "replaces"
"""The number of the member of a population whose place it takes, with a copy of the trial `EXPLOITS` at epoch `EPOCHS`."""
EXPLOITS = "exploits"
EPOCHS = "to_epochs"
COPIED = "copied"
"""Of a trial that began where another stood: the epochs that it did not train itself, and their seconds in its history."""
ALLOTTED = "allotted"
"""What of its resources has a price: `sweeps.budgets.allotted`."""
FROM = "from"
"""Of a trial that was taken over from another sweep: which one, and its number there."""
ALONE = "alone"
"""Of a trial that trained with others as one and left them unfinished: the epochs after which it goes on by itself."""

INSTEAD_OF = "instead_of"
"""The number of the enqueued trial that it stands for, since a driver was killed while proposing that one."""
KILLED = "the driver was killed while it was being proposed"
"""Why a trial was rejected whose setting may be proposed again."""

FOLLOWS = (RETRIES, CONTINUES, REPEATS, REPLACES)
"""Each of them says that a trial was asked for on top of the search space's `trials`."""
EXEMPT = (CONTINUES, REPEATS)
"""Each of them says that a trial runs to its end, whatever the others do."""


@dataclass(frozen=True)
class FollowUp:
    """A trial that follows from another, to be enqueued: its parameters, and the user attributes that say what it follows."""

    parameters: Mapping[str, Any]
    attributes: Mapping[str, Any]


def own_trials(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """Those that are the sweep's own: not the ones that were taken over from another, which only its sampler is to see."""
    return [trial for trial in trials if FROM not in trial.user_attrs]


def follows(trial: FrozenTrial) -> bool:
    """Whether a trial follows from another one: it may have the setting of one that was tried."""
    return any(name in trial.user_attrs for name in FOLLOWS)


def asked_again(trials: Iterable[FrozenTrial]) -> int:
    """How many of a study's `trials`, waiting ones too, were asked for on top of the search space's `trials`: those that
    follow from others."""
    return sum(follows(trial) and not rejected(trial) for trial in trials)


def rejected(trial: FrozenTrial) -> bool:
    """Whether a trial never ran: its setting was refused, or a driver was killed while it was being proposed."""
    return trial.user_attrs.get("verdict", {}).get("verdict") == "rejected"
