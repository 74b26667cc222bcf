"""The gradient guard: one run's own health ends it, whatever the others do (docs/gradients.md). Pure arithmetic."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass

from sweeps.stopping.base import Mode, median_of_ordered
from sweeps.stopping.verdicts import Report, Verdict, not_finite


@dataclass(frozen=True)
class _Point:
    """What the guard remembers of one epoch of one trial."""

    epoch: int
    best: float
    noise_epochs: int
    """For how many epochs in a row, up to this one, the gradient could not be told from noise."""


class Guard:
    """Watches a run's own health: gradients tell when one run has broken or has nothing left to learn (docs/gradients.md).

    broken: the objective, the loss or a gradient is not finite; or the gradient norm is 0 for an epoch; or it exceeds
        `explode_factor` times the running median of its peers at that epoch (once `min_peers` have been there).
    spent: `evidence` was above 0 for `patience` epochs in a row, and the objective gained less than `min_gain` in them.

    Statistics that a run did not collect make no statement.
    """

    NORM = "grad/epoch_mean"
    EVIDENCE = "grad/evidence"

    def __init__(self, mode: Mode, explode_factor: float, patience: int, min_gain: float, min_peers: int = 5) -> None:
        self.sign = 1.0 if mode == "max" else -1.0
        self.explode_factor = explode_factor
        self.patience = patience
        self.min_gain = min_gain
        self.min_peers = min_peers
        self._norms: dict[int, dict[int, float]] = defaultdict(dict)
        """Of each trial that has not ended, by epoch."""
        self._peers: dict[int, array[float]] = defaultdict(lambda: array("d"))
        """Of each epoch those of all trials, in order: so one more costs no more the more there are."""
        self._courses: dict[int, list[_Point]] = defaultdict(list)

    def judge(self, report: Report) -> Verdict | None:
        """Record the report, and say whether the trial is broken or spent."""
        return self._broken(report) or self._spent(report)

    def end(self, number: int) -> None:
        """The trial has ended: of its own course nothing is asked any more."""
        self._norms.pop(number, None)
        self._courses.pop(number, None)

    def _broken(self, report: Report) -> Verdict | None:
        watched = {name: value for name, value in report.metrics.items() if name == self.NORM or name.startswith("grad/norm")}
        watched |= {name: value for name, value in report.metrics.items() if name.endswith("/loss")}
        if bad := {name: value for name, value in watched.items() if not math.isfinite(value)}:
            return not_finite(bad, report.epoch)
        norm = report.metrics.get(self.NORM)
        if norm is None:
            return None
        if norm == 0:
            return Verdict("broken", "dead: the gradient norm was 0 all epoch", report.epoch, {self.NORM: norm})
        own, peers = self._norms[report.number], self._peers[report.epoch]
        if report.epoch in own:  # a continued trial says some epochs again
            del peers[bisect_left(peers, own[report.epoch])]
        count, typical = len(peers), median_of_ordered(peers) if peers else 0.0
        own[report.epoch] = norm
        insort(peers, norm)
        if count < self.min_peers:
            return None
        if norm <= self.explode_factor * typical:
            return None
        return Verdict(
            "broken",
            f"exploding: gradient norm {norm:.4g}, more than {self.explode_factor:g} times the median {typical:.4g} of "
            f"{count} other trials at epoch {report.epoch}",
            report.epoch,
            {self.NORM: norm, "median_of_peers": typical, "peers": count, "explode_factor": self.explode_factor},
        )

    def _spent(self, report: Report) -> Verdict | None:
        course = self._courses[report.number]
        while course and course[-1].epoch >= report.epoch:  # a continued trial says some epochs again
            course.pop()
        before = course[-1] if course else _Point(0, -math.inf, 0)
        evidence = report.metrics.get(self.EVIDENCE, math.nan)
        noise_epochs = before.noise_epochs + 1 if evidence > 0 else 0
        course.append(_Point(report.epoch, max(self.sign * report.value, before.best), noise_epochs))
        if report.last or noise_epochs < self.patience or len(course) <= self.patience:
            return None
        gain = course[-1].best - course[-1 - self.patience].best
        if gain >= self.min_gain:
            return None
        return Verdict(
            "spent",
            f"for {noise_epochs} epochs the gradient could not be told from noise, and the objective gained "
            f"{gain:.4g} in the last {self.patience}, less than {self.min_gain:g}",
            report.epoch,
            {self.EVIDENCE: evidence, "gain": gain, "noise_epochs": noise_epochs, "patience": self.patience},
        )
