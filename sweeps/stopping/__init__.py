"""When a trial should end before its time: schedulers rank, the gradient guard judges. Pure arithmetic.

Nothing here knows Ray, Optuna or files: a report goes in, a verdict or nothing comes out, and the same reports give the same
verdicts, so that a resumed sweep is brought up to date by replaying them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeps.stopping.asha import SuccessiveHalving
from sweeps.stopping.base import Mode, Scheduler
from sweeps.stopping.constant import ConstantCutoff
from sweeps.stopping.fifo import Fifo
from sweeps.stopping.guard import Guard
from sweeps.stopping.hyperband import Hyperband
from sweeps.stopping.median import MedianRule
from sweeps.stopping.pbt import PopulationBasedTraining
from sweeps.stopping.verdicts import Report, Verdict, objective_not_finite

__all__ = [
    "SCHEDULERS",
    "ConstantCutoff",
    "Fifo",
    "Guard",
    "Hyperband",
    "MedianRule",
    "Mode",
    "PopulationBasedTraining",
    "Report",
    "Scheduler",
    "SuccessiveHalving",
    "Verdict",
    "make_scheduler",
    "objective_not_finite",
]

SCHEDULERS: dict[str, type[Scheduler]] = {
    "fifo": Fifo,
    "asha": SuccessiveHalving,
    "hyperband": Hyperband,
    "median": MedianRule,
    "constant": ConstantCutoff,
    "pbt": PopulationBasedTraining,
}
"""By the name that a search space uses."""


def make_scheduler(name: str, modes: Sequence[Mode], options: dict[str, Any]) -> Scheduler:
    """A new scheduler. Args: modes: of each objective; options: those of `sweeps.schema.SCHEDULER_OPTIONS` for `name`."""
    return SCHEDULERS[name](modes, **options)
