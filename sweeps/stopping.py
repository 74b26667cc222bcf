"""When a trial should end before its time: successive halving ranks, the gradient guard judges. Pure arithmetic.

Nothing here knows Ray, Optuna or files: a report goes in, a verdict or nothing comes out, and the same reports in the
same order give the same verdicts, so that a resumed sweep is brought up to date by replaying them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Kind = Literal["finished", "spent", "outranked", "broken", "failed", "rejected"]


@dataclass(frozen=True)
class Verdict:
    """How a trial ended, and why.

    `finished` ran all its epochs; `spent` had nothing left to learn; both are COMPLETE in the study. `outranked` is PRUNED.
    `broken` (numbers not finite, dead or exploding gradients), `failed` (an exception, a killed process) and `rejected`
    (never ran: a constraint refused it) are FAIL.
    """

    verdict: Kind
    reason: str
    epoch: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    def as_text(self) -> str:
        """For a line of the history."""
        return f"{self.verdict}: {self.reason}"

    def as_attribute(self) -> dict[str, Any]:
        """The form in which the study keeps it: numbers that are not finite as text, since JSON has none."""
        numbers = {name: value if math.isfinite(value) else str(value) for name, value in self.numbers.items()}
        return {**asdict(self), "numbers": numbers}


@dataclass(frozen=True)
class Report:
    """What one trial says after one validation: epochs count from 1, `value` is the objective's metric."""

    number: int
    epoch: int
    max_epochs: int
    value: float
    metrics: Mapping[str, float]

    @property
    def last(self) -> bool:
        """Whether the trial ends with this epoch anyway."""
        return 0 < self.max_epochs <= self.epoch  # -1: it runs until something else ends it


class SuccessiveHalving:
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934, algorithm 2; here the outranked stop for good).

    Rungs lie at `grace_epochs · reduction_factor^k`. A trial that reaches a rung goes on if its best value so far is among the
    best 1/`reduction_factor` of all that ever reached it (at least one), or within `tolerance` of the last of those.
    Values must be finite: see `Guard`.
    """

    def __init__(self, mode: Literal["max", "min"], grace_epochs: int, reduction_factor: float, tolerance: float = 0.0) -> None:
        self.sign = 1.0 if mode == "max" else -1.0
        self.grace_epochs = grace_epochs
        self.reduction_factor = reduction_factor
        self.tolerance = tolerance
        self._best: dict[int, float] = {}
        self._rungs: dict[int, dict[int, float]] = defaultdict(dict)
        self._sorted: dict[int, list[float]] = defaultdict(list)

    def rung(self, epoch: int) -> int | None:
        """The highest rung at or below `epoch`, in epochs; None below the first."""
        if epoch < self.grace_epochs:
            return None
        level = int(math.log(epoch / self.grace_epochs, self.reduction_factor) + 1e-9)
        return math.ceil(self.grace_epochs * self.reduction_factor**level - 1e-9)

    def judge(self, report: Report) -> Verdict | None:
        """Record the report, and say whether the trial is outranked at the rung that it has just reached."""
        score = self.sign * report.value
        best = self._best[report.number] = max(score, self._best.get(report.number, -math.inf))
        rung = self.rung(report.epoch)
        if rung is None or report.number in self._rungs[rung]:
            return None
        self._rungs[rung][report.number] = best
        scores = self._sorted[rung]
        insort(scores, best)
        kept = max(1, int(len(scores) / self.reduction_factor + 1e-9))
        cut = scores[-kept]
        if report.last or best >= cut - self.tolerance:
            return None
        place = len(scores) - bisect_left(scores, best)
        return Verdict(
            "outranked",
            f"{place} of {len(scores)} at the rung of {rung} epochs, where {kept} go on: "
            f"{self.sign * best:.6g} against a cut of {self.sign * cut:.6g}",
            report.epoch,
            {"value": self.sign * best, "cut": self.sign * cut, "rung": rung, "reached": len(scores), "kept": kept},
        )


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

    def __init__(
        self, mode: Literal["max", "min"], explode_factor: float, patience: int, min_gain: float, min_peers: int = 5
    ) -> None:
        self.sign = 1.0 if mode == "max" else -1.0
        self.explode_factor = explode_factor
        self.patience = patience
        self.min_gain = min_gain
        self.min_peers = min_peers
        self._norms: dict[int, dict[int, float]] = defaultdict(dict)
        self._courses: dict[int, list[_Point]] = defaultdict(list)

    def judge(self, report: Report) -> Verdict | None:
        """Record the report, and say whether the trial is broken or spent."""
        return self._broken(report) or self._spent(report)

    def _broken(self, report: Report) -> Verdict | None:
        watched = {name: value for name, value in report.metrics.items() if name == self.NORM or name.startswith("grad/norm")}
        watched |= {name: value for name, value in report.metrics.items() if name.endswith("/loss")}
        if bad := {name: value for name, value in watched.items() if not math.isfinite(value)}:
            return _not_finite(bad, report.epoch)
        norm = report.metrics.get(self.NORM)
        if norm is None:
            return None
        if norm == 0:
            return Verdict("broken", "dead: the gradient norm was 0 all epoch", report.epoch, {self.NORM: norm})
        peers = [value for number, value in self._norms[report.epoch].items() if number != report.number]
        self._norms[report.epoch][report.number] = norm
        if len(peers) < self.min_peers:
            return None
        typical = median(peers)
        if norm <= self.explode_factor * typical:
            return None
        return Verdict(
            "broken",
            f"exploding: gradient norm {norm:.4g}, more than {self.explode_factor:g} times the median {typical:.4g} of "
            f"{len(peers)} other trials at epoch {report.epoch}",
            report.epoch,
            {self.NORM: norm, "median_of_peers": typical, "peers": len(peers), "explode_factor": self.explode_factor},
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


def objective_not_finite(report: Report) -> Verdict | None:
    """Broken, if the objective is NaN or infinite, with or without a guard.

    A ranking must never see such a value: every comparison with NaN is false, so it would pass every rung.
    """
    return None if math.isfinite(report.value) else _not_finite({"objective": report.value}, report.epoch)


def _not_finite(bad: Mapping[str, float], epoch: int) -> Verdict:
    return Verdict("broken", f"not finite: {', '.join(f'{name} = {value}' for name, value in bad.items())}", epoch, bad)
