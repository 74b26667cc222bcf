"""Configurations that ran with several seeds: means, spreads and intervals of what they came to, and whether two differ.

It must not know how a configuration is chosen (`sweeps.winners`), or how its numbers are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from sweeps.ledger import Configuration, deviation, mean, order

if TYPE_CHECKING:
    from analysis.load import Sweep

CONFIDENCE = 0.95
Interval = tuple[float, float]


def interval(values: Sequence[float]) -> Interval:
    """The 95 % confidence interval of the mean of normal values, by Student's t; NaN with fewer than two.

    >>> [round(end, 3) for end in interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    if len(values) < 2:
        return math.nan, math.nan
    half = _quantile(len(values) - 1) * deviation(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def difference(one: Sequence[float], other: Sequence[float]) -> Interval:
    """The 95 % confidence interval of the difference of two means, their spreads not taken to be equal (Welch 1947,
    doi:10.1093/biomet/34.1-2.28); NaN where one has fewer than two values."""
    if min(len(one), len(other)) < 2:
        return math.nan, math.nan
    apart = mean(one) - mean(other)
    parts = [deviation(values) ** 2 / len(values) for values in (one, other)]
    if sum(parts) == 0:
        return apart, apart
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
    half = _quantile(freedom) * math.sqrt(sum(parts))
    return apart - half, apart + half


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def values_of(sweep: Sweep, numbers: Sequence[int], column: str) -> list[float]:
    """What these trials have in a column, those that have it, in the order of `numbers`."""
    found = sweep.trials.set_index("number")[column].reindex(list(numbers))
    return found[np.isfinite(found.astype("float64"))].tolist()


def measured(sweep: Sweep) -> list[str]:
    """The columns that differ from seed to seed and are worth a mean: objectives and final metrics."""
    return list(dict.fromkeys(["value", *(objective.column for objective in sweep.objectives), *sweep.metrics]))


def means(sweep: Sweep, chosen: Sequence[Configuration]) -> pd.DataFrame:
    """The rows of the trials that stand for these configurations, in their order, with the number of their `seeds`: each
    objective and final metric is the mean over these, where there are several."""
    rows = sweep.trials.set_index("number", drop=False).loc[[each.number for each in chosen]]
    rows = rows.assign(seeds=[each.seeds for each in chosen])
    several = [each for each in chosen if each.repeated]
    for column in measured(sweep) if several else []:
        for each in several:
            found = values_of(sweep, each.trials, column)
            rows.loc[each.number, column] = mean(found) if found else math.nan
    return rows.reset_index(drop=True)


def table(sweep: Sweep) -> pd.DataFrame:
    """A row for every configuration with a value: `number` (the trial that stands for it), `seeds`, `trials`, `feasible`, its
    searched parameters, and of each objective and final metric the mean, and under `NAME.std`, `NAME.low` and `NAME.high` the
    standard deviation and the 95 % interval of the mean over its seeds. The best first, those outside a constraint last."""
    best = order(sweep.grouped, sweep.modes)
    chosen = [*best, *(each for each in sweep.grouped if each not in best)]
    columns = measured(sweep)
    rows = means(sweep, chosen)
    frame = rows[["number", "seeds"]].assign(
        trials=[list(each.trials) for each in chosen], feasible=[each.feasible for each in chosen]
    )
    spread = {}
    for column in columns:
        of = [values_of(sweep, each.trials, column) for each in chosen]
        ends = [interval(values) for values in of]
        spread |= {
            column: rows[column],
            f"{column}.std": pd.Series([deviation(values) for values in of], dtype="float64"),
            f"{column}.low": pd.Series([low for low, _ in ends], dtype="float64"),
            f"{column}.high": pd.Series([high for _, high in ends], dtype="float64"),
        }
    return pd.concat([frame, rows[sweep.searched], pd.DataFrame(spread, index=frame.index)], axis=1)
