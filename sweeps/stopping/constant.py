"""The constant cut-off (i-Epoch): every trial is trained for a few epochs, and only the best of all are trained further."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from sweeps.stopping.base import Mode, Rung, Scheduler
from sweeps.stopping.verdicts import Report, Verdict


class ConstantCutoff(Scheduler):
    """i-Epoch (Egele et al. 2024, arXiv:2404.04111; with i = 1: Egele et al. 2023, arXiv:2307.15422).

    Every trial is trained for `cutoff_epochs`. Those that are not among the best `top_k` of all that have come there end at
    once: later ones can only make their place worse. The best wait; when all trials of the sweep have come there, they are
    trained to their end from their checkpoints. Of equals, the earlier trials.
    """

    suspends = True

    def __init__(self, modes: Sequence[Mode], cutoff_epochs: int, top_k: int) -> None:
        super().__init__(modes)
        self.cutoff_epochs = cutoff_epochs
        self.top_k = top_k
        self._rung = Rung()
        self._epochs: dict[int, int] = {}
        self._waiting: set[int] = set()
        self._released: set[int] = set()

    @property
    def waiting(self) -> Sequence[int]:
        return sorted(self._waiting, key=self._rung.position)

    @property
    def released(self) -> frozenset[int]:
        return frozenset(self._released)

    def ready(self, living: Collection[int]) -> Sequence[int]:
        return self.waiting if set(living) <= self._waiting | self._released else ()

    def release(self, number: int) -> None:
        self._waiting.remove(number)
        self._released.add(number)

    def judge(self, report: Report) -> Verdict | None:
        best = self.best(report)
        if report.epoch < self.cutoff_epochs or report.number in self._released:
            return None
        if report.number in self._rung:
            if report.number in self._waiting and report.epoch > self._epochs[report.number]:
                self.release(report.number)  # a replay: an earlier driver had let it go on
            return None
        self._epochs[report.number] = report.epoch
        self._rung.enter(report.number, best)
        if report.last:
            return None
        self._waiting.add(report.number)
        beaten = dict(self.overtaken()).get(report.number)
        return beaten or Verdict("waiting", f"among the best {self.top_k} at the cut-off so far", report.epoch)

    def end(self, number: int) -> None:
        self._waiting.discard(number)

    def overtaken(self) -> Iterator[tuple[int, Verdict]]:
        if len(self._rung) <= self.top_k:
            return
        for place, number in sorted((self._rung.position(number), number) for number in self._waiting):
            if place > self.top_k:
                yield number, self._beaten(number, place)

    def _beaten(self, number: int, place: int) -> Verdict:
        scores, cut, signs, reached = self._rung[number], self._rung.cut(self.top_k), self.signs, len(self._rung)
        reason = f"{place} of {reached} at the cut-off of {self.cutoff_epochs} epochs, where {self.top_k} go on: "
        numbers = {"value": signs[0] * scores[0], "reached": reached, "kept": self.top_k}
        if len(signs) == 1:
            numbers["cut"] = signs[0] * cut[0]
        told = f"{self.shown(scores)} against a cut of {self.shown(cut)}"
        return Verdict("outranked", reason + told, self._epochs[number], numbers)
