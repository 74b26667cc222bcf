"""`keep_checkpoints`: which checkpoints of a sweep stay, and the removal of the others, for good, while it runs.

What goes is decided by the study, which knows a trial's end before this does, and by what there is: done again, or after a
kill, it removes what is left. It never touches a trial that has not ended, or from which another one is still to start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lhtx.files import REMOVED, write_atomically
from sweeps.attributes import CONTINUES, EXPLOITS, REPEATS
from sweeps.errors import LedgerError
from sweeps.ledger import Ledger
from sweeps.outcomes import outcome
from sweeps.sizes import size_text
from sweeps.winners import best, configurations, order, top

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeps.outputs import KeepCheckpoints
    from sweeps.schema import SearchSpace
    from sweeps.winners import Configuration, Mode

BEST, LAST = "best.ckpt", "last.ckpt"
_ELSEWHERE = "Restore it from a copy; what was fetched from a cluster has it with `--checkpoints all`."


def kept(
    quota: KeepCheckpoints, modes: Sequence[Mode], trials: Iterable[FrozenTrial], present: Mapping[int, frozenset[str]]
) -> dict[int, frozenset[str]]:
    """Which of the checkpoints that are `present` stay.

    Of the `best` trials, `best.ckpt` and what else is no `last.ckpt`; of the `last` ones, `last.ckpt`. Ranked are the
    configurations, by all their trials, as the winner is found (`sweeps.winners`); of several objectives, the winner by the
    first of them, then by Pareto front and crowding; those that violate an outcome constraint come last. Of each counts the
    first seed whose best checkpoint there is. All of a trial stays that has not ended or that is not the study's; so does all
    of one that another, which has not ended, follows from.

    Args:
        trials: all of the study's own, waiting ones too.
        present: by trial, the names of its checkpoints.
    """
    trials = list(trials)
    unfinished = [trial for trial in trials if not trial.state.is_finished()]
    needed = {trial.number for trial in unfinished}
    for name in (CONTINUES, EXPLOITS, REPEATS):
        needed |= {trial.user_attrs[name] for trial in unfinished if name in trial.user_attrs}
    ended = {trial.number: trial for trial in trials if trial.state.is_finished()}
    held = [[number for number in each.trials if BEST in present.get(number, ())] for each in _ranked(modes, ended.values())]
    best = {numbers[0] for numbers in list(filter(None, held))[: quota.best or 0]}
    lasting = [number for number in ended if LAST in present.get(number, ())]
    lasting.sort(key=lambda number: (ended[number].datetime_complete, number), reverse=True)
    last = set(lasting[: quota.last or 0])
    return {
        number: names
        if number in needed or number not in ended
        else frozenset(name for name in names if number in (last if name == LAST else best))
        for number, names in present.items()
    }


def _ranked(modes: Sequence[Mode], trials: Iterable[FrozenTrial]) -> list[Configuration]:
    """The configurations of these trials, the best first."""
    found = configurations(outcome(trial) for trial in trials if trial.state.name == "COMPLETE")
    winner = best(found, modes)
    if len(modes) == 1:
        ranked = order(found, modes)
    else:
        feasible = [each for each in found if each.feasible]
        ranked = [
            configuration
            for group in ([each for each in feasible if each.repeated], [each for each in feasible if not each.repeated])
            for configuration in top(group, modes, len(group))
        ]
        ranked.sort(key=lambda each: each != winner)  # the winner by the first objective, which `promote` takes, is one of them
    infeasible = [each for each in found if not each.feasible]
    return [*ranked, *top(infeasible, modes, len(infeasible))]


def enforce(ledger: Ledger, space: SearchSpace, trials: Iterable[FrozenTrial]) -> dict[int, frozenset[str]]:
    """Remove what the quota of `space` does not keep; what is left. A note beside it says so first.

    Args: trials: all of the study's own, waiting ones too.

    Raises:
        OSError: a file cannot be removed.
    """
    return _enforce(ledger, space, trials, checkpoints(ledger)) if space.outputs.keep_checkpoints else {}


def _enforce(
    ledger: Ledger, space: SearchSpace, trials: Iterable[FrozenTrial], present: Mapping[int, frozenset[str]]
) -> dict[int, frozenset[str]]:
    wanted = space.outputs.keep_checkpoints
    assert wanted is not None
    keeps = kept(wanted, space.modes, trials, present)
    for number, names in present.items():
        if gone := sorted(names - keeps[number]):
            directory = ledger.trial(number).checkpoints
            write_atomically(
                directory / REMOVED,
                f"The quota of the sweep {ledger.name} (keep_checkpoints: {wanted}) has removed checkpoints of this trial. "
                f"Which are kept: `{ledger.command('status')}`.\n",
            )
            for name in gone:
                (directory / name).unlink(missing_ok=True)
    return {number: names & keeps[number] for number, names in present.items() if names & keeps[number]}


class Keeper:
    """The quota while a sweep runs: it remembers what there is, so that a trial's end does not cost a look at all of them.

    Looked at are the trials that have checkpoints, and those that have ended of late: a trial that was told to end writes its
    last one after that. Now and then all are, once a quarter more have ended. With several objectives the trials are all ranked
    each time, since how crowded a place is depends on all.
    """

    LATE = 16
    """Of so many trials that have ended, more checkpoints may come."""

    def __init__(self, ledger: Ledger, space: SearchSpace, trials: Callable[[], Sequence[FrozenTrial]]) -> None:
        """Args: trials: gives all of the study's own, waiting ones too."""
        self._ledger, self._space, self._all = ledger, space, trials
        self._left: dict[int, frozenset[str]] = {}
        self._late: deque[int] = deque(maxlen=self.LATE)
        self._ended = self._due = 0

    def everything(self) -> None:
        """Look at all trials. Raises as `enforce`."""
        self._left = enforce(self._ledger, self._space, self._all())
        self._due = self._ended + self.LATE + len(self._left) + self._ended // 4

    def ended(self, number: int, kin: Callable[[int], Sequence[FrozenTrial]], open_trials: Sequence[FrozenTrial]) -> None:
        """Trial `number` has ended.

        Args:
            kin: gives the trials of the configuration of one, itself among them.
            open_trials: those that have not ended, waiting ones too.

        Raises: as `enforce`.
        """
        if self._space.outputs.keep_checkpoints is None:
            return
        self._ended += 1
        self._late.append(number)
        if self._ended >= self._due:
            self.everything()
            return
        present = {each: _names(self._ledger, each) for each in sorted({*self._left, *self._late})}
        present = {each: names for each, names in present.items() if names}
        if len(self._space.modes) > 1:
            trials = self._all()
        else:
            needed = {trial.number: trial for each in present for trial in kin(each)}
            trials = list((needed | {trial.number: trial for trial in open_trials}).values())
        self._left = _enforce(self._ledger, self._space, trials, present)


def _names(ledger: Ledger, number: int) -> frozenset[str]:
    """Those of a trial's checkpoints."""
    return frozenset(path.name for path in ledger.trial(number).checkpoints.glob("[!.]*.ckpt"))


def checkpoints(ledger: Ledger) -> dict[int, frozenset[str]]:
    """By trial, the names of its checkpoints; trials without any are left out."""
    found: dict[int, set[str]] = {}
    for path in ledger.checkpoint_files():
        found.setdefault(int(path.parents[1].name), set()).add(path.name)
    return {number: frozenset(names) for number, names in sorted(found.items())}


@dataclass(frozen=True)
class Stock:
    """The checkpoints that a sweep has."""

    best: tuple[int, ...]
    """The trials with a best checkpoint."""
    last: tuple[int, ...]
    """Those with a last one."""
    files: int
    size: int
    """Bytes."""

    @classmethod
    def of(cls, ledger: Ledger) -> Stock:
        sizes, found = ledger.checkpoint_files(), checkpoints(ledger)
        return cls(
            best=tuple(number for number, names in found.items() if BEST in names),
            last=tuple(number for number, names in found.items() if LAST in names),
            files=len(sizes),
            size=sum(sizes.values()),
        )

    def __bool__(self) -> bool:
        return self.files > 0

    def __str__(self) -> str:
        """In words.

        >>> str(Stock((1, 4), (7,), 3, 3 * 2**20))
        '3 checkpoints, 3 MiB: best of 1, 4; last of 7'
        """
        best, last = _numbers(self.best), _numbers(self.last)
        return f"{self.files} checkpoints, {size_text(self.size)}: best of {best}; last of {last}"


def _numbers(numbers: Sequence[int], most: int = 12) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return f"{', '.join(map(str, numbers[:most]))}{more}" if numbers else "none"


def removed(ledger: Ledger, number: int) -> str | None:
    """What to say of a trial of which the quota has removed something, and which ones have what; None if it has not."""
    note = ledger.trial(number).checkpoints / REMOVED
    return f"{note.read_text().strip()} There are {Stock.of(ledger)}." if note.exists() else None


def require_start(ledger: Ledger, trial: FrozenTrial) -> int | None:
    """Refuses a copy of another trial (population-based training) whose start checkpoint is gone: without it, it would be
    another trial. The trial that it is a copy of, if it is one.

    Raises:
        LedgerError: with what has become of it.
    """
    source, files = trial.user_attrs.get(EXPLOITS), ledger.trial(trial.number)
    if source is not None and not files.start_checkpoint.exists():
        raise LedgerError(
            f"trial {trial.number} is a copy of trial {source}: it starts from {files.start_checkpoint}, which is not there "
            f"any more. {removed(ledger, trial.number) or _ELSEWHERE}"
        )
    return source


def require_last(ledger: Ledger, number: int) -> None:
    """Refuses a trial whose last checkpoint the quota has removed.

    Raises:
        LedgerError: with the trials that have theirs.
    """
    if not ledger.trial(number).last_checkpoint.exists() and (said := removed(ledger, number)):
        raise LedgerError(f"Trial {number} of the sweep {ledger.name!r} cannot be trained further. {said}")
