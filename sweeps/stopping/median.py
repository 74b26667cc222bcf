"""The median rule: a trial that is worse than the typical one at its age ends."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from sweeps.stopping.base import Mode, Scheduler, Scores
from sweeps.stopping.verdicts import Report, Verdict


class MedianRule(Scheduler):
    """The median stopping rule (Golovin et al. 2017, Google Vizier, doi:10.1145/3097983.3098043, section 3.2.2).

    From `grace_epochs` on, a trial ends after an epoch if its best value until then is worse than the median of the other
    trials' running means up to that epoch, once `min_trials` others have come so far. The paper compares with trials that
    ran to their end; here all that came so far count, those that were outranked later too, so that the rule is no stricter
    the more it has stopped. With several objectives a trial ends if it is worse than the median in every one.
    """

    def __init__(self, modes: Sequence[Mode], grace_epochs: int, min_trials: int) -> None:
        super().__init__(modes)
        self.grace_epochs = grace_epochs
        self.min_trials = min_trials
        self._courses: dict[int, dict[int, Scores]] = defaultdict(dict)

    def judge(self, report: Report) -> Verdict | None:
        best = self.best(report)
        course = self._courses[report.number]
        course[report.epoch] = tuple(sign * value for sign, value in zip(self.signs, report.values, strict=True))
        if report.last or report.epoch < self.grace_epochs:
            return None
        others = [
            mean
            for number, other in self._courses.items()
            if number != report.number and (mean := _running_mean(other, report.epoch)) is not None
        ]
        if len(others) < self.min_trials:
            return None
        typical = tuple(median(scores) for scores in zip(*others, strict=True))
        if any(mine >= theirs for mine, theirs in zip(best, typical, strict=True)):
            return None
        numbers = {"value": self.signs[0] * best[0], "median": self.signs[0] * typical[0], "others": len(others)}
        reason = (
            f"{self.shown(best)} after {report.epoch} epochs is worse than {self.shown(typical)}, the median of the running "
        )
        return Verdict("outranked", f"{reason}means of {len(others)} other trials", report.epoch, numbers)


def _running_mean(course: dict[int, Scores], epoch: int) -> Scores | None:
    """The mean of the scores up to `epoch`; None if the trial has not come so far."""
    epochs = sorted(course)
    if epochs[-1] < epoch:
        return None
    until = [course[at] for at in epochs[: bisect_right(epochs, epoch)]]
    return tuple(sum(scores) / len(until) for scores in zip(*until, strict=True)) if until else None
