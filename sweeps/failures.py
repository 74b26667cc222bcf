"""Why a trial failed, by kind, and whether that speaks against the whole sweep. It reads verdicts, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeps.stopping import Verdict

Failure = Literal["oom", "non_finite", "exploding", "dead", "error", "lost"]
FAILURES: dict[Failure, str] = {
    "oom": "memory ran out: of the GPU, of the machine, of what the trial was allotted, or Ray ended the process before it did",
    "non_finite": "the objective, a loss or a gradient was not finite",
    "exploding": "the guard found its gradient exploding beyond its peers'",
    "dead": "the guard found its gradient zero for an epoch",
    "error": "it raised, or did not compose",
    "lost": "its process or its machine was lost: killed, or gone without a word",
}
"""Every kind of failure, and when it is that."""

SAME_FAILURES = 3
"""If the first so many trials all fail for one reason, the reason is the sweep's and not theirs."""
SAME_BREAKS = 6
"""The same for trials that broke (not finite, dead): single settings do, whole sweeps rarely."""

_OUT_OF_MEMORY = re.compile(
    r"OutOfMemoryError|\bMemoryError\b|out of memory|can(no|')t allocate memory|STATUS_ALLOC_FAILED|that it was allotted",
    re.IGNORECASE,
)
_LOST = re.compile(r"killed by SIG|its process was lost|left with exit status")
_BROKEN: tuple[tuple[str, Failure], ...] = (("not finite", "non_finite"), ("exploding", "exploding"), ("dead", "dead"))


def classify(verdict: str, reason: str) -> Failure | None:
    """The kind of failure that a verdict with this reason is; None for an end that is no failure.

    >>> classify("failed", "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
    'oom'
    """
    if verdict == "broken":
        return next((kind for start, kind in _BROKEN if reason.startswith(start)), "error")
    if verdict != "failed":
        return None
    if _OUT_OF_MEMORY.search(reason):
        return "oom"
    return "lost" if _LOST.match(reason) else "error"


def as_attribute(verdict: Verdict) -> dict[str, Any]:
    """The form in which the study keeps a verdict: with the kind of failure, if it is one."""
    kind = classify(verdict.verdict, verdict.reason)
    return verdict.as_attribute() | ({"failure": kind} if kind else {})


def failure_of(trial: FrozenTrial) -> Failure | None:
    """The kind of failure that a trial of a study ended with; None if it has not ended, or not with one."""
    verdict: Mapping[str, Any] = trial.user_attrs.get("verdict", {})
    return verdict.get("failure") or classify(verdict.get("verdict", ""), verdict.get("reason", ""))


def alike(verdict: Verdict) -> tuple[str, str]:
    """The verdict, and its reason without what differs from trial to trial: paths, numbers."""
    first = verdict.reason.splitlines()[0] if verdict.reason else ""
    return verdict.verdict, first.split(":")[0] if verdict.verdict == "broken" else re.sub(r"\S*/\S*|\d+", "…", first)


def hopeless(ends: Sequence[tuple[str, str]]) -> str | None:
    """Why a sweep should stop: the first trials all ended for one bad reason. None while there is hope.

    Args: ends: of all trials that have ended, as `alike` gives them.
    """
    # Asked all the time: the first trial that ended otherwise ends the search for one.
    if not ends or any(kind not in {"failed", "broken"} or reason != ends[0][1] for kind, reason in ends):
        return None
    needed = SAME_FAILURES if all(kind == "failed" for kind, _ in ends) else SAME_BREAKS
    return " ".join(ends[0]) if len(ends) >= needed else None
