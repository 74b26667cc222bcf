"""Population-based training: a population trains in step, and the worst of each generation make way for copies of the best."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from sweeps.stopping.base import Mode, Rung, Scheduler, Scores
from sweeps.stopping.verdicts import Report, Verdict

DONOR, DONOR_EPOCH, GENERATION, PLACE = "donor", "donor_epoch", "generation", "place"
"""Among the numbers of the verdict on a member that makes way: whose copy takes its place, as it is after which epoch; at the
end of which generation that was, and how many trials ran before this member."""


class PopulationBasedTraining(Scheduler):
    """Population-based training (Jaderberg et al. 2017, arXiv:1711.09846), synchronous, with truncation selection.

    Generation g ends at g · `interval_epochs`. Every member waits there until all that live have come as far; one that failed
    takes part no more. They are ranked by what they are worth then, not by their best so far, since it is their weights of then
    that are copied. The worst `quantile` (at least one, at most half) end, each for the copy of a member drawn from the best
    `quantile` (seeded by `seed`, generation and place): the rest go on. Whoever equals all of the best makes way for nobody.
    The last generation to end is one after which a whole interval is left.

    The copy is another trial (`inherit`), which takes part from the next generation on. How its parameters are perturbed is not
    known here.
    """

    suspends = True

    def __init__(self, modes: Sequence[Mode], interval_epochs: int, quantile: float, seed: int = 1) -> None:
        super().__init__(modes)
        self.interval_epochs = interval_epochs
        self.quantile = quantile
        self.seed = seed
        self._generations: dict[int, Rung] = defaultdict(Rung)
        self._come: dict[int, int] = {}
        """The last generation of each trial that it has seen the end of."""
        self._epochs: dict[tuple[int, int], int] = {}
        """(Generation, trial) → the epoch with which that generation ended for it."""
        self._places: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        """The epochs at which the suspended trials stand."""
        self._over = 0
        """The last generation that all have seen the end of."""

    def inherit(self, number: int, epochs: int) -> None:
        self._come[number] = epochs // self.interval_epochs

    def judge(self, report: Report) -> Verdict | None:
        number, generation = report.number, report.epoch // self.interval_epochs
        if number in self._waiting:
            if report.epoch < self._waiting[number]:
                return None  # its process was lost before it had written the checkpoint that others wait for
            if report.epoch == self._waiting[number]:
                return self._wait(number)
            self._over = max(self._over, self._come[number])  # a replay: an earlier driver had let it go on
            self.release(number)
        whole = report.max_epochs < 0 or report.epoch + self.interval_epochs <= report.max_epochs
        if generation <= self._come.get(number, 0) or not whole:
            return None
        scores = tuple(sign * value for sign, value in zip(self.signs, report.values, strict=True))
        self._generations[generation].enter(number, scores)
        self._come[number] = generation
        self._places[number] = number if report.place is None else report.place
        self._epochs[generation, number] = self._waiting[number] = report.epoch
        return self._wait(number)

    def _wait(self, number: int) -> Verdict:
        return Verdict("waiting", f"until all have come to the end of generation {self._come[number]}", self._waiting[number])

    @property
    def waiting(self) -> Sequence[int]:
        order = [number for _, rung in sorted(self._generations.items()) for number in rung.order]
        return [number for number in dict.fromkeys(order) if number in self._waiting]

    def ready(self, living: Collection[int]) -> Sequence[int]:
        self._over = max(self._over, min((self._come.get(number, 0) for number in living), default=0))
        beaten = dict(self.overtaken())
        return [number for number in self.waiting if self._come[number] <= self._over and number not in beaten]

    def release(self, number: int) -> None:
        del self._waiting[number]

    def end(self, number: int) -> None:
        self._waiting.pop(number, None)

    def overtaken(self) -> Iterator[tuple[int, Verdict]]:
        for number, epoch in sorted(self._waiting.items()):
            if self._come[number] <= self._over and (verdict := self._beaten(number, self._come[number], epoch)):
                yield number, verdict

    def _beaten(self, number: int, generation: int, epoch: int) -> Verdict | None:
        """The verdict on a trial that makes way at the end of `generation`; None on one that goes on."""
        rung = self._generations[generation]
        order = rung.order
        count = min(max(1, int(len(order) * self.quantile + 1e-9)), len(order) // 2)
        place = rung.place(number)
        better = [each for each in order[:count] if rung.place(each) < place]
        if not better or number not in order[-count:]:
            return None
        donor = random.Random(f"{self.seed} {generation} {self._places[number]}").choice(better)
        mine, theirs = rung[number], rung[donor]
        reason = (
            f"{place} of {len(order)} at the end of generation {generation}, of whom the last {count} make way: "
            f"{self.shown(mine)}; a copy of trial {donor} takes its place: {self.shown(theirs)}"
        )
        numbers = {"value": self._metric(mine), "donor_value": self._metric(theirs), "reached": len(order)}
        numbers |= {DONOR: donor, DONOR_EPOCH: self._epochs[generation, donor]}
        numbers |= {GENERATION: generation, PLACE: self._places[number]}
        return Verdict("outranked", reason, epoch, numbers)

    def _metric(self, scores: Scores) -> float:
        return self.signs[0] * scores[0]
