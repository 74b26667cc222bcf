"""How a sweep stands, read from its study, its manifest and its lock by whoever asks: it never writes, and never waits.

It takes the search space as plain data, so that a sweep whose space would no longer be accepted can still be listed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sweeps.attributes import KILLED, asked_again, own_trials
from sweeps.errors import LedgerError, SpaceError, SweepError, Unreachable
from sweeps.ledger import Ledger
from sweeps.lock import Holder
from sweeps.manifest import local_time
from sweeps.outcomes import outcome
from sweeps.places import Place
from sweeps.recorded import recorded
from sweeps.usage import account
from sweeps.winners import Configuration, Mode, best, configurations

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
    configurations: tuple[Configuration, ...]
    """The COMPLETE trials, those that differ in their seeds alone together."""
    winner: Configuration | None
    """The best configuration (`sweeps.winners.best`); with several objectives, by the first."""
    infeasible: int
    """COMPLETE trials that are not within the outcome constraints."""
    running: tuple[Running, ...]
    """Trials that have not ended: of a sweep that nobody runs, those that were interrupted."""
    started: datetime | None
    """When the sweep was last run or resumed (local time)."""
    last: datetime | None
    """When the last trial began or ended (local time)."""
    ended_now: int
    """Trials that ended since `started`."""
    budget: str
    """What is used of each limit of the sweep's budget, in words; empty if it has none."""
    more: str | None
    """What a person types to go on, once a limit has been reached."""
    exhausted: bool
    """Whether all trials have ended although the target has not been reached: no setting of the space is left."""

    @property
    def best(self) -> tuple[int, float] | None:
        """The trial that stands for the winner, and its value: the mean, where it ran with several seeds."""
        return (self.winner.number, self.winner.values[0]) if self.winner else None

    def best_text(self) -> str:
        """The winner in words."""
        if self.winner:
            return f"best {self.metric} {self.winner.values[0]:.4g}{self.winner.by()}: trial {self.winner.number}"
        return "no trial is within the outcome constraints" if self.infeasible else "no trial has a value yet"

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
    study = ledger.study()
    everything = own_trials(study.get_trials(deepcopy=False))
    trials = [trial for trial in everything if trial.state.name != "WAITING"]
    target = _asked_for(ledger) + asked_again(everything)
    sessions = ledger.manifest().get("sessions", [])
    ended = [trial for trial in trials if trial.state.is_finished() and _verdict(trial) != "rejected"]
    counts = Counter(_verdict(trial) for trial in ended)
    found = [outcome(trial) for trial in ended if trial.state.name == "COMPLETE" and trial.values]
    grouped = configurations(found)
    modes: list[Mode] = ["max" if direction.name == "MAXIMIZE" else "min" for direction in study.directions]
    started = local_time(sessions[-1]["started"]) if sessions else None
    end = sessions[-1].get("end") if sessions else None
    exhausted = counts.total() < target and _exhausted(ledger, everything, end)
    holder, used = ledger.holder(), account(ledger, everything)
    times = [time for trial in trials for time in (trial.datetime_start, trial.datetime_complete) if time is not None]
    return Overview(
        ledger=ledger,
        state=_state(holder, exhausted or counts.total() >= target, bool(found), end),
        holder=holder,
        metric=str(study.user_attrs.get("metric", "the objective")),
        target=target,
        ended=counts,
        configurations=tuple(grouped),
        winner=best(grouped, modes),
        infeasible=sum(not each.feasible for each in found),
        running=tuple(_running(trial) for trial in trials if trial.state.name == "RUNNING" and "overrides" in trial.user_attrs),
        started=started,
        last=max(times, default=None),
        ended_now=sum(started is not None and trial.datetime_complete >= started for trial in ended),
        budget=str(used or ""),
        more=used.more if used else None,
        exhausted=exhausted,
    )


def overviews(root: Path) -> list[tuple[str, Overview | SweepError]]:
    """Every sweep under `root` by name, the latest last; instead of one that cannot be read, what is wrong with it."""
    found: list[tuple[str, Overview | SweepError]] = []
    silent: dict[Place, Unreachable] = {}
    """Databases that have not answered: a second sweep does not wait for the same one."""
    for name in Ledger.names(root):
        ledger = Ledger(name, root)
        try:
            if ledger.place in silent:
                raise silent[ledger.place]
            found.append((name, overview(ledger)))
        except Unreachable as error:
            silent[ledger.place] = error
            found.append((name, error))
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


def _state(holder: Holder | None, done: bool, valued: bool, end: str | None) -> State:
    if holder is not None:
        return "running"
    if done:
        return "complete" if valued else "failed"
    return "failed" if end == "hopeless" else "interrupted"


def _running(trial: FrozenTrial) -> Running:
    epochs, budget = recorded(trial), trial.user_attrs.get("max_epochs", -1)
    finite = [values for values in epochs.values() if all(map(math.isfinite, values))]
    return Running(trial.number, max(epochs, default=0), budget if budget > 0 else None, finite[-1] if finite else ())
