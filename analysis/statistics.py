"""What a sweep's trials amount to: how many ended how, which choices did well, what failed. Arithmetic on a loaded sweep.

It must not know how its numbers are shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from optuna.distributions import CategoricalDistribution

from analysis.importance import best_by_epoch, first_rung
from analysis.load import Sweep

VERDICTS = ("finished", "spent", "outranked", "broken", "failed", "running", "waiting", "interrupted")
"""Every way in which a trial of the frame can stand, in the order of a report."""
REFUSALS = (
    ("the setting of trial", "repeated the setting of another trial"),
    ("the driver was killed", "lost when the sweep was killed"),
    ("", "rejected by constraints"),
)
"""How the reason begins for which a proposal never ran, and what is said of it."""
MAX_OPTIONS = 20
"""A parameter with more choices is left out of the table of choices."""


@dataclass(frozen=True)
class Headline:
    """The sweep in numbers."""

    counts: dict[str, int]
    """Verdict → trials, in the order of `VERDICTS`."""
    refused: dict[str, int]
    """Why proposals never ran (`REFUSALS`) → how many, the reasons that there were."""
    retries: int
    """Trials that run again what had failed."""
    continuations: int
    """Trials that train another further."""
    repeats: int
    """Trials that run another's parameters with another seed."""
    busy_seconds: float
    """The time in which at least one trial trained: pauses between an interruption and a resume do not count."""
    trial_seconds: float
    """Training seconds of all trials together."""
    epochs: int
    """Epochs that were trained: those that a trial has from the one that it continues count once, like their seconds."""

    @property
    def trials(self) -> int:
        return sum(self.counts.values())

    @property
    def rejected(self) -> int:
        """Proposals that never ran."""
        return sum(self.refused.values())

    @property
    def ended(self) -> int:
        return self.trials - self.counts["running"] - self.counts["waiting"] - self.counts["interrupted"]

    @property
    def trials_per_hour(self) -> float:
        """Ended trials an hour of the time in which trials trained; NaN if none did."""
        return self.ended / self.busy_seconds * 3600 if self.busy_seconds > 0 else math.nan


def headline(sweep: Sweep) -> Headline:
    """Counts and times of all trials."""
    trials, counts = sweep.trials, sweep.trials["verdict"].value_counts()
    refused = sweep.rejected["reason"].map(_refusal).value_counts()
    return Headline(
        counts={verdict: int(counts.get(verdict, 0)) for verdict in VERDICTS},
        refused={told: int(refused[told]) for _, told in REFUSALS if told in refused},
        retries=int(trials["retries"].count()),
        continuations=int(trials["continues"].count()),
        repeats=int(trials["repeats"].count()),
        busy_seconds=_busy_seconds(trials),
        trial_seconds=float((trials["seconds"] - trials["copied_seconds"]).sum()),
        epochs=int((trials["epochs"] - trials["copied_epochs"]).sum()),
    )


def _refusal(reason: str) -> str:
    return next(told for start, told in REFUSALS if reason.startswith(start))


def _busy_seconds(trials: pd.DataFrame) -> float:
    """The length of the union of all trials' training times, each in one piece before the trial's end.

    From `started` to `ended` is more: it holds the trial's wait for a place, and pauses of the sweep, of whose beginnings the
    ledger knows nothing. A trial without an end trained from its start, as far as is known.
    """
    lengths = pd.to_timedelta((trials["seconds"] - trials["copied_seconds"]).fillna(0), unit="s")
    starts = (trials["ended"] - lengths).fillna(trials["started"])
    busy, until = 0.0, None
    for start, end in sorted((s, e) for s, e in zip(starts, starts + lengths, strict=True) if pd.notna(s)):
        if until is None or start > until:
            busy, until = busy + (end - start).total_seconds(), end
        elif end > until:
            busy, until = busy + (end - until).total_seconds(), end
    return busy


@dataclass(frozen=True)
class Option:
    """How the configurations fared that had one value of a parameter that is a choice."""

    parameter: str
    option: Any
    trials: int
    complete: int
    pruned: int
    failed: int
    best: float
    """By the first objective, of those within the outcome constraints."""
    medians: tuple[float, ...]
    """Of the COMPLETE trials, of each objective. NaN if there are none, like `best`."""
    early_median: float
    """Of the best values of the first objective until the first rung, over all trials that reached it, pruned ones too."""
    numbers: tuple[int, ...]

    @property
    def median(self) -> float:
        """Of the first objective."""
        return self.medians[0]


def options(sweep: Sweep) -> list[Option]:
    """A row for every option of every choice, in the order of the space; trials in which it was not active are in no row."""
    rung = first_rung(sweep)
    early = pd.Series(best_by_epoch(sweep, rung, sweep.objectives[0]) if rung else {}, dtype="float64")
    trials, rows = sweep.independent, []
    for parameter, distribution in sweep.distributions.items():
        if not isinstance(distribution, CategoricalDistribution) or len(distribution.choices) > MAX_OPTIONS:
            continue
        for option in distribution.choices:
            chosen = trials[np.array([_same(value, option) for value in trials[parameter]], dtype=bool)]
            complete = chosen[chosen["state"] == "COMPLETE"]
            values = complete.loc[complete["feasible"].fillna(True), "value"]
            states = chosen["state"].value_counts()
            rows.append(
                Option(
                    parameter,
                    option,
                    len(chosen),
                    int(states.get("COMPLETE", 0)),
                    int(states.get("PRUNED", 0)),
                    int(states.get("FAIL", 0)),
                    float(values.max() if sweep.sign > 0 else values.min()),
                    tuple(float(complete[objective.column].median()) for objective in sweep.objectives),
                    float(early.reindex(chosen["number"]).median()),
                    tuple(chosen["number"].tolist()),
                )
            )
    return rows


def _same(value: Any, option: Any) -> bool:
    return bool(pd.notna(value) and value == option) and isinstance(value, bool) == isinstance(option, bool)


@dataclass(frozen=True)
class GuardResult:
    """What stopping early saved, and what a guard in shadow mode would have saved and lost."""

    stopped: dict[str, int]
    """Verdicts acted on before a trial's last epoch → trials."""
    saved_epochs: int
    """Epochs that those trials did not run, without those that were continued later. What they would have reached is not
    known: there is no regret to tell."""
    budget_known: bool
    """Whether every stopped trial's number of epochs was known."""
    shadow: dict[str, int]
    """Verdicts that a guard in shadow mode would have acted on → trials, each counted at its first."""
    shadow_saved: int
    """Epochs that those trials ran after it."""
    shadow_share: float
    """The same as a share of all epochs run."""
    shadow_losses: tuple[tuple[int, str, int, float], ...]
    """(trial, verdict, epoch, what its value would have been worse by), the worst first; NaN: it would have had no value."""
    shadow_regret: float
    """What the best value of the sweep would have been worse by: NaN if none would have been left, or none is there."""


def guard(sweep: Sweep) -> GuardResult:
    """Compare what ran with what a guard did or would have done.

    A trial that would have been `spent` keeps its best value until then; `broken` (or anything else) leaves it none. The
    sampler would have gone on to other trials then, with the epochs saved: that part cannot be known.
    """
    trials = sweep.trials
    stopped = trials[trials["verdict"].isin(["spent", "outranked", "broken"])]
    left = (stopped["max_epochs"] - stopped["epochs"]).clip(lower=0)
    taken_up = pd.concat([trials["continues"], trials["replaces"]]).dropna()  # what they had left, others have trained
    left = left[~stopped["number"].isin(taken_up)]
    shadowed = trials[trials["shadow_verdict"] != ""]
    beyond = (shadowed["epochs"] - shadowed["shadow_epoch"]).clip(lower=0)
    total = int((trials["epochs"] - trials["copied_epochs"]).sum())

    complete = sweep.independent[sweep.independent["state"] == "COMPLETE"]  # a guard lets alone those that follow others
    complete = complete[complete["feasible"].fillna(True)]
    best_until = sweep.curves.set_index(["number", "epoch"])["best"]
    kept, losses = complete.set_index("number")["value"].to_dict(), []
    for row in shadowed[shadowed["number"].isin(complete["number"])].itertuples():
        value = best_until.get((row.number, row.shadow_epoch), math.nan) if row.shadow_verdict == "spent" else math.nan
        losses.append((row.number, row.shadow_verdict, int(row.shadow_epoch), sweep.sign * (row.value - value)))
        kept[row.number] = value
    remaining = [sweep.sign * value for value in kept.values() if math.isfinite(value)]
    best = sweep.sign * complete["value"]
    return GuardResult(
        stopped=stopped["verdict"].value_counts().to_dict(),
        saved_epochs=int(left.sum()),
        budget_known=bool(left.notna().all()),
        shadow=shadowed["shadow_verdict"].value_counts().to_dict(),
        shadow_saved=int(beyond.sum()),
        shadow_share=int(beyond.sum()) / total if total else 0.0,
        shadow_losses=tuple(sorted(losses, key=lambda loss: -loss[3] if math.isfinite(loss[3]) else -math.inf)),
        shadow_regret=float(best.max() - max(remaining)) if remaining else math.nan,
    )


@dataclass(frozen=True)
class Failure:
    """Trials that came to nothing for one reason."""

    verdict: str
    reason: str
    numbers: tuple[int, ...]
    traceback: str = ""
    """The end of the first such trial's traceback."""


TRACEBACK_LINES = 40


def failures(sweep: Sweep) -> list[Failure]:
    """Failed and broken trials by reason, the most frequent first. Broken ones differ in their numbers: the kind counts."""
    bad = sweep.trials[sweep.trials["verdict"].isin(["failed", "broken"])]
    kinds = bad["reason"].where(bad["verdict"] == "failed", bad["reason"].str.split(":").str[0])
    found = []
    for (verdict, kind), group in bad.groupby([bad["verdict"], kinds], sort=False):
        numbers = tuple(group["number"].tolist())
        reason = kind if len(numbers) > 1 else group["reason"].iloc[0]
        found.append(Failure(verdict, reason, numbers, _traceback(sweep, numbers[0])))
    return sorted(found, key=lambda failure: (-len(failure.numbers), failure.numbers))


def _traceback(sweep: Sweep, number: int) -> str:
    path = sweep.ledger.trial(number).error
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return "\n".join(lines[-TRACEBACK_LINES:])


def short_names(names: list[str]) -> dict[str, str]:
    """Each dotted name → its shortest ending that no other name shares.

    >>> short_names(["model", "model.optimizer.lr", "model.net.width", "data.width"])
    {'model': 'model', 'model.optimizer.lr': 'lr', 'model.net.width': 'net.width', 'data.width': 'data.width'}
    """

    def endings(name: str) -> list[str]:
        parts = name.split(".")
        return [".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]

    others = {name: {ending for other in names if other != name for ending in endings(other)} for name in names}
    return {name: next((ending for ending in endings(name) if ending not in others[name]), name) for name in names}
