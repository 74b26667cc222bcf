"""No stopping by comparison: every trial runs to its end."""

from __future__ import annotations

from sweeps.stopping.base import Scheduler
from sweeps.stopping.verdicts import Report, Verdict


class Fifo(Scheduler):
    """Every trial runs to its last epoch, in the order in which they were proposed."""

    def judge(self, report: Report) -> Verdict | None:
        return None
