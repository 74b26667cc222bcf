"""Asynchronous successive halving: rungs, at each of which a share of the trials goes on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from sweeps.stopping.base import Mode, Rung, Scheduler, halved, level
from sweeps.stopping.verdicts import Report, Verdict


class SuccessiveHalving(Scheduler):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934, algorithm 2; here the outranked stop for good).

    Rungs lie at `grace_epochs · reduction_factor^k`. A trial that reaches a rung goes on if its best value so far is among the
    best 1/`reduction_factor` of all that ever reached it (at least one), or within `tolerance` of the last of those. With
    several objectives the ranking is by Pareto front, then by crowding (`sweeps.stopping.pareto`).
    """

    def __init__(self, modes: Sequence[Mode], grace_epochs: int, reduction_factor: float, tolerance: float = 0.0) -> None:
        super().__init__(modes)
        self.grace_epochs = grace_epochs
        self.reduction_factor = reduction_factor
        self.tolerance = tolerance
        self._rungs: dict[int, Rung] = defaultdict(Rung)

    def rung(self, epoch: int) -> int | None:
        """The highest rung at or below `epoch`, in epochs; None below the first."""
        if epoch < self.grace_epochs:
            return None
        k = level(epoch, self.grace_epochs, self.reduction_factor)
        return math.ceil(self.grace_epochs * self.reduction_factor**k - 1e-9)

    def judge(self, report: Report) -> Verdict | None:
        best, epochs = self.best(report), self.rung(report.epoch)
        if epochs is None or report.number in self._rungs[epochs]:
            return None
        rung = self._rungs[epochs]
        rung.enter(report.number, best)
        return halved(self, rung, epochs, report, self.reduction_factor, self.tolerance)
