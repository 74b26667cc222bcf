"""How surely the best trial is the best: what one run of each configuration can tell, and what it cannot.

It must not know how its sentences are shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis import repeats
from analysis.load import Sweep
from analysis.texts import counted, listed
from sweeps.ledger import deviation, mean

MIN_PAIRS = 5
"""With fewer trials that have both a validation and a test value, their spread is not estimated."""
MAD_TO_SD = 1.4826
"""Median absolute deviation → standard deviation of a normal distribution."""
ONE_SEED = (
    "If each configuration ran with one seed, nothing here tells how much of the order would survive other seeds: run the "
    "first few with several (`search.repeats`)."
)


@dataclass(frozen=True)
class Selection:
    """The best configuration against the others, in the objective's unit; leads are positive. Where some ran with several
    seeds, these are compared, by their means."""

    best: int
    """The trial that stands for it."""
    value: float
    complete: int
    """Configurations that were compared."""
    runner_up: int | None
    lead: float
    """Over the runner-up; NaN without one."""
    lead_over_median: float
    test_value: float = math.nan
    gap: float = math.nan
    """By how much the best trial is better on validation than on test data."""
    median_gap: float = math.nan
    """The same, the median over all trials that have both."""
    test_rank: int | None = None
    tested: int = 0
    rank_correlation: float = math.nan
    """Spearman's, between validation and test values."""
    spread: float = math.nan
    """Robust standard deviation, over trials, of the gap between validation and test: see `explain`."""
    tied: tuple[int, ...] = ()
    """The trials within two spreads of the best, itself left out."""
    seeds: tuple[int, ...] = ()
    """The trials of the best configuration, if there are several."""
    difference: repeats.Interval = (math.nan, math.nan)
    """The 95 % interval of the lead over the runner-up, if both ran with several seeds."""
    sentences: tuple[str, ...] = field(default=(), repr=False)


def selection(sweep: Sweep) -> Selection | None:
    """Compare the best trial with the others, each configuration once. None if no trial has a value within the outcome
    constraints, or if there are several objectives.

    The spread serves as a yardstick of noise. All trials share one validation and one test set; what these two do to all
    trials alike leaves the spread of their difference unchanged, and what remains is how far a single trial's two values
    disagree. If both sets are about equally noisy, that is also the standard deviation by which two equally good trials
    differ on validation. It is too small where the seed matters (one seed each: training noise is common to a trial's two
    values) and too large where configurations truly differ in how they overfit. So it can say that a lead is too small to
    mean anything, not that a lead is real.
    """
    rivals = sweep.rivals["number"]
    complete = sweep.ranked[sweep.ranked["number"].isin(rivals)]
    if complete.empty or sweep.several:
        return None
    scores = sweep.sign * complete["value"]
    found = Selection(
        best=int(complete["number"].iloc[0]),
        value=float(complete["value"].iloc[0]),
        complete=len(complete),
        runner_up=int(complete["number"].iloc[1]) if len(complete) > 1 else None,
        lead=float(scores.iloc[0] - scores.iloc[1]) if len(complete) > 1 else math.nan,
        lead_over_median=float(scores.iloc[0] - scores.median()),
    )
    if sweep.test_metric:
        tests = complete[sweep.test_metric]
        found = replace(found, test_value=float(tests.iloc[0]), **_against_test(complete, scores, sweep.sign * tests))
    if sweep.repeated:
        found = replace(found, **_over_seeds(sweep, found))
    return replace(found, sentences=tuple(_sentences(sweep, found)))


def _over_seeds(sweep: Sweep, found: Selection) -> dict[str, Any]:
    """The fields of `Selection` that compare seeds."""
    trials = {each.number: each.trials for each in sweep.grouped}
    best = repeats.values_of(sweep, trials[found.best], "value")
    second = repeats.values_of(sweep, trials[found.runner_up], "value") if found.runner_up is not None else []
    low, high = sorted(sweep.sign * end for end in repeats.difference(best, second))
    return {"seeds": trials[found.best], "difference": (low, high)}


def _against_test(complete: pd.DataFrame, scores: pd.Series, tests: pd.Series) -> dict[str, Any]:
    """The fields of `Selection` that compare validation with test. `scores` and `tests`: more is better."""
    both = tests.notna() & np.isfinite(tests)
    gaps = (scores - tests)[both]
    found: dict[str, Any] = {"tested": len(gaps)}
    if both.iloc[0]:
        found["gap"] = float(gaps.iloc[0])
        found["test_rank"] = 1 + int((tests[both] > tests.iloc[0]).sum())
    if len(gaps) < MIN_PAIRS:
        return found
    spread = robust_spread(gaps)
    near = complete.loc[scores >= scores.iloc[0] - 2 * spread, "number"].tolist()[1:]
    correlation = scores[both].rank().corr(tests[both].rank())
    return found | {
        "median_gap": float(gaps.median()),
        "spread": spread,
        "tied": tuple(near),
        "rank_correlation": float(correlation),
    }


def robust_spread(gaps: pd.Series) -> float:
    """The standard deviation that normal values with this median absolute deviation would have."""
    return MAD_TO_SD * float((gaps - gaps.median()).abs().median())


def _sentences(sweep: Sweep, found: Selection) -> list[str]:
    """What to tell a reader, each sentence true on its own."""
    if found.seeds:
        return [*_of_seeds(sweep, found), *bounds(sweep)]
    return [*_of_one_seed(sweep, found), *bounds(sweep)]


def outside(sweep: Sweep) -> list[str]:
    """How many COMPLETE trials are not within the outcome constraints, and of which."""
    complete = sweep.complete
    broken = complete[~complete["feasible"].fillna(True)]
    if broken.empty:
        return []
    names = Counter(part.rsplit(" by ", 1)[0] for text in broken["violated"] for part in text.split(", "))
    kinds = listed([f"{name} ({count})" for name, count in names.most_common()])
    return [
        f"{counted(len(broken), 'complete trial')} of {len(complete)} {'is' if len(broken) == 1 else 'are'} outside an outcome "
        f"constraint and cannot be the best: {kinds}."
    ]


def bounds(sweep: Sweep) -> list[str]:
    """How the COMPLETE trials stand to the outcome constraints; nothing where there are none."""
    names = {name: None for trial in sweep.study.get_trials(deepcopy=False) for name in trial.constraints}
    if not names or sweep.complete.empty:
        return []
    held = len(sweep.complete)
    return outside(sweep) or [f"{f'All {held} complete trials are' if held > 1 else 'It is'} within {listed(list(names))}."]


def _of_seeds(sweep: Sweep, found: Selection) -> list[str]:
    """The same where configurations ran with several seeds."""
    one = f"Trial {found.best} and its repeats have the best mean {sweep.metric}: {_spread(sweep, found.seeds, 'value')}."
    told = [one]
    if found.runner_up is not None:
        low, high = found.difference
        apart = (
            "zero is not in it, for what it is worth after choosing the best of several"
            if low > 0
            else "zero is in it: these seeds do not tell the two apart"
        )
        told.append(
            f"That leads the runner-up, trial {found.runner_up} and its repeats, by {found.lead:.3g}; the 95 % interval of the "
            f"lead is from {low:.3g} to {high:.3g} (Welch): {apart}."
        )
        told.append(
            f"It is the best mean of {found.complete} configurations with several seeds, and so still a little too good: less "
            "than the best value of single seeds would be."
        )
    single = len(sweep.ranked) - found.complete
    if single:
        others = repeats.values_of(sweep, found.seeds[1:], "value")
        told.append(
            f"{counted(single, 'configuration')} ran with one seed and {'comes' if single == 1 else 'come'} after these: a "
            "single value that is good among many is so by luck in part. The first seeds of the repeated ones were "
            f"chosen in that way, too; without its first seed, the best one's mean is {mean(others):.4g}."
        )
    if sweep.test_metric and repeats.values_of(sweep, found.seeds, sweep.test_metric):
        told.append(
            f"Its {sweep.test_metric}, which had no part in the choice and is the fairer number: "
            f"{_spread(sweep, found.seeds, sweep.test_metric)}."
        )
    else:
        told.append("It was not tested: before quoting a number, measure it on data that chose nothing.")
    return told


def _spread(sweep: Sweep, trials: Sequence[int], column: str) -> str:
    values = repeats.values_of(sweep, trials, column)
    if len(values) < 2:
        return f"{values[0]:.4g} with one seed"
    low, high = repeats.interval(values)
    little = ": two seeds tell little" if len(values) == 2 else ""
    return (
        f"{mean(values):.4g} over {len(values)} seeds, with a standard deviation of {deviation(values):.2g}; the 95 % interval "
        f"of the mean is from {low:.4g} to {high:.4g} (Student's t){little}"
    )


def _of_one_seed(sweep: Sweep, found: Selection) -> list[str]:
    """The same where each ran with one."""
    if found.runner_up is None:
        within = " within the outcome constraints" if outside(sweep) else ""
        return [
            f"Trial {found.best} is the only one with a value{within} ({found.value:.4g}): there is nothing to compare it with."
        ]
    told = [
        f"Trial {found.best} leads the runner-up, trial {found.runner_up}, by {found.lead:.3g} and the median of "
        f"{found.complete} complete trials by {found.lead_over_median:.3g}.",
        f"Its {sweep.metric} of {found.value:.4g} is the best of {found.complete}, and so is likely too good: "
        "part of what made it the best is luck.",
    ]
    if math.isfinite(found.gap):
        usual = f" (the median trial's: {_better(found.median_gap)})" if math.isfinite(found.median_gap) else ""
        told.append(
            f"Its {sweep.test_metric} of {found.test_value:.4g} had no part in the choice and is the fairer number. Its "
            f"validation value is {_better(found.gap)} than that{usual}. By test value it is number {found.test_rank} of "
            f"{found.tested}; choosing by test value would spoil that value in the same way."
        )
    elif sweep.test_metric:
        told.append(f"Trial {found.best} has no {sweep.test_metric}: evaluate it before quoting a number.")
    else:
        told.append("No trial was tested: before quoting a number, measure the winner on data that chose nothing.")
    if math.isfinite(found.spread):
        told.append(_yardstick(found))
    if longer := _continuation(sweep, found.best):
        told.append(longer)
    return [*told, ONE_SEED]


def _continuation(sweep: Sweep, number: int) -> str | None:
    """What must be said of a best trial that continues another one."""
    row = sweep.trials.set_index("number").loc[number]
    if pd.isna(row["continues"]):
        return None
    return (
        f"Trial {number} continues trial {row['continues']}: it was trained for {row['epochs']} epochs because somebody asked "
        "for them, which gave it a lead over the others that its configuration has no part in."
    )


def _yardstick(found: Selection) -> str:
    agreement = f"Validation and test order the trials alike to a rank correlation of {found.rank_correlation:.2f}"
    if not math.isfinite(found.rank_correlation):
        agreement = "Validation or test does not tell the trials apart at all"
    measure = f"from trial to trial their difference varies by {found.spread:.2g} (robust standard deviation)"
    if found.tied:
        count = "1 other trial is" if len(found.tied) == 1 else f"{len(found.tied)} other trials are"
        return f"{agreement}; {measure}. {count} within twice that of the best: by this measure they cannot be told apart."
    return f"{agreement}; {measure}. No other trial is within twice that of the best."


def _better(gap: float) -> str:
    return f"better by {gap:.2g}" if gap >= 0 else f"worse by {-gap:.2g}"
