"""Guard and scheduler over one sweep: what they say of a report, and how they are brought up to date after a kill.

It knows the search space, not the study: `study.py` brings reports and acts on verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from sweeps.attributes import EPOCHS, EXEMPT, EXPLOITS, REPLACES, RETRIES
from sweeps.constraints import SIZE
from sweeps.schema import SearchSpace
from sweeps.stopping import Guard, Report, Verdict, make_scheduler, objective_not_finite
from sweeps.stopping.verdicts import not_finite


class Judges:
    """Whoever may end a trial before its last epoch, in the order in which they are asked: an objective that is not finite,
    the guard, the scheduler. What one of them ends, the next never sees."""

    def __init__(self, space: SearchSpace) -> None:
        stopping, guard = space.stopping, space.stopping.guard
        self.metrics = tuple(objective.metric for objective in space.objectives)
        self._bounded = tuple(dict.fromkeys(constraint.metric for constraint in space.outcome_constraints))
        self._places: dict[int, int] = {}
        self.synchronous = stopping.scheduler == "pbt"
        """Whether a trial that comes late cannot take part any more."""
        seed = {"seed": space.search.seed} if self.synchronous else {}
        self.scheduler = make_scheduler(stopping.scheduler, space.modes, stopping.options | seed)
        self.inherited: dict[int, int] = {}
        """Of each trial that is a copy: how many of its epochs are another's."""
        self._mode = guard.mode
        self.exempted: set[int] = set()
        """Trials that are left alone."""
        self._guard = Guard(space.modes[0], guard.explode_factor, guard.patience, guard.min_gain, guard.min_peers)

    def exempt(self, number: int) -> None:
        """Leave a trial alone: a person has asked for its epochs, and others are not compared with it."""
        self.exempted.add(number)

    def missing(self, metrics: Mapping[str, float]) -> list[str]:
        """The objectives, and the metrics of outcome constraints, that were not logged; the network's size always is known."""
        asked = dict.fromkeys((*self.metrics, *self._bounded))
        return [metric for metric in asked if metric not in metrics and metric != SIZE]

    def enter(self, number: int, attributes: Mapping[str, Any]) -> None:
        """Trial `number` is the next that runs. Args: attributes: its user attributes, which say what it follows from."""
        alone = (*EXEMPT, RETRIES) if self.synchronous else EXEMPT
        if any(name in attributes for name in alone):
            self.exempt(number)
            return
        self._places[number] = len(self._places)
        if EXPLOITS in attributes:
            self._places[number] = self._places[attributes[REPLACES]]
            self.inherited[number] = attributes[EPOCHS]
            self.scheduler.inherit(number, attributes[EPOCHS])

    def ready(self, living: Set[int]) -> Sequence[int]:
        """The suspended trials that may go on. Args: living: all that have not ended, and no others are to come."""
        return self.scheduler.ready(living - self.exempted)

    def report(self, number: int, epoch: int, max_epochs: float, parameters: int, metrics: Mapping[str, float]) -> Report:
        """What `metrics`, in which no objective is missing, say."""
        value, *others = (metrics[metric] if metric != SIZE else float(parameters) for metric in self.metrics)
        return Report(number, epoch, max_epochs, value, metrics, tuple(others), self._places.get(number))

    def judge(self, report: Report) -> tuple[Verdict | None, Verdict | None]:
        """The verdict to act on, and the one that a guard in shadow mode would have acted on."""
        if verdict := self._not_finite(report):  # whatever the mode: no ranking and no sampler may see such a value
            return verdict, None
        if report.number in self.exempted:
            return None, None
        shadow = None
        if self._mode != "off" and (verdict := self._guard.judge(report)):
            if self._mode == "act":
                return verdict, None
            shadow = verdict
        return self.scheduler.judge(report), shadow

    def end(self, number: int) -> None:
        """Trial `number` has ended."""
        self.scheduler.end(number)
        self._guard.end(number)

    def _not_finite(self, report: Report) -> Verdict | None:
        """Broken, if an objective or the metric of an outcome constraint is not finite."""
        bad = {metric: value for metric in self._bounded if not math.isfinite(value := report.metrics.get(metric, 0.0))}
        return objective_not_finite(report) or (not_finite(bad, report.epoch) if bad else None)

    def replay(self, report: Report, ended: Mapping[str, Any] | None) -> None:
        """Remember a report that an earlier driver has judged.

        Args: ended: the verdict that the trial has ended with, if it has.
        """
        if self._not_finite(report) or report.number in self.exempted:
            return
        if self._mode != "off":
            self._guard.judge(report)
        guarded = ended is not None and ended["verdict"] in {"broken", "spent"} and ended["epoch"] == report.epoch
        if not guarded:
            self.scheduler.judge(report)
