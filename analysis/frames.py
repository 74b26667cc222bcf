"""Rows and columns made of Optuna's trials and of histories: what stands in which cell. docs/analysis.md names every column.

It must not know where a sweep lies on disk, but for the trials' histories, or what the frames are for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from sweeps.ledger import CONTINUES, EPOCHS, EXPLOITS, REPEATS, REPLACES, RETRIES, Ledger, read_history, recorded

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

SIZE = "parameters"
"""The metric that is the network's size: known without training, and the same at every epoch."""

COLUMNS: dict[str, str] = {
    "number": "int64",
    "state": "str",
    "verdict": "str",
    "reason": "str",
    "verdict_epoch": "Int64",
    "value": "float64",
    "best_seen": "float64",
    "best_epoch": "Int64",
    "epochs": "Int64",
    "max_epochs": "Int64",
    "seconds": "float64",
    "started": "datetime64[us]",
    "ended": "datetime64[us]",
    "parameters": "Int64",
    "seed": "Int64",
    "shadow_verdict": "str",
    "shadow_reason": "str",
    "shadow_epoch": "Int64",
    "retries": "Int64",
    "continues": "Int64",
    "repeats": "Int64",
    "replaces": "Int64",
    "exploits": "Int64",
    "exploits_epoch": "Int64",
    "feasible": "boolean",
    "violated": "str",
    "copied_epochs": "Int64",
    "copied_seconds": "float64",
    "overrides": "object",
}
"""The columns that every trials frame has, in order, and their types. Of several objectives each has one more, and searched
parameters and final metrics follow."""

_VERDICT_OF_STATE = {"COMPLETE": "finished", "PRUNED": "outranked", "FAIL": "failed"}


@dataclass(frozen=True)
class Objective:
    """What trials are ranked by, or one of several things."""

    metric: str
    """Such as `val/avg_acc`."""
    mode: str
    """`max` or `min`."""
    column: str = "value"
    """Its column in trials and curves."""

    @property
    def sign(self) -> float:
        """+1 if more is better, -1 if less is."""
        return 1.0 if self.mode == "max" else -1.0


def facts(trials: Sequence[FrozenTrial], objectives: Sequence[Objective], unended: Mapping[int, str]) -> pd.DataFrame:
    """What each trial alone tells: the columns of `COLUMNS`, not all of them filled, and those of several objectives.

    Args: unended: the verdicts of trials that have not ended, by their numbers.
    """
    rows = [_facts(trial, objectives, unended.get(trial.number, "running")) for trial in trials]
    extra = [objective.column for objective in objectives if objective.column not in COLUMNS]
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra]).set_index("number", drop=False)


def types(objectives: Sequence[Objective]) -> dict[str, str]:
    """The fixed columns of a sweep with these objectives, in order, and their types."""
    return COLUMNS | {objective.column: "float64" for objective in objectives}


def _facts(trial: FrozenTrial, objectives: Sequence[Objective], unended: str) -> dict[str, Any]:
    notes, state = trial.user_attrs, trial.state.name
    verdict = notes.get("verdict", {})
    running = state == "RUNNING"
    unexplained = "" if running else "no reason was recorded"
    # The first epoch at which a guard would have acted is the one that would have counted.
    shadow = min(notes.get("shadow", []), key=lambda entry: entry["epoch"], default={})
    budget = notes.get("max_epochs", -1)
    ended = state == "COMPLETE"
    values = trial.values if ended else [math.nan] * len(objectives)
    return {
        "number": trial.number,
        "state": state,
        "verdict": unended if running else verdict.get("verdict") or _VERDICT_OF_STATE[state],
        "reason": verdict.get("reason", unexplained),
        "verdict_epoch": verdict.get("epoch"),
        "value": values[0],
        "epochs": notes.get("epochs"),
        "max_epochs": budget if budget > 0 else None,
        "seconds": notes.get("seconds"),
        "started": trial.datetime_start,
        "ended": trial.datetime_complete,
        "parameters": notes.get("parameters"),
        "seed": _seed(notes.get("overrides", [])),
        "shadow_verdict": shadow.get("verdict", ""),
        "shadow_reason": shadow.get("reason", ""),
        "shadow_epoch": shadow.get("epoch"),
        "retries": notes.get(RETRIES),
        "continues": notes.get(CONTINUES),
        "repeats": notes.get(REPEATS),
        "replaces": notes.get(REPLACES),
        "exploits": notes.get(EXPLOITS),
        "exploits_epoch": notes.get(EPOCHS) if EXPLOITS in notes else None,
        "feasible": all(by <= 0 for by in trial.constraints.values()) if ended and trial.constraints else None,
        "violated": _violated(trial.constraints) if ended else "",
        "overrides": list(notes.get("overrides", [])),
    } | {objective.column: value for objective, value in zip(objectives, values, strict=True)}


def _violated(constraints: Mapping[str, float]) -> str:
    return ", ".join(f"{name} by {by:.3g}" for name, by in sorted(constraints.items()) if by > 0)


def _seed(overrides: Sequence[str]) -> int | None:
    """The seed that the overrides give: the last one counts, as it does for Hydra."""
    found = [text.partition("=")[2] for text in overrides if text.startswith("seed=")]
    return int(found[-1]) if found and found[-1].isdecimal() else None


def curves(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> pd.DataFrame:
    """Every objective by epoch, as the study has it, and `best`: the first one's best value so far in that trial."""
    several = [objective.column for objective in objectives] if len(objectives) > 1 else []
    rows = [
        (trial.number, epoch, values[0], *(values if several else ()))
        for trial in trials
        for epoch, values in recorded(trial).items()
    ]
    floats = ["value", *several]
    frame = pd.DataFrame(rows, columns=["number", "epoch", *floats])
    frame = frame.astype({"number": "int64", "epoch": "int64"} | dict.fromkeys(floats, "float64"))
    sign = objectives[0].sign
    finite = (sign * frame["value"]).where(np.isfinite(frame[floats]).all(axis="columns"))
    frame["best"] = sign * finite.groupby(frame["number"]).cummax().groupby(frame["number"]).ffill()
    return frame


def best_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The row of `curves` at which each trial was best by the first objective, the first of equals, by its number."""
    return frame.dropna(subset=["best"]).drop_duplicates(["number", "best"]).groupby("number").last()


def histories(ledger: Ledger, numbers: Sequence[int]) -> tuple[pd.DataFrame, list[str]]:
    """Every trial's history, and what could not be read."""
    rows: list[dict[str, Any]] = []
    problems = []
    for number in numbers:
        path = ledger.trial(number).history
        try:
            rows += [{"number": number, **row} for row in read_history(path)]
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{path} is damaged and was left out: {error}")
    frame = pd.DataFrame(rows) if rows else pd.DataFrame(columns=["number", "epoch", "seconds", "verdict"])
    metrics = sorted(set(frame.columns) - {"number", "epoch", "seconds", "verdict"})
    frame = frame[["number", "epoch", "seconds", *metrics, "verdict"]]
    return frame.astype({"number": "int64", "epoch": "int64", "seconds": "float64", "verdict": "str"}), problems


def copied(trials: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """How far the history of each trial is the copy of another's that it continues: `epoch` and `seconds`, by its number.

    A copied row has its source's epoch and, to the millisecond, its seconds.
    """
    pairs = trials[["number", "continues"]].dropna().astype("int64")
    seen = history[["number", "epoch", "seconds"]]
    both = pairs.merge(seen, on="number").merge(
        seen, left_on=["continues", "epoch", "seconds"], right_on=["number", "epoch", "seconds"]
    )
    return both.groupby("number_x")[["epoch", "seconds"]].max()


def parameter_columns(trials: Iterable[FrozenTrial], taken: Iterable[str]) -> dict[str, str]:
    """Every searched override key and its column: the key itself, unless a column has that name already."""
    keys = dict.fromkeys(key for trial in trials for key in trial.params)
    return {key: f"searched.{key}" if key in taken else key for key in keys}


def metric_columns(trials: Iterable[FrozenTrial], taken: Iterable[str]) -> dict[str, str]:
    """Every final metric and its column: its name, unless a column has that name already."""
    names = sorted({name for trial in trials for name in trial.user_attrs.get("metrics", {})})
    return {name: f"final.{name}" if name in taken else name for name in names}


def distribution(trials: Iterable[FrozenTrial], key: str) -> BaseDistribution:
    """The latest distribution of a parameter: `extend` may have widened it."""
    return [trial.distributions[key] for trial in trials if key in trial.distributions][-1]


def column(values: list[Any]) -> pd.Series:
    """Sampled values as they are; None where the parameter was not active. Whole numbers stay whole beside a gap."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) != 1:
        return pd.Series(values, dtype="object")
    return pd.Series(values, dtype={int: "Int64", bool: "boolean", float: "float64", str: "str"}.get(kinds.pop(), "object"))


def for_parquet(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with each column of one type, as Parquet wants it: a parameter that mixes types becomes text."""
    mixed = [name for name in frame if frame[name].dtype == object and name not in {"overrides", "trials"}]
    return frame.assign(**{name: frame[name].map(str, na_action="ignore").astype("str") for name in mixed})
