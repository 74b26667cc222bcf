"""Guard and scheduler over one sweep: what they say of a report, and how they are brought up to date after a kill.

It knows the search space, not the study: `study.py` brings reports and acts on verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeps.constraints import SIZE
from sweeps.schema import SearchSpace
from sweeps.stopping import Guard, Report, Verdict, make_scheduler, objective_not_finite


class Judges:
    """Whoever may end a trial before its last epoch, in the order in which they are asked: an objective that is not finite,
    the guard, the scheduler. What one of them ends, the next never sees."""

    def __init__(self, space: SearchSpace) -> None:
        stopping, guard = space.stopping, space.stopping.guard
        self.metrics = tuple(objective.metric for objective in space.objectives)
        self._places: dict[int, int] = {}
        self.scheduler = make_scheduler(stopping.scheduler, space.modes, stopping.options)
        self._mode = guard.mode
        self.exempted: set[int] = set()
        """Trials that are left alone."""
        self._guard = Guard(space.modes[0], guard.explode_factor, guard.patience, guard.min_gain, guard.min_peers)

    def exempt(self, number: int) -> None:
        """Leave a trial alone: a person has asked for its epochs, and others are not compared with it."""
        self.exempted.add(number)

    def missing(self, metrics: Mapping[str, float]) -> list[str]:
        """The objectives that were not logged; the network's size always is known."""
        return [metric for metric in self.metrics if metric not in metrics and metric != SIZE]

    def enter(self, number: int) -> None:
        """Trial `number` is the next that runs."""
        self._places[number] = len(self._places)

    def report(self, number: int, epoch: int, max_epochs: float, parameters: int, metrics: Mapping[str, float]) -> Report:
        """What `metrics`, in which no objective is missing, say."""
        value, *others = (metrics[metric] if metric != SIZE else float(parameters) for metric in self.metrics)
        return Report(number, epoch, max_epochs, value, metrics, tuple(others), self._places.get(number))

    def judge(self, report: Report) -> tuple[Verdict | None, Verdict | None]:
        """The verdict to act on, and the one that a guard in shadow mode would have acted on."""
        if verdict := objective_not_finite(report):  # whatever the mode: no ranking and no sampler may see such a value
            return verdict, None
        if report.number in self.exempted:
            return None, None
        shadow = None
        if self._mode != "off" and (verdict := self._guard.judge(report)):
            if self._mode == "act":
                return verdict, None
            shadow = verdict
        return self.scheduler.judge(report), shadow

    def replay(self, report: Report, ended: Mapping[str, Any] | None) -> None:
        """Remember a report that an earlier driver has judged.

        Args: ended: the verdict that the trial has ended with, if it has.
        """
        if objective_not_finite(report) or report.number in self.exempted:
            return
        if self._mode != "off":
            self._guard.judge(report)
        guarded = ended is not None and ended["verdict"] in {"broken", "spent"} and ended["epoch"] == report.epoch
        if not guarded:
            self.scheduler.judge(report)
