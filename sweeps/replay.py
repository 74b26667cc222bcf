"""What a trial has reported to earlier drivers, from the study and its history, for those who judged it to hear it again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.trial import FrozenTrial

from sweeps.judges import Judges
from sweeps.ledger import SHADOW, Ledger, read_history
from sweeps.recorded import recorded
from sweeps.stopping import Report


def replayed(ledger: Ledger, judges: Judges, trial: FrozenTrial, verdict: Mapping[str, Any] | None) -> Iterator[Report]:
    """The reports of `trial`, in their order. Args: verdict: that it has ended with, if it has."""
    history = {row["epoch"]: row for row in read_history(ledger.trial(trial.number).history)}
    max_epochs = trial.user_attrs.get("max_epochs", math.inf)
    for epoch, values in recorded(trial).items():
        row = history.get(epoch, {"verdict": "unknown"})
        if verdict is None and row["verdict"] and not row["verdict"].startswith(SHADOW):
            return  # the driver was killed while it judged this epoch, which the trial will say again
        metrics = {name: cell for name, cell in row.items() if name != "verdict"}
        parameters = trial.user_attrs.get("parameters", 0)
        objectives = dict(zip(judges.metrics, values, strict=True))
        yield judges.report(trial.number, epoch, max_epochs, parameters, {**metrics, **objectives})
