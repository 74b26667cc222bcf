"""What every scheduler is: reports in, a verdict or nothing out, and no memory but the reports. Pure arithmetic.

The law that a resumed sweep rests on (`tests/sweeps/test_schedulers.py` holds every scheduler to it): what a scheduler
knows does not depend on the order in which different trials have reported, so replaying each trial's reports, one trial
after another, brings a new scheduler to where an earlier one was.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar, Literal

from sweeps.stopping.pareto import Fronts, ranked, ranked_front
from sweeps.stopping.verdicts import Report, Verdict

Mode = Literal["max", "min"]
Scores = tuple[float, ...]
"""One number an objective, of which more is always better."""


class Scheduler(ABC):
    """Decides which trials end before their last epoch, by comparing them. Values must be finite (`objective_not_finite`)."""

    suspends: ClassVar[bool] = False
    """Whether it may say `waiting`."""

    def __init__(self, modes: Sequence[Mode]) -> None:
        """Args: modes: of each objective."""
        self.signs = tuple(1.0 if mode == "max" else -1.0 for mode in modes)
        self._best: dict[int, Scores] = {}

    @abstractmethod
    def judge(self, report: Report) -> Verdict | None:
        """Record the report; the verdict `outranked` ends the trial, `waiting` suspends it. A report that comes again (a
        trial that continues repeats its checkpoint's epoch) changes nothing."""

    @property
    def waiting(self) -> Sequence[int]:
        """The trials that are suspended, the best first."""
        return ()

    @property
    def released(self) -> frozenset[int]:
        """The trials that were suspended once, go on, and are not suspended again."""
        return frozenset()

    def ready(self, living: Collection[int]) -> Sequence[int]:
        """The suspended trials that may go on now, the best first.

        Args: living: the trials that it has a say in and that have not ended. No others are to come, but for those that follow
            from the trials that this has `overtaken`.
        """
        return ()

    def inherit(self, number: int, epochs: int) -> None:
        """Trial `number` starts from another's checkpoint of epoch `epochs`; its own reports come after that."""
        return

    def release(self, number: int) -> None:
        """Let the suspended trial `number` go on. It repeats its last epoch first."""
        raise ValueError(f"trial {number} is not suspended")

    def overtaken(self) -> Iterator[tuple[int, Verdict]]:
        """The suspended trials that others have outranked meanwhile: they end without going on."""
        return iter(())

    def end(self, number: int) -> None:
        """The trial has ended: what it has reached still counts, but it is suspended no more."""
        return

    def best(self, report: Report) -> Scores:
        """The trial's scores at its best epoch until this one: that at which the first objective was best, as the best
        checkpoint has it."""
        scores = tuple(sign * value for sign, value in zip(self.signs, report.values, strict=True))
        earlier = self._best.get(report.number)
        if earlier is None or scores[0] > earlier[0]:
            self._best[report.number] = scores
        return self._best[report.number]

    def shown(self, scores: Scores) -> str:
        """Scores as the metrics that they are."""
        return " / ".join(f"{sign * score:.6g}" for sign, score in zip(self.signs, scores, strict=True))


class Rung:
    """The trials that ever reached one point of their training, with their scores there; ranked as they come in, so that one
    more costs no more the more there are."""

    def __init__(self) -> None:
        self._scores: dict[int, Scores] = {}
        self._order: list[tuple[float, int]] = []
        """With one objective: minus the score, and the trial; sorted."""
        self._fronts = Fronts()
        """With several."""

    def __contains__(self, number: int) -> bool:
        return number in self._scores

    def __len__(self) -> int:
        return len(self._scores)

    def __getitem__(self, number: int) -> Scores:
        return self._scores[number]

    def enter(self, number: int, scores: Scores) -> None:
        """A trial has come here; each comes once."""
        if number in self._scores:
            raise ValueError(f"trial {number} has been here")
        self._scores[number] = scores
        if len(scores) == 1:
            insort(self._order, (-scores[0], number))
        else:
            self._fronts.add(number, scores)

    @property
    def ranked(self) -> list[list[int]]:
        """Best first; equals stand together."""
        return ranked(self._scores)

    @property
    def order(self) -> list[int]:
        """Best first; of equals the earlier trial."""
        return [number for equals in self.ranked for number in equals]

    def place(self, number: int) -> int:
        """From 1; equals share the best of their places."""
        if self._order:
            return bisect_left(self._order, (-self._scores[number][0], -1)) + 1
        before, groups = self._front_of(number)
        return before + 1 + next(sum(map(len, groups[:at])) for at, equals in enumerate(groups) if number in equals)

    def position(self, number: int) -> int:
        """From 1, in `order`."""
        if self._order:
            return bisect_left(self._order, (-self._scores[number][0], number)) + 1
        before, groups = self._front_of(number)
        return before + 1 + [each for equals in groups for each in equals].index(number)

    def cut(self, kept: int) -> Scores:
        """The scores of the last of the `kept` best; of equals, those of the earliest."""
        if self._order:
            return self._scores[self._order[kept - 1][1]]
        for front in self._fronts:
            if kept <= len(front):
                for equals in ranked_front(front):
                    if kept <= len(equals):
                        return self._scores[equals[0]]
                    kept -= len(equals)
            kept -= len(front)
        raise IndexError(kept)

    def share(self, reduction_factor: float) -> int:
        """How many the best 1/`reduction_factor` are: at least one."""
        return max(1, int(len(self) / reduction_factor + 1e-9))

    def _front_of(self, number: int) -> tuple[int, list[list[int]]]:
        """How many are in the fronts before a trial's, and its front ranked."""
        before = 0
        for front in self._fronts:
            if number in front:
                return before, ranked_front(front)
            before += len(front)
        raise KeyError(number)


def halved(
    scheduler: Scheduler, rung: Rung, epochs: int, report: Report, reduction_factor: float, tolerance: float
) -> Verdict | None:
    """The rule of successive halving at a rung that the trial has just entered: outranked unless it is among the best
    1/`reduction_factor` there, or (with one objective) within `tolerance` of the last of those."""
    kept, place, scores = rung.share(reduction_factor), rung.place(report.number), rung[report.number]
    cut = rung.cut(kept)
    near = len(scores) == 1 and scores[0] >= cut[0] - tolerance
    if report.last or place <= kept or near:
        return None
    numbers: dict[str, float] = {"value": scheduler.signs[0] * scores[0]}
    if len(scores) == 1:
        numbers["cut"] = scheduler.signs[0] * cut[0]
    where = f"{place} of {len(rung)} at the rung of {epochs} epochs, where {kept} go on: "
    told = f"{scheduler.shown(scores)} against a cut of {scheduler.shown(cut)}"
    return Verdict("outranked", where + told, report.epoch, {**numbers, "rung": epochs, "reached": len(rung), "kept": kept})


def level(epoch: float, first: float, factor: float) -> int:
    """The largest k with `first` · `factor`^k ≤ `epoch`; negative below `first`."""
    return math.floor(math.log(epoch / first, factor) + 1e-9)


def median_of_ordered(numbers: Sequence[float]) -> float:
    """The median of numbers that are in order: `statistics.median` would put all of them in order each time."""
    middle = len(numbers) // 2
    return numbers[middle] if len(numbers) % 2 else (numbers[middle - 1] + numbers[middle]) / 2
