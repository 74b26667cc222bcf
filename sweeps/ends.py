"""How trials and sweeps end, in the study's words and in the platform's."""

from __future__ import annotations

from enum import Enum

from optuna.trial import TrialState

STATES = {
    "finished": TrialState.COMPLETE,
    "spent": TrialState.COMPLETE,
    "outranked": TrialState.PRUNED,
    "broken": TrialState.FAIL,
    "failed": TrialState.FAIL,
    "rejected": TrialState.FAIL,
}
"""The study's state of a trial, by its verdict."""


class End(Enum):
    """Why a sweep ended before it had all its trials."""

    HOPELESS = "hopeless"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"
    BUDGET = "budget"
