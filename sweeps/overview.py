"""How a sweep stands, read from its study, its manifest and its lock by whoever asks: it never writes, and never waits.

It takes the search space as plain data, so that a sweep whose space would no longer be accepted can still be listed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sweeps.attributes import KILLED, asked_again, own_trials
from sweeps.errors import LedgerError, SpaceError, SweepError
from sweeps.ledger import Ledger
from sweeps.lock import Holder
from sweeps.manifest import local_time
from sweeps.recorded import recorded

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

State = Literal["running", "interrupted", "complete", "failed"]
ENDS = {"finished": "finished", "spent": "spent", "outranked": "pruned", "broken": "broken", "failed": "failed"}
"""Verdict → the word for it."""


@dataclass(frozen=True)
class Running:
    """A trial that has been started and has not ended."""

    number: int
    epoch: int
    """Epochs done."""
    max_epochs: int | None
    """None before its first report, and where a trial has no last epoch."""
    values: tuple[float, ...]
    """The objectives after the last epoch at which they were finite; empty before there is one."""


@dataclass(frozen=True)
class Overview:
    """A sweep at one moment."""

    ledger: Ledger
    state: State
    """`running`: a process holds it. `complete`: every trial has ended (where the space has fewer settings than trials were
    asked for: every setting has been tried), and one has a value. `failed`: they all ended without one, or the first trials
    all failed for one reason. `interrupted`: anything else; it can be resumed."""
    holder: Holder | None
    metric: str
    target: int
    ended: Counter[str]
    """Verdict → trials; without those that constraints rejected."""
    best: tuple[int, float] | None
    """(number, value) of the best COMPLETE trial; with several objectives, by the first."""
    running: tuple[Running, ...]
    """Trials that have not ended: of a sweep that nobody runs, those that were interrupted."""
    started: datetime | None
    """When the sweep was last run or resumed (local time)."""
    last: datetime | None
    """When the last trial began or ended (local time)."""
    ended_now: int
    """Trials that ended since `started`."""
    exhausted: bool
    """Whether all trials have ended although the target has not been reached: no setting of the space is left."""

    @property
    def left(self) -> timedelta | None:
        """How long the sweep still takes, if trials go on ending at the rate of this run; None if that is not known."""
        if self.state != "running" or self.exhausted or not self.ended_now or self.started is None:
            return None
        elapsed = (datetime.now() - self.started).total_seconds()
        return timedelta(seconds=round((self.target - self.ended.total()) * elapsed / self.ended_now)) if elapsed > 0 else None

    def ends(self) -> str:
        """The trials by how they ended, in words: `9 finished, 13 pruned, 2 failed`."""
        return ", ".join(f"{self.ended[kind]} {word}" for kind, word in ENDS.items() if self.ended[kind]) or "none has ended"


def overview(ledger: Ledger) -> Overview:
    """Look at one sweep.

    Raises:
        LedgerError: there is no such sweep, or its study, manifest or search space cannot be read.
    """
    from sqlalchemy.exc import DatabaseError

    study = ledger.study()
    try:
        everything = own_trials(study.get_trials(deepcopy=False))
    except DatabaseError as error:
        raise LedgerError(
            f"{ledger.study_file} is damaged: its trials cannot be read ({error.orig}). Restore it from a copy."
        ) from error
    trials = [trial for trial in everything if trial.state.name != "WAITING"]
    target = _asked_for(ledger) + asked_again(everything)
    sessions = ledger.manifest().get("sessions", [])
    ended = [trial for trial in trials if trial.state.is_finished() and _verdict(trial) != "rejected"]
    counts = Counter(_verdict(trial) for trial in ended)
    best = _best(ended, maximize=study.directions[0].name == "MAXIMIZE")
    started = local_time(sessions[-1]["started"]) if sessions else None
    end = sessions[-1].get("end") if sessions else None
    exhausted = counts.total() < target and _exhausted(ledger, everything, end)
    holder = ledger.holder()
    times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time is not None]
    return Overview(
        ledger=ledger,
        state=_state(holder, exhausted or counts.total() >= target, best, end),
        holder=holder,
        metric=str(study.user_attrs.get("metric", "the objective")),
        target=target,
        ended=counts,
        best=best,
        running=tuple(_running(trial) for trial in trials if trial.state.name == "RUNNING" and "overrides" in trial.user_attrs),
        started=started,
        last=max(times, default=None),
        ended_now=sum(started is not None and trial.datetime_complete >= started for trial in ended),
        exhausted=exhausted,
    )


def overviews(root: Path) -> list[tuple[str, Overview | SweepError]]:
    """Every sweep under `root` by name, the latest last; instead of one that cannot be read, what is wrong with it."""
    found: list[tuple[str, Overview | SweepError]] = []
    for name in Ledger.names(root):
        try:
            found.append((name, overview(Ledger(name, root))))
        except SweepError as error:
            found.append((name, error))
    return sorted(found, key=lambda item: getattr(item[1], "last", None) or datetime.min)


def _asked_for(ledger: Ledger) -> int:
    space = ledger.plain_space()
    try:
        return int(space["search"]["trials"])
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(f"{ledger.space_file} cannot be read ({error}). Restore it from a copy.") from error


def _verdict(trial: FrozenTrial) -> str:
    default = {"COMPLETE": "finished", "PRUNED": "outranked"}.get(trial.state.name, "failed")
    return trial.user_attrs.get("verdict", {}).get("verdict", default)


def _best(ended: Iterable[FrozenTrial], maximize: bool) -> tuple[int, float] | None:
    values = [(trial.values[0], -trial.number) for trial in ended if trial.state.name == "COMPLETE" and trial.values]
    if not values:
        return None
    sign = 1 if maximize else -1
    value, number = max(values, key=lambda pair: (sign * pair[0], pair[1]))  # of equals, the earlier
    return -number, value


def _exhausted(ledger: Ledger, trials: Sequence[FrozenTrial], end: str | None) -> bool:
    """Whether all of a study's trials, waiting ones too, have ended, and there is no setting that none of them had."""
    if not all(trial.state.is_finished() for trial in trials):
        return False
    from sweeps.settings import Tried

    try:
        tried = Tried(ledger.space())
    except SpaceError:  # the settings are not known: how the last run has ended is
        return end == "complete"
    for trial in trials:
        if trial.user_attrs.get("verdict", {}).get("reason") != KILLED:  # its setting never ran, and may come again
            tried.add(trial.params, trial.number)
    return tried.exhausted


def _state(holder: Holder | None, done: bool, best: Any, end: str | None) -> State:
    if holder is not None:
        return "running"
    if done:
        return "complete" if best else "failed"
    return "failed" if end == "hopeless" else "interrupted"


def _running(trial: FrozenTrial) -> Running:
    epochs, budget = recorded(trial), trial.user_attrs.get("max_epochs", -1)
    finite = [values for values in epochs.values() if all(map(math.isfinite, values))]
    return Running(trial.number, max(epochs, default=0), budget if budget > 0 else None, finite[-1] if finite else ())
