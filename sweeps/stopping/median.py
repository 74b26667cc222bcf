"""The median rule: a trial that is worse than the typical one at its age ends."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence

from sweeps.stopping.base import Mode, Scheduler, Scores, median_of_ordered
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
        self._means: dict[int, _Means] = {}
        """By epoch, those of all trials that have come so far."""

    def judge(self, report: Report) -> Verdict | None:
        best, number = self.best(report), report.number
        course = self._courses[number]
        course[report.epoch] = tuple(sign * value for sign, value in zip(self.signs, report.values, strict=True))
        for means in self._means.values():
            means.stale.add(number)
        if report.last or report.epoch < self.grace_epochs:
            return None
        if report.epoch not in self._means:
            self._means[report.epoch] = _Means(set(self._courses), len(self.signs))
        means = self._means[report.epoch]
        for each in means.stale:
            means.put(each, _running_mean(self._courses[each], report.epoch))
        means.stale.clear()
        typical = means.medians_without(number)
        others = len(means) - 1
        if others < self.min_trials or any(mine >= theirs for mine, theirs in zip(best, typical, strict=True)):
            return None
        numbers = {"value": self.signs[0] * best[0], "median": self.signs[0] * typical[0], "others": others}
        reason = (
            f"{self.shown(best)} after {report.epoch} epochs is worse than {self.shown(typical)}, the median of the running "
        )
        return Verdict("outranked", f"{reason}means of {others} other trials", report.epoch, numbers)


class _Means:
    """Running means at one epoch, in order, so that their median costs no more the more there are."""

    def __init__(self, stale: set[int], objectives: int) -> None:
        self.stale = stale
        """Trials that have reported since they were looked at."""
        self._means: dict[int, Scores] = {}
        self._ordered: list[list[float]] = [[] for _ in range(objectives)]

    def __len__(self) -> int:
        return len(self._means)

    def put(self, number: int, mean: Scores | None) -> None:
        """The mean of a trial is this now; None if it has not come so far."""
        if (earlier := self._means.pop(number, None)) is not None:
            for ordered, score in zip(self._ordered, earlier, strict=True):
                del ordered[bisect_left(ordered, score)]
        if mean is not None:
            self._means[number] = mean
            for ordered, score in zip(self._ordered, mean, strict=True):
                insort(ordered, score)

    def medians_without(self, number: int) -> Scores:
        """Of each objective, over all but one trial; nothing if there is no other."""
        own = self._means[number]
        self.put(number, None)
        found = tuple(map(median_of_ordered, self._ordered)) if self._means else ()
        self.put(number, own)
        return found


def _running_mean(course: dict[int, Scores], epoch: int) -> Scores | None:
    """The mean of the scores up to `epoch`; None if the trial has not come so far."""
    epochs = sorted(course)
    if epochs[-1] < epoch:
        return None
    until = [course[at] for at in epochs[: bisect_right(epochs, epoch)]]
    return tuple(sum(scores) / len(until) for scores in zip(*until, strict=True)) if until else None
