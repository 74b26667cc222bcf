"""Outcome constraints: whether what a COMPLETE trial came to is within bounds, and what the study holds of that.

It knows a trial's metrics and Optuna's trials, and not how they run. (`constraints.py` is about inputs.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.attributes import REPEATS
from sweeps.constraints import SIZE
from sweeps.errors import LedgerError
from sweeps.recorded import recorded
from sweeps.stopping import Verdict
from sweeps.winners import Outcome

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from sweeps.schema import OutcomeConstraint, SearchSpace

_PREFIX = "constraints:"
"""Under this and its name Optuna keeps a constraint's value among a trial's system attributes (`FrozenTrial.constraints`)."""


def violations(constraints: Iterable[OutcomeConstraint], metrics: Mapping[str, float]) -> dict[str, float]:
    """By how much each bound is violated; 0 or less: it holds.

    Raises:
        KeyError: a metric is not among `metrics`.

    >>> from sweeps.schema import OutcomeConstraint
    >>> violations([OutcomeConstraint(metric="val/loss", max=0.5)], {"val/loss": 0.75})
    {'val/loss <= 0.5': 0.25}
    """
    found = {}
    for constraint in constraints:
        value = metrics[constraint.metric]
        if constraint.min is not None:
            found[f"{constraint.metric} >= {constraint.min:.12g}"] = constraint.min - value
        if constraint.max is not None:
            found[f"{constraint.metric} <= {constraint.max:.12g}"] = value - constraint.max
    return found


def best_epoch(values: Mapping[int, tuple[float, ...]], mode: str) -> int | None:
    """The epoch that gives a trial its values: the first at which the first objective is best, where all are finite."""
    sign = 1.0 if mode == "max" else -1.0
    finite = [(epoch, each[0]) for epoch, each in sorted(values.items()) if all(map(math.isfinite, each))]
    return max(finite, key=lambda item: (sign * item[1], -item[0]))[0] if finite else None


def of_trial(space: SearchSpace, trial: FrozenTrial, history: Path) -> dict[str, float]:
    """By how much `trial` violates the bounds of `space` at its best epoch.

    Raises:
        LedgerError: its history does not have that epoch, or not all of the metrics.
    """
    from sweeps.ledger import read_history

    epoch = best_epoch(recorded(trial), space.modes[0])
    row = next((row for row in read_history(history) if row["epoch"] == epoch), {})
    try:
        return violations(space.outcome_constraints, {SIZE: trial.user_attrs.get("parameters", math.nan), **row})
    except KeyError as error:
        raise LedgerError(f"{history} lacks {error.args[0]} at epoch {epoch}, which an outcome constraint asks for.") from error


def bound(space: SearchSpace, storage: BaseStorage, trial_id: int, history: Path, verdict: Verdict) -> Verdict:
    """Write down how a trial that is to be COMPLETE stands to the outcome constraints, before its verdict is written; the
    verdict, or another if that cannot be told. Done again, it changes nothing."""
    if not space.outcome_constraints or verdict.verdict not in {"finished", "spent"}:
        return verdict
    try:
        found = of_trial(space, storage.get_trial(trial_id), history)
    except LedgerError as error:
        return Verdict("failed", str(error), verdict.epoch)
    for name, violation in found.items():
        storage.set_trial_system_attr(trial_id, f"{_PREFIX}{name}", violation)
    return verdict


def outcome(trial: FrozenTrial) -> Outcome:
    """What a COMPLETE trial of a study came to."""
    return Outcome(trial.number, tuple(trial.values), trial.user_attrs.get(REPEATS), trial.constraints)
