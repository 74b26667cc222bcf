"""Hyperband: successive halving in brackets that differ in how early they begin to rank."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

from sweeps.stopping.base import Mode, Rung, Scheduler, halved, level
from sweeps.stopping.verdicts import Report, Verdict


class Hyperband(Scheduler):
    """Hyperband (Li et al. 2018, arXiv:1603.06560), its brackets run asynchronously (Li et al. 2020, arXiv:1810.05934).

    For trials of R epochs there are brackets s = s_max … 0, s_max the largest for which R · `reduction_factor`^-s_max is at
    least `grace_epochs`. Bracket s ranks s times, at R · `reduction_factor`^-s, …, R / `reduction_factor` epochs, each
    time as `SuccessiveHalving` does, among its own trials; bracket 0 never. A trial's bracket follows from its place among
    those that ran, in the proportions of the paper's n_s. Trials of another R have brackets of their own.
    """

    def __init__(self, modes: Sequence[Mode], grace_epochs: int, reduction_factor: float, tolerance: float = 0.0) -> None:
        super().__init__(modes)
        self.grace_epochs = grace_epochs
        self.reduction_factor = reduction_factor
        self.tolerance = tolerance
        self._rungs: dict[tuple[int, int, int], Rung] = defaultdict(Rung)

    def bracket(self, place: int, max_epochs: int) -> int:
        """The bracket s of the trial before which `place` others ran: how often it is ranked."""
        if max_epochs < self.grace_epochs:
            return 0
        turns = rota(level(max_epochs, self.grace_epochs, self.reduction_factor), self.reduction_factor)
        return turns[place % len(turns)]

    def rung(self, bracket: int, epoch: int, max_epochs: int) -> int | None:
        """The highest rung of `bracket` at or below `epoch`, in epochs; None below the first."""
        rungs = [math.ceil(max_epochs * self.reduction_factor**-k - 1e-9) for k in range(bracket, 0, -1)]
        return max((rung for rung in rungs if rung <= epoch), default=None)

    def judge(self, report: Report) -> Verdict | None:
        best, place = self.best(report), report.number if report.place is None else report.place
        bracket = self.bracket(place, report.max_epochs)
        epochs = self.rung(bracket, report.epoch, report.max_epochs)
        if epochs is None:
            return None
        rung = self._rungs[bracket, report.max_epochs, epochs]
        if report.number in rung:
            return None
        rung.enter(report.number, best)
        return halved(self, rung, epochs, report, self.reduction_factor, self.tolerance)


@lru_cache
def rota(most: int, reduction_factor: float) -> tuple[int, ...]:
    """The brackets of consecutive trials: bracket s as often as n_s = ⌈(s_max + 1) / (s + 1) · η^s⌉ says, spread evenly.

    >>> rota(2, 3)
    (2, 1, 2, 0, 2, 1, 2, 0, 2, 1, 2, 1, 2, 0, 2, 1, 2)
    """
    wanted = {s: math.ceil((most + 1) / (s + 1) * reduction_factor**s - 1e-9) for s in range(most, -1, -1)}
    total = sum(wanted.values())
    given = dict.fromkeys(wanted, 0)
    turns = []
    for turn in range(1, total + 1):  # whoever lags most behind its share, the most often ranked of equals
        chosen = max(wanted, key=lambda s: (wanted[s] * turn / total - given[s], s))
        given[chosen] += 1
        turns.append(chosen)
    return tuple(turns)
