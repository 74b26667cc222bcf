"""Several objectives: what the study holds of them, how they prune, and that a kill changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.creation import create_ledger
from sweeps.found import Found
from sweeps.ledger import Ledger
from sweeps.sampler_options import SAMPLERS
from sweeps.space import SearchSpace, dump, load_space
from sweeps.study import SweepStudy
from sweeps.winners import Outcome

TWO = """
description: d
trial: [experiment=vimh]
objective: [{metric: val/avg_acc, mode: max}, {metric: parameters, mode: min}]
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-1]}
  model.net.width: {int: [1, 64]}
"""
EPOCHS = 4


@pytest.fixture
def make_two(make_space: Callable[..., SearchSpace], tmp_path: Path) -> Callable[..., Ledger]:
    """A function: what to add to a space of two objectives → the ledger of a sweep of it."""

    def make(text: str, name: str = "two") -> Ledger:
        ledger = Ledger(name, tmp_path / "runs")
        create_ledger(ledger, make_space(TWO + text, name, base=False))
        return ledger

    return make


def opened(ledger: Ledger) -> SweepStudy:
    return SweepStudy(ledger, ledger.space(), lambda overrides: 1)


def message(epoch: int, value: float, parameters: int) -> dict[str, object]:
    metrics = {"val/avg_acc": value, "train/loss": 1.0}
    common = {"epoch": epoch, "max_epochs": EPOCHS, "parameters": parameters, "seconds": float(epoch), "repeated": False}
    return {**common, "metrics": metrics}


def run(ledger: Ledger, values: list[list[float]], sizes: list[int], drivers: int = 1) -> SweepStudy:
    """One trial after another, by a new driver after every epoch if `drivers` is more than one."""
    study = opened(ledger)
    while proposal := study.propose():
        number, verdict = proposal["number"], None
        done = study._attempts[number].history.last_epoch
        for epoch in range(done + 1, EPOCHS + 1):
            verdict = study.report(number, message(epoch, values[number % len(values)][epoch - 1], sizes[number % len(sizes)]))
            if verdict or drivers > 1:
                break
        if verdict is None and epoch == EPOCHS:
            study.finish(number, {"metrics": {}, "seconds": 1.0})
        if drivers > 1:
            study = opened(ledger)
    return study


COURSES = [[0.2, 0.5, 0.4, 0.45], [0.3, 0.6, 0.7, 0.8], [0.1, 0.2, 0.2, 0.2], [0.25, 0.4, 0.6, 0.5]]
SIZES = [50, 90, 95, 10]


def outcome(ledger: Ledger) -> list[tuple]:
    trials = ledger.study().get_trials()
    return [(trial.state.name, trial.values, trial.user_attrs["verdict"]) for trial in trials]


@pytest.mark.parametrize("drivers", [1, 99])
def test_a_trial_has_the_values_of_its_best_epoch_and_a_dominated_one_is_pruned(make_two, drivers: int) -> None:
    ledger = make_two("search: {trials: 4, sampler: random}\nstopping: {grace_epochs: 1, reduction_factor: 2}\n")
    study = run(ledger, COURSES, SIZES, drivers)
    assert [(state, values) for state, values, _ in outcome(ledger)] == [
        ("COMPLETE", [0.5, 50.0]),
        ("COMPLETE", [0.8, 90.0]),
        ("PRUNED", None),  # dominated by both
        ("COMPLETE", [0.6, 10.0]),
    ]
    assert outcome(ledger)[2][2]["reason"].startswith("3 of 3 at the rung of 1 epochs, where 1 go on: 0.1 / 95 against a cut")
    assert study.front == {1: (0.8, 90.0), 3: (0.6, 10.0)}
    assert study.best == (1, 0.8)
    assert study.front_text == "trial 1 (0.8 / 90), trial 3 (0.6 / 10) by val/avg_acc / parameters"
    assert [direction.name for direction in ledger.study().directions] == ["MAXIMIZE", "MINIMIZE"]
    assert {trial.number for trial in ledger.study().best_trials} == set(study.front)


def test_an_objective_that_is_not_finite_breaks_a_trial(make_two) -> None:
    ledger = make_two("search: {trials: 2}\n")
    study = opened(ledger)
    study.propose()
    verdict = study.report(0, message(1, math.nan, 3))
    assert (verdict.verdict, verdict.reason) == ("broken", "not finite: objective = nan")
    assert opened(ledger).ended == {"broken": 1}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in {"grid", "cmaes"}])
def test_every_sampler_that_can_takes_several_objectives(make_two, name: str) -> None:
    options = {"tpe": "n_startup_trials: 3", "gp": "n_startup_trials: 3", "nsgaii": "population_size: 3"}.get(name, "")
    ledger = make_two(
        f"search: {{trials: 8, sampler: {name}, sampler_options: {{{options}}}}}\nstopping: {{grace_epochs: 1}}\n"
    )
    courses = [[0.1 * (number % 3)] * EPOCHS for number in range(8)]
    study = run(ledger, courses, list(range(8)))
    assert study.complete
    assert study.ended["outranked"] > 0  # pruned trials have no values: the sampler must take them all the same


def test_a_space_of_several_objectives_is_written_as_it_was_read(make_two, tmp_path: Path) -> None:
    space = make_two("").space()
    (tmp_path / "again.yaml").write_text(dump(space))
    assert load_space(tmp_path / "again.yaml") == space
    assert space.modes == ("max", "min")


def test_the_front_is_of_complete_trials_only() -> None:
    found = Found(("max",))
    assert (found.best, found.front) == (None, {})
    for number, value in enumerate([0.3, 0.9, 0.3]):
        found.note(number, (value,))
        found.note(number, (math.nan,))
    found.complete(Outcome(2, found[2]))
    found.complete(Outcome(0, found[0]))
    assert found.best == (0, 0.3)
    assert found.front == {0: (0.3,), 2: (0.3,)}
