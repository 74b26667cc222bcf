"""A sweep's ledger as DataFrames: one row a trial, one row an epoch. docs/analysis.md names every column.

It reads and never writes, so a sweep may be loaded while it runs. It must not know how a sweep is run or a report drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from analysis import frames, repeats
from analysis.frames import Objective
from sweeps.ledger import (
    CONTINUES,
    DEFAULT_ROOT,
    FROM,
    REPEATS,
    RETRIES,
    Configuration,
    Ledger,
    LedgerError,
    asked_again,
    configurations,
    order,
    outcome,
    own_trials,
    rejected,
    rivals,
)

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Sweep:
    """A sweep as it was at the moment of loading."""

    ledger: Ledger
    objectives: tuple[Objective, ...]
    """What its trials are ranked by; the first one picks a trial's best epoch."""
    trials: pd.DataFrame
    """A row for every trial that ran, is running or was interrupted; those that never ran are in `rejected`."""
    rejected: pd.DataFrame
    """Proposals that a constraint refused, or that were an earlier trial again."""
    history: pd.DataFrame
    """A row for every epoch of every trial: `number`, `epoch`, `seconds`, every logged metric, `verdict`."""
    curves: pd.DataFrame
    """The first objective by epoch, as the study has it: `number`, `epoch`, `value`, `best` (so far in that trial); of several
    objectives, a column for each."""
    manifest: dict[str, Any]
    description: str
    target: int | None
    """How many trials the sweep was asked for, retries and continuations among them; None if its search space does not say."""
    running: bool
    """Whether a process holds the sweep."""
    grouped: tuple[Configuration, ...]
    """The COMPLETE trials, those that differ in their seeds alone together: what `sweeps.winners` decides by."""
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
    budget: str = ""
    """What is used of each limit of its budget, in words; empty if it has none."""

    @property
    def name(self) -> str:
        return self.ledger.name

    @property
    def metric(self) -> str:
        """The (first) objective's metric, such as `val/avg_acc`."""
        return self.objectives[0].metric

    @property
    def mode(self) -> str:
        """`max` or `min`: the (first) objective's."""
        return self.objectives[0].mode

    @property
    def modes(self) -> list[Literal["max", "min"]]:
        """Of each objective."""
        return [objective.mode for objective in self.objectives]

    @property
    def sign(self) -> float:
        """+1 if more is better, -1 if less is: of the (first) objective."""
        return self.objectives[0].sign

    @property
    def several(self) -> bool:
        """Whether there is more than one objective."""
        return len(self.objectives) > 1

    @property
    def searched(self) -> list[str]:
        """The columns of searched parameters."""
        return list(self.distributions)

    @property
    def test_metric(self) -> str | None:
        """The (first) objective's metric as measured on test data (`val/avg_acc` → `test/avg_acc`), if a trial has it."""
        return self.tested(self.objectives[0])

    def tested(self, objective: Objective) -> str | None:
        """The column of an objective's metric as measured on test data, if a trial has it."""
        name = "test/" + objective.metric.split("/", 1)[-1]
        return name if name in self.metrics and name != objective.metric else None

    @property
    def complete(self) -> pd.DataFrame:
        """The COMPLETE trials with a finite value, best (by the first objective) first; of equals, the earlier trial."""
        done = self.trials[(self.trials["state"] == "COMPLETE") & np.isfinite(self.trials["value"])]
        return done.sort_values(["value", "number"], ascending=[self.mode == "min", True], ignore_index=True)

    @property
    def origins(self) -> dict[int, int]:
        """Trial → the first of those that have its configuration: itself, unless it retries, continues or repeats another."""
        by_number = self.trials.set_index("number")
        earlier = by_number["retries"].fillna(by_number["continues"]).fillna(by_number["repeats"])
        found: dict[int, int] = {}
        for number, other in earlier.items():  # by number: the other one comes before it
            found[number] = number if pd.isna(other) else found.get(int(other), int(other))
        return found

    @property
    def ranked(self) -> pd.DataFrame:
        """The COMPLETE trials within all outcome constraints, each configuration once: the best of a trial and those that
        continue it. One that ran with several seeds (`seeds`) has their means, and comes before those that ran with one."""
        best = repeats.means(self, order(self.grouped, self.modes))
        return best[~best["number"].map(self.origins).duplicated()].reset_index(drop=True)

    @property
    def rivals(self) -> pd.DataFrame:
        """The rows of configurations among which the winner is, best first: where some ran with several seeds, these alone."""
        return repeats.means(self, order(rivals(self.grouped), self.modes))

    @property
    def repeated(self) -> bool:
        """Whether a configuration ran with several seeds."""
        return any(each.repeated for each in self.grouped)

    @property
    def configurations(self) -> pd.DataFrame:
        """A row for every configuration with a value: over its seeds, mean, spread and interval of objectives and metrics."""
        return repeats.table(self)

    @property
    def independent(self) -> pd.DataFrame:
        """The trials with each configuration once, for statistics: without those that another one retries, and without
        those that continue another (they had more epochs than the search gave the others) or repeat it: the first seed stands
        for all, as it does for configurations that have no other."""
        retried = self.trials["number"].isin(self.trials["retries"].dropna())
        return self.trials[~retried & self.trials["continues"].isna() & self.trials["repeats"].isna()]


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
    objectives = _objectives(ledger, study)
    space = ledger.plain_space()
    everything = study.get_trials(deepcopy=False)
    frozen = own_trials(everything)
    present = [trial for trial in frozen if trial.state.name != "WAITING"]

    fixed = frames.types(objectives)
    columns = frames.parameter_columns(present, fixed)
    distributions = {column: frames.distribution(present, key) for key, column in columns.items()}
    curves = frames.curves(present, objectives)
    reached = frames.best_rows(curves)
    ran = [trial for trial in present if not rejected(trial)]
    history, problems = frames.histories(ledger, [trial.number for trial in ran])
    metric_columns = frames.metric_columns(ran, {*fixed, *columns.values()})
    elapsed = history.groupby("number")["seconds"].max() if len(history) else pd.Series(dtype=float)
    running = ledger.holder() is not None
    unended = _unended(ran, curves, running, space.get("stopping") or {})

    def frame(trials: list[FrozenTrial]) -> pd.DataFrame:
        facts = frames.facts(trials, objectives, unended)
        bests = reached.reindex(facts.index)  # assigned as it is, it would add its rows to an empty frame
        facts["best_seen"], facts["best_epoch"] = bests["best"], bests["epoch"]
        facts["epochs"] = facts["epochs"].fillna(curves.groupby("number")["epoch"].max())
        facts["seconds"] = facts["seconds"].fillna(elapsed)
        before = frames.copied(facts.reset_index(drop=True), history).reindex(facts.index).fillna(0)
        facts["copied_epochs"] = facts["exploits_epoch"].fillna(before["epoch"])
        facts["copied_seconds"] = before["seconds"]
        facts = facts.astype(fixed).reset_index(drop=True)
        searched = {column: frames.column([t.params.get(key) for t in trials]) for key, column in columns.items()}
        final = {
            column: pd.Series([float(t.user_attrs.get("metrics", {}).get(key, np.nan)) for t in trials], dtype="float64")
            for key, column in metric_columns.items()
        }
        return pd.concat([facts, pd.DataFrame(searched | final, index=facts.index)], axis=1)

    return Sweep(
        ledger=ledger,
        objectives=objectives,
        trials=frame(ran),
        rejected=frame([trial for trial in present if rejected(trial)]),
        history=history,
        curves=curves,
        manifest=ledger.manifest(),
        description=str(space.get("description", "")),
        target=_target(space, frozen),
        running=running,
        grouped=tuple(configurations(map(outcome, (trial for trial in ran if _valued(trial))))),
        distributions=distributions,
        columns=columns,
        metrics=tuple(metric_columns.values()),
        study=memory_study([objective.mode for objective in objectives], [_bare(trial) for trial in everything]),
        problems=tuple(problems),
        budget=_budget(ledger, frozen),
    )


def _budget(ledger: Ledger, trials: Sequence[FrozenTrial]) -> str:
    try:
        return ledger.budget_used(trials)
    except LedgerError as error:  # a damaged history, which is among the problems
        return f"not known ({error})"


def memory_study(modes: Sequence[str], trials: Iterable[FrozenTrial]) -> optuna.Study:
    """A study in memory of `trials`, which get the numbers 0, 1, … in their order. Args: modes: of each objective."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would announce the copy as a new study
    try:
        study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            directions=["maximize" if mode == "max" else "minimize" for mode in modes],
        )
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials(trials)
    return study


def _objectives(ledger: Ledger, study: optuna.Study) -> tuple[Objective, ...]:
    """The metrics and modes that the study was made with; the columns of several are `objective.METRIC`."""
    attributes, count = study.user_attrs, len(study.directions)
    if count == 1 and {"metric", "mode"} <= set(attributes):
        return (Objective(attributes["metric"], attributes["mode"]),)
    several = attributes.get("objectives", [])
    if count == 1 or len(several) != count:
        raise LedgerError(
            f"{ledger.study_place} does not say which {'metric' if count == 1 else f'{count} metrics'} it optimises "
            f"(it has: {', '.join(attributes) or 'nothing'}): "
            "the sweep was killed before its first trial, or something else made the study."
        )
    return tuple(Objective(one["metric"], one["mode"], f"objective.{one['metric']}") for one in several)


def _target(space: dict[str, Any], trials: Sequence[FrozenTrial]) -> int | None:
    asked = space.get("search", {}).get("trials")
    return None if asked is None else asked + asked_again(trials)


def _unended(trials: Sequence[FrozenTrial], curves: pd.DataFrame, running: bool, stopping: dict[str, Any]) -> dict[int, str]:
    """What is said of trials that have not ended: `interrupted` if nobody runs the sweep, `waiting` if they stand at the
    cut-off of the `constant` scheduler or at the end of a generation under `pbt`, `running` for all others."""
    unended = [trial.number for trial in trials if trial.state.name == "RUNNING"]
    if not running:
        return dict.fromkeys(unended, "interrupted")
    found = dict.fromkeys(unended, "running")
    if stopping.get("scheduler") == "constant":
        beyond = curves[curves["epoch"] >= stopping["cutoff_epochs"]].groupby("number").size()
        exempt = {trial.number for trial in trials if {CONTINUES, REPEATS} & trial.user_attrs.keys()}
        found |= {number: "waiting" for number in unended if beyond.get(number) == 1 and number not in exempt}
    elif stopping.get("scheduler") == "pbt":
        last = curves.groupby("number")["epoch"].max()
        alone = {trial.number for trial in trials if {CONTINUES, RETRIES} & trial.user_attrs.keys()}
        stand = {number for number in unended if number in last and last[number] % stopping["interval_epochs"] == 0}
        found |= dict.fromkeys(stand - alone, "waiting")
    return found


def _valued(trial: FrozenTrial) -> bool:
    return trial.state.name == "COMPLETE" and math.isfinite(trial.values[0])


def _bare(trial: FrozenTrial) -> FrozenTrial:
    """`trial` without its notes, which optuna's figures would print in full beside every point; of one that was taken over
    from another sweep, its number alone."""
    import optuna

    if FROM in trial.user_attrs:
        return optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL)
    return optuna.trial.create_trial(
        state=trial.state,
        values=trial.values,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values=trial.intermediate_values,
        constraints=trial.constraints,
    )
