"""Which searched parameters mattered, and by how much more than chance. It must not know how the answer is shown.

PED-ANOVA (Watanabe et al. 2023, arXiv:2304.10255) in its conditional form (arXiv:2601.20800), as optuna has it: how far the
values of the best trials are distributed otherwise than those of all. It takes parameters that were active in some trials
only, and drops no trial for the lack of one.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from analysis.frames import Objective, best_rows
from analysis.load import Sweep, memory_study

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from optuna.trial import FrozenTrial

MIN_TRIALS = 10
"""Below this nothing is said: PED-ANOVA wants at least five trials among the best, and others to compare them with."""
BEST_TRIALS = 5
BEST_SHARE = 0.25
"""The best quarter, and at least `BEST_TRIALS`: few trials show an effect more often by it than by the best tenth."""
SHUFFLES = 40


@dataclass(frozen=True)
class Importance:
    """The importance of one parameter, as a share of all parameters' importance."""

    parameter: str
    """Its column in the trials frame."""
    share: float
    chance: float
    """What shuffled values reach in one shuffle of twenty: a share below it tells nothing."""
    active: int
    """The trials of the basis in which it was sampled."""

    @property
    def above_chance(self) -> bool:
        return self.share > self.chance


@dataclass(frozen=True)
class Importances:
    """Importances on one basis: which trials, compared by which value."""

    basis: str
    trials: int
    best: int
    """How many trials counted as the best ones, ties included."""
    parameters: tuple[Importance, ...] = ()
    missing: str = ""
    """Why there are none, if there are none."""
    early: bool = False
    """Whether the values are those at the first rung."""


def importances(sweep: Sweep) -> list[Importances]:
    """What mattered for the complete trials' values and, where trials were pruned, for all trials' values at the first rung:
    for each objective by itself.

    Only complete trials have final values, and a scheduler has chosen them; at the first rung all trials can be compared, but
    an early rank is not a final one. So both are given.
    """
    complete = sweep.complete[sweep.complete["number"].isin(sweep.independent["number"])]
    rung, found = first_rung(sweep), []
    for objective in sweep.objectives:
        final = dict(zip(complete["number"].tolist(), complete[objective.column].tolist(), strict=True))
        by = objective.metric if sweep.several else "their value"
        found.append(_measure(sweep, f"complete trials, by {by}", final, objective))
        if rung:
            by = f"{objective.metric} at their best epoch" if sweep.several else "their best value"
            basis = f"all trials that reached epoch {rung}, by {by} until then"
            found.append(replace(_measure(sweep, basis, best_by_epoch(sweep, rung, objective), objective), early=True))
    return found


def first_rung(sweep: Sweep) -> int | None:
    """The epoch after which the first trials were pruned: the last one at which all can be compared. None without pruning."""
    epochs = sweep.trials.loc[sweep.trials["state"] == "PRUNED", "epochs"].dropna()
    return int(epochs.min()) if len(epochs) and epochs.min() > 0 else None


def best_by_epoch(sweep: Sweep, epoch: int, objective: Objective) -> dict[int, float]:
    """Trial number → its value at its best epoch until `epoch`, for every configuration that reached it."""
    curves = sweep.curves[sweep.curves["number"].isin(sweep.independent["number"])]
    values = best_rows(curves[curves["epoch"] <= epoch])[objective.column]
    return values[values.index.isin(curves.loc[curves["epoch"] == epoch, "number"])].to_dict()


def _measure(sweep: Sweep, basis: str, values: Mapping[int, float], objective: Objective) -> Importances:
    if len(values) < MIN_TRIALS:
        return Importances(basis, len(values), 0, missing=f"{len(values)} trials are too few: it takes {MIN_TRIALS}")
    chosen = [trial for trial in sweep.study.get_trials(deepcopy=False) if trial.number in values]
    losses = -objective.sign * np.array([values[trial.number] for trial in chosen])
    study = memory_study(["min"], [_complete(trial, loss) for trial, loss in zip(chosen, losses, strict=True)])
    quantile = max(BEST_SHARE, BEST_TRIALS / len(chosen))
    cut = np.sort(losses)[math.ceil(quantile * len(losses)) - 1]
    best = int((losses <= cut).sum())

    raw = _divergences(study, quantile, lambda trial: losses[trial.number])
    total = sum(raw.values())
    if total == 0 or best == len(chosen):
        return Importances(basis, len(chosen), best, missing="the best trials cannot be told from the others")
    generator = np.random.default_rng(0)
    shuffled: dict[str, list[float]] = {key: [] for key in raw}
    for _ in range(SHUFFLES):
        order = generator.permutation(losses)
        for key, value in _divergences(study, quantile, lambda trial, order=order: order[trial.number]).items():
            shuffled[key].append(value)
    parameters = [
        Importance(
            sweep.columns[key],
            value / total,
            float(np.quantile(shuffled[key], 0.95)) / total,
            sum(key in trial.params for trial in chosen),
        )
        for key, value in raw.items()
    ]
    return Importances(basis, len(chosen), best, tuple(sorted(parameters, key=lambda found: -found.share)))


def _complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    return optuna.trial.create_trial(value=value, params=trial.params, distributions=trial.distributions)


def _divergences(study: optuna.Study, quantile: float, target: Callable[[FrozenTrial], float]) -> dict[str, float]:
    """Each parameter's divergence, not yet divided by their sum."""
    with warnings.catch_warnings():
        # optuna warns that a target is minimised (meant so here), that unnormalised values are new, and that a parameter was
        # active in one trial only (the count of active trials is shown).
        warnings.simplefilter("ignore")
        return get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=quantile), target=target, normalize=False
        )
