"""The Pareto front of a sweep with several objectives, and how surely it is one. None of its trials is called the best.

It must not know how its sentences are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import optuna
import pandas as pd

from analysis.frames import Objective
from analysis.load import Sweep, memory_study
from analysis.selection import MIN_PAIRS, bounds, outside, robust_spread
from analysis.texts import amount
from sweeps.ledger import front as of_configurations


@dataclass(frozen=True)
class Front:
    """The COMPLETE trials that no other one dominates: at least as good in every objective, and better in one. Where
    configurations ran with several seeds, it is of these, by their means."""

    trials: pd.DataFrame
    """Their rows, the best by the first objective first. Of a trial and one that continues it to equal values, the former."""
    complete: int
    """Configurations with values, of which the front was chosen."""
    kept_by_test: int | None
    """How many of the front's trials are on the front by test values too, among those of them that were tested; None if no
    objective was measured on test data."""
    tested: int
    """The front's trials that have all test values."""
    spreads: dict[str, float]
    """Metric → robust standard deviation, over trials, of the gap between its validation and test values; where there are
    at least `MIN_PAIRS` trials with both."""
    sentences: tuple[str, ...] = field(default=(), repr=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(self.trials["number"].tolist())


def front(sweep: Sweep) -> Front | None:
    """The front of a sweep's complete trials. None with one objective, or if no trial has values within the outcome
    constraints."""
    complete = sweep.rivals
    if not sweep.several or complete.empty:
        return None
    columns = [objective.column for objective in sweep.objectives]
    on_front = [each.number for each in of_configurations(sweep.grouped, sweep.modes)]
    chosen = complete[complete["number"].isin(on_front)]
    again = chosen.assign(origin=chosen["number"].map(sweep.origins)).duplicated(["origin", *columns])
    chosen = chosen[~again].reset_index(drop=True)

    on_test = [sweep.tested(objective) or objective.column for objective in sweep.objectives]
    kept, tested = None, 0
    if on_test != columns:
        measured = complete[np.isfinite(complete[on_test]).all(axis="columns")]
        by_test = set(non_dominated(measured, sweep.objectives, on_test))
        of_front = chosen["number"][chosen["number"].isin(measured["number"])]
        kept, tested = int(of_front.isin(by_test).sum()), len(of_front)
    once = sweep.ranked[sweep.ranked["number"].isin(complete["number"])]
    spreads = {}
    for objective in sweep.objectives:
        if column := sweep.tested(objective):
            gaps = (once[objective.column] - once[column]).dropna()
            if len(gaps) >= MIN_PAIRS:
                spreads[objective.metric] = robust_spread(gaps)
    found = Front(chosen, len(once), kept, tested, spreads)
    return Front(chosen, found.complete, kept, tested, spreads, tuple(_sentences(sweep, found)))


def non_dominated(trials: pd.DataFrame, objectives: tuple[Objective, ...], columns: list[str]) -> list[int]:
    """The numbers of the trials that no other one dominates by these columns."""
    values = trials[columns].to_numpy().tolist()
    study = memory_study([objective.mode for objective in objectives], [optuna.trial.create_trial(values=v) for v in values])
    return [int(trials["number"].iloc[trial.number]) for trial in study.best_trials]


def _sentences(sweep: Sweep, found: Front) -> list[str]:
    """What to tell a reader, each sentence true on its own."""
    metrics = " and ".join(objective.metric for objective in sweep.objectives)
    if found.complete == 1:
        number = found.numbers[0]
        within = " within the outcome constraints" if outside(sweep) else ""
        return [f"Trial {number} is the only one with values{within}: there is nothing to compare it with.", *bounds(sweep)]
    told = []
    if len(found.trials) == 1:
        told.append(
            f"One of {found.complete} complete trials is at least as good as every other one in {metrics}: there is nothing to "
            "weigh between them, as far as these values can be trusted."
        )
    else:
        told.append(
            f"{len(found.trials)} of {found.complete} complete trials are on the front: none of them is better than another in "
            "one objective without being worse in a further one. Which to take depends on what the objectives are worth to you."
        )
        told += [_end(sweep, objective, found) for objective in sweep.objectives]
    told.append(
        f"A trial's values are those of its best epoch by {sweep.metric}, which are those of its best checkpoint. The front "
        f"holds the luckiest of {found.complete} trials among the good ones, and so is likely too good."
    )
    tests = [column for objective in sweep.objectives if (column := sweep.tested(objective))]
    if found.tested:
        told.append(
            f"With {' and '.join(tests)} in place of the validation value, {found.kept_by_test} of the front's {found.tested} "
            "tested trials are still on it. Test values had no part in the choice; choosing by them would spoil them in the "
            "same way."
        )
    else:
        told.append("No trial of the front was tested: before quoting a number, measure it on data that chose nothing.")
    told += [
        f"From trial to trial the difference of validation and test {metric} varies by {spread:.2g} (robust standard "
        "deviation): trials within twice that cannot be told apart in it."
        for metric, spread in found.spreads.items()
    ]
    if sweep.repeated:
        told.append(
            "The front is of the configurations that ran with several seeds, by their means (the table of configurations has "
            "the spreads); a single seed's values, good among many, are so by luck in part."
        )
    else:
        told.append(
            "If each configuration ran with one seed, nothing here tells how much of the front would survive other seeds: run "
            "its trials with several (`search.repeats`)."
        )
    return [*told, *bounds(sweep)]


def _end(sweep: Sweep, objective: Objective, found: Front) -> str:
    """Where the front ends in one objective."""
    column = found.trials[objective.column]
    row = found.trials.loc[column.idxmax() if objective.sign > 0 else column.idxmin()]
    others = ", ".join(f"{other.metric} {amount(other, row[other.column])}" for other in sweep.objectives if other != objective)
    word, value = "highest" if objective.sign > 0 else "lowest", amount(objective, row[objective.column])
    return f"The {word} {objective.metric}, {value}, is trial {row['number']}'s, at {others}."
