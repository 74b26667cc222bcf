"""What a sweep has used of its budget: hours from its runs, epochs and seconds from its trials' histories.

Everything is read from the ledger, so that it is the same after a kill. The driver keeps it up to date as trials report.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lhtx.files import write_atomically
from sweeps import budgets
from sweeps.attributes import ALLOTTED, COPIED
from sweeps.budgets import Used, Work
from sweeps.ledger import Ledger, read_history
from sweeps.manifest import run_seconds
from sweeps.schema import Budget, Resources

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeps.attempts import Attempt

BEAT_SECONDS = 10.0
"""How often a driver writes down how long it has been running: so much of a run that was killed may be missing."""


class Account:
    """What a sweep has used of its budget; the driver's own is told of every epoch."""

    def __init__(self, ledger: Ledger, budget: Budget, resources: Resources, trials: Sequence[FrozenTrial]) -> None:
        """Args: trials: the sweep's own."""
        self._ledger, self._budget, self._resources = ledger, budget, resources
        self._copied = {trial.number: _copied(trial.user_attrs) for trial in trials}
        self._work = {trial.number: self._done(trial) for trial in trials if "overrides" in trial.user_attrs}
        self._epochs = sum(work.epochs for work in self._work.values())
        self._cost = math.fsum(work.cost(budget.prices) for work in self._work.values())
        self._session, self._before = run_seconds(ledger)
        self._start: float | None = None
        self._beat = 0.0

    def _done(self, trial: FrozenTrial) -> Work:
        """What the study holds of a trial that has ended, and its history of one that has not."""
        notes = trial.user_attrs
        if "epochs" in notes and "seconds" in notes:
            epochs, seconds = notes["epochs"], notes["seconds"]
        else:
            rows = read_history(self._ledger.trial(trial.number).history)
            epochs, seconds = (rows[-1]["epoch"], rows[-1]["seconds"]) if rows else (0, 0.0)
        return self._own(trial.number, epochs, seconds, notes.get(ALLOTTED))

    def _own(self, number: int, epochs: int, seconds: float, allotted: Mapping[str, float] | None = None) -> Work:
        before = self._copied.get(number, (0, 0.0))
        amounts = budgets.allotted(self._resources) if allotted is None else allotted
        return Work(max(0, epochs - before[0]), max(0.0, seconds - before[1]), amounts)

    @property
    def allotted(self) -> dict[str, float]:
        """What a trial that begins now is allotted of what has a price, for its attribute `ALLOTTED`."""
        return budgets.allotted(self._resources)

    def enter(self, number: int, notes: Mapping[str, Any], attempt: Attempt) -> None:
        """Trial `number` begins, or goes on. Args: notes: its user attributes."""
        if number not in self._work:
            self._copied[number] = _copied(notes)
            self._work[number] = self._own(number, attempt.history.last_epoch, attempt.seconds)

    def note(self, number: int, attempt: Attempt) -> None:
        """Trial `number` has come further."""
        before, prices = self._work[number], self._budget.prices
        now = self._work[number] = self._own(number, attempt.history.last_epoch, attempt.seconds, before.allotted)
        self._epochs += now.epochs - before.epochs
        self._cost += now.cost(prices) - before.cost(prices)

    def begin(self) -> None:
        """This process's run begins; it stands in the manifest."""
        self._session, self._before = run_seconds(self._ledger)
        self._start = self._beat = time.monotonic()

    def beat(self) -> None:
        """Write down now and then how long this run has taken, so that it counts if the driver is killed."""
        now = time.monotonic()
        if self._start is not None and now - self._beat >= BEAT_SECONDS:
            self._beat = now
            write_atomically(self._ledger.clock_file, json.dumps({"session": self._session, "seconds": self.seconds}) + "\n")

    @property
    def seconds(self) -> float:
        """Of this run."""
        return 0.0 if self._start is None else round(time.monotonic() - self._start, 3)

    @property
    def used(self) -> Used:
        """So far."""
        return Used((self._before + self.seconds) / 3600, self._epochs, self._cost)

    @property
    def spent(self) -> str | None:
        """The limit that has been reached."""
        return budgets.spent(self._budget, self.used)

    def __str__(self) -> str:
        return budgets.told(self._budget, self.used)

    @property
    def more(self) -> str | None:
        """How to go on once a limit has been reached; None before that."""
        limit = self.spent
        return f"{self._ledger.command('extend')} {budgets.more(self._budget, self.used, limit)}" if limit else None


def account(ledger: Ledger, trials: Sequence[FrozenTrial]) -> Account | None:
    """That of any sweep, as it stands; None if it has no budget, or one that this version does not know.

    Raises:
        LedgerError: the history of a trial that has not ended, or the manifest, is damaged.
    """
    space = ledger.plain_space()
    try:
        budget = Budget.model_validate(space.get("budget", {}))
        resources = Resources.model_validate(space.get("resources", {}))
    except ValidationError:  # the space is refused elsewhere, with file and line
        return None
    return Account(ledger, budget, resources, trials) if any(budget.model_dump().values()) else None


def _copied(attributes: Mapping[str, Any]) -> tuple[int, float]:
    epochs, seconds = attributes.get(COPIED, (0, 0.0))
    return int(epochs), float(seconds)
