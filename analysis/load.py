"""A sweep's ledger as DataFrames: one row a trial, one row an epoch. docs/analysis.md names every column.

It reads and never writes, so a sweep may be loaded while it runs. It must not know how a sweep is run or a report drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from sweeps.ledger import DEFAULT_ROOT, Ledger, LedgerError, read_history

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

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
    "overrides": "object",
}
"""The columns that every trials frame has, in order, and their types. Searched parameters and final metrics follow."""

_VERDICT_OF_STATE = {"COMPLETE": "finished", "PRUNED": "outranked", "FAIL": "failed", "RUNNING": "running"}


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was at the moment of loading."""

    ledger: Ledger
    metric: str
    """The objective's metric, such as `val/avg_acc`."""
    mode: str
    """`max` or `min`."""
    trials: pd.DataFrame
    """A row for every trial that ran or is running; those that a constraint rejected are in `rejected`."""
    rejected: pd.DataFrame
    history: pd.DataFrame
    """A row for every epoch of every trial: `number`, `epoch`, `seconds`, every logged metric, `verdict`."""
    curves: pd.DataFrame
    """The objective by epoch, as the study has it: `number`, `epoch`, `value`, `best` (so far in that trial)."""
    manifest: dict[str, Any]
    description: str
    target: int | None
    """How many trials the sweep was asked for; None if its search space does not say."""
    distributions: dict[str, BaseDistribution]
    """Every searched parameter (by its column) and its distribution, in the order in which the study met them."""
    columns: dict[str, str]
    """Every searched override key → its column: the key itself unless a fixed column has that name."""
    metrics: tuple[str, ...]
    """The columns of final metrics."""
    study: optuna.Study
    """A copy of the study in memory: parameters, values and states, for optuna's own tools."""
    problems: tuple[str, ...] = ()
    """What could not be read, in words."""

    @property
    def name(self) -> str:
        return self.ledger.name

    @property
    def sign(self) -> float:
        """+1 if more is better, -1 if less is."""
        return 1.0 if self.mode == "max" else -1.0

    @property
    def searched(self) -> list[str]:
        """The columns of searched parameters."""
        return list(self.distributions)

    @property
    def test_metric(self) -> str | None:
        """The objective's metric as measured on test data (`val/avg_acc` → `test/avg_acc`), if a trial has it."""
        name = "test/" + self.metric.split("/", 1)[-1]
        return name if name in self.metrics and name != self.metric else None

    @property
    def complete(self) -> pd.DataFrame:
        """The COMPLETE trials with a finite value, best first; of equals, the earlier trial."""
        done = self.trials[(self.trials["state"] == "COMPLETE") & np.isfinite(self.trials["value"])]
        return done.sort_values(["value", "number"], ascending=[self.mode == "min", True], ignore_index=True)


def load(sweep: str, root: str | Path = DEFAULT_ROOT) -> Sweep:
    """Read everything that is known of a sweep.

    Args:
        sweep: its name.
        root: the directory of all sweeps.

    Raises:
        LedgerError: there is no such sweep (near names are listed), or its study is missing or damaged.
    """
    ledger = Ledger(sweep, Path(root))
    study = ledger.study()
    metric, mode = _objective(ledger, study)
    space = _space(ledger)
    frozen = _read_trials(ledger, study)
    present = [trial for trial in frozen if trial.state.name != "WAITING"]

    columns = _parameter_columns(present)
    distributions = {column: _distribution(present, key) for key, column in columns.items()}
    curves = _curves(present, 1.0 if mode == "max" else -1.0)
    reached = curves.dropna(subset=["best"]).drop_duplicates(["number", "best"]).groupby("number").last()
    ran = [trial for trial in present if not _rejected(trial)]
    history, problems = _histories(ledger, [trial.number for trial in ran])
    metric_columns = _metric_columns(ran, {*COLUMNS, *columns.values()})
    elapsed = history.groupby("number")["seconds"].max() if len(history) else pd.Series(dtype=float)

    def frame(trials: list[FrozenTrial]) -> pd.DataFrame:
        facts = pd.DataFrame([_facts(trial) for trial in trials], columns=list(COLUMNS)).set_index("number", drop=False)
        bests = reached.reindex(facts.index)  # assigned as it is, it would add its rows to an empty frame
        facts["best_seen"], facts["best_epoch"] = bests["best"], bests["epoch"]
        facts["epochs"] = facts["epochs"].fillna(curves.groupby("number")["epoch"].max())
        facts["seconds"] = facts["seconds"].fillna(elapsed)
        facts = facts.astype(COLUMNS).reset_index(drop=True)
        searched = {column: _column([t.params.get(key) for t in trials]) for key, column in columns.items()}
        final = {
            column: pd.Series([float(t.user_attrs.get("metrics", {}).get(key, math.nan)) for t in trials], dtype="float64")
            for key, column in metric_columns.items()
        }
        return pd.concat([facts, pd.DataFrame(searched | final, index=facts.index)], axis=1)

    return Sweep(
        ledger=ledger,
        metric=metric,
        mode=mode,
        trials=frame(ran),
        rejected=frame([trial for trial in present if _rejected(trial)]),
        history=history,
        curves=curves,
        manifest=ledger.manifest(),
        description=str(space.get("description", "")),
        target=space.get("search", {}).get("trials"),
        distributions=distributions,
        columns=columns,
        metrics=tuple(metric_columns.values()),
        study=memory_study(mode, [_bare(trial) for trial in frozen]),
        problems=tuple(problems),
    )


def memory_study(mode: str, trials: Iterable[FrozenTrial]) -> optuna.Study:
    """A study in memory of `trials`, which get the numbers 0, 1, … in their order."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the copy as a new study
    try:
        study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(), direction="maximize" if mode == "max" else "minimize"
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials(trials)
    return study


def _objective(ledger: Ledger, study: optuna.Study) -> tuple[str, str]:
    """The metric and the mode that the study was made with."""
    attributes = study.user_attrs
    if len(study.directions) != 1:
        raise LedgerError(f"{ledger.study_file} has {len(study.directions)} objectives; reports are of sweeps with one.")
    if not {"metric", "mode"} <= set(attributes):
        raise LedgerError(
            f"{ledger.study_file} does not say which metric it optimises (it has: {', '.join(attributes) or 'nothing'}): "
            "the sweep was killed before its first trial, or something else made the study."
        )
    return attributes["metric"], attributes["mode"]


def _space(ledger: Ledger) -> dict[str, Any]:
    """The search space as plain data: a sweep stays readable when its space would no longer be accepted."""
    try:
        return yaml.safe_load(ledger.space_file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise LedgerError(f"{ledger.space_file} cannot be read ({error}). Restore it from a copy.") from error


def _read_trials(ledger: Ledger, study: optuna.Study) -> list[FrozenTrial]:
    from sqlalchemy.exc import DatabaseError

    try:
        return study.get_trials(deepcopy=False)
    except DatabaseError as error:
        raise LedgerError(
            f"{ledger.study_file} is damaged: its trials cannot be read ({error.orig}). Restore it from a copy."
        ) from error


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """`trial` without its notes, which optuna's figures would print in full beside every point."""
    import optuna

    return optuna.trial.create_trial(
        state=trial.state,
        value=trial.value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
    )


def _rejected(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get("verdict", {}).get("verdict") == "rejected"


def _facts(trial: FrozenTrial) -> dict[str, Any]:
    """The columns that one trial alone tells."""
    notes, state = trial.user_attrs, trial.state.name
    verdict = notes.get("verdict", {})
    running = state == "RUNNING"
    unexplained = "" if running else "no reason was recorded"
    # The first epoch at which a guard would have acted is the one that would have counted.
    shadow = min(notes.get("shadow", []), key=lambda entry: entry["epoch"], default={})
    budget = notes.get("max_epochs", -1)
    return {
        "number": trial.number,
        "state": state,
        "verdict": "running" if running else verdict.get("verdict", _VERDICT_OF_STATE[state]),
        "reason": verdict.get("reason", unexplained),
        "verdict_epoch": verdict.get("epoch"),
        "value": trial.value if state == "COMPLETE" else math.nan,
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
        "overrides": list(notes.get("overrides", [])),
    }


def _seed(overrides: Sequence[str]) -> int | None:
    """The seed that the overrides give: the last one counts, as it does for Hydra."""
    found = [text.partition("=")[2] for text in overrides if text.startswith("seed=")]
    return int(found[-1]) if found and found[-1].isdecimal() else None


def _curves(trials: Sequence[FrozenTrial], sign: float) -> pd.DataFrame:
    rows = [(t.number, epoch, value) for t in trials for epoch, value in sorted(t.intermediate_values.items())]
    curves = pd.DataFrame(rows, columns=["number", "epoch", "value"]).astype(
        {"number": "int64", "epoch": "int64", "value": "float64"}
    )
    finite = (sign * curves["value"]).where(np.isfinite(curves["value"]))
    curves["best"] = sign * finite.groupby(curves["number"]).cummax().groupby(curves["number"]).ffill()
    return curves


def _histories(ledger: Ledger, numbers: Sequence[int]) -> tuple[pd.DataFrame, list[str]]:
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


def _parameter_columns(trials: Iterable[FrozenTrial]) -> dict[str, str]:
    """Every searched override key and its column: the key itself, unless a column has that name already."""
    keys = dict.fromkeys(key for trial in trials for key in trial.params)
    return {key: f"searched.{key}" if key in COLUMNS else key for key in keys}


def _metric_columns(trials: Iterable[FrozenTrial], taken: set[str]) -> dict[str, str]:
    names = sorted({name for trial in trials for name in trial.user_attrs.get("metrics", {})})
    return {name: f"final.{name}" if name in taken else name for name in names}


def _distribution(trials: Iterable[FrozenTrial], key: str) -> BaseDistribution:
    """The latest distribution of a parameter: `extend` may have widened it."""
    return [trial.distributions[key] for trial in trials if key in trial.distributions][-1]


def _column(values: list[Any]) -> pd.Series:
    """Sampled values as they are; None where the parameter was not active. Whole numbers stay whole beside a gap."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) != 1:
        return pd.Series(values, dtype="object")
    return pd.Series(values, dtype={int: "Int64", bool: "boolean", float: "float64", str: "str"}.get(kinds.pop(), "object"))


def for_parquet(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with each column of one type, as Parquet wants it: a parameter that mixes types becomes text."""
    mixed = [name for name in frame if frame[name].dtype == object and name != "overrides"]
    return frame.assign(**{name: frame[name].map(str, na_action="ignore").astype("str") for name in mixed})
