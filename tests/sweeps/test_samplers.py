"""Every sampler that a space may name, as the study asks it; grids, and settings that were there before."""

from __future__ import annotations

import inspect
import math
import random
import warnings
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest

from sweeps.creation import create_ledger
from sweeps.distributions import Normal
from sweeps.errors import SpaceError
from sweeps.ledger import Ledger
from sweeps.sampler_options import SAMPLERS, independent
from sweeps.samplers import make_sampler
from sweeps.settings import Tried, count, settings
from sweeps.space import SearchSpace, suggest
from sweeps.study import SweepStudy

MIXED = """
  model: [mlp, cnn, vit]
  width: {int: [8, 64]}
  rate: {uniform: [0.0, 1.0]}
  depth: {power_of_two: [1, 8], when: {model: [cnn, vit]}}
  dropout: {normal: [0.3, 0.1], clip: [0.0, 0.9]}
"""
FINITE = """
  model: [mlp, cnn]
  size: {choice: [8, 16, 32], when: {model: cnn}}
  width: {int: [1, 2]}
"""
GRID = f"description: d\ntrial: [experiment=vimh]\nobjective: {{metric: val/avg_acc, mode: max}}\nspace:{FINITE}"
ALL = [{"model": "mlp", "width": width} for width in (1, 2)] + [
    {"model": "cnn", "size": size, "width": width} for size, width in product((8, 16, 32), (1, 2))
]
OPTUNA = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
}
LEARNING = {"tpe": "n_startup_trials: 4", "gp": "n_startup_trials: 4", "cmaes": "popsize: 4", "nsgaii": "population_size: 4"}


@pytest.mark.parametrize("name", OPTUNA)
def test_options_are_those_of_optuna(name: str) -> None:
    """Each is accepted by the constructor, has its default but where the page says so, and is not deprecated."""
    accepted = inspect.signature(OPTUNA[name].__init__).parameters
    ours = SAMPLERS[name]().model_dump()
    differing = {key for key, value in ours.items() if accepted[key].default != value}
    assert differing == {"tpe": {"multivariate", "group"}, "qmc": {"scramble"}}.get(name, set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        OPTUNA[name](**ours)


def options(name: str) -> str:
    return f"sampler_options: {{{LEARNING[name]}}}" if name in LEARNING else ""


def searched(space: SearchSpace, trials: int, seed_after: int = 0) -> list[dict[str, Any]]:
    """The settings of a study that minimises something smooth."""
    study = optuna.create_study(sampler=make_sampler(space, seed_after))
    found = []
    for _ in range(trials):
        trial = study.ask()
        found.append(suggest(space, trial))
        study.tell(trial, (found[-1]["rate"] - 0.7) ** 2 + abs(found[-1]["width"] - 40) / 100)
    return found


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
def test_every_sampler_draws_what_the_space_holds_and_the_same_again(make_space: Callable[..., SearchSpace], name: str) -> None:
    space = make_space(MIXED + f"search: {{sampler: {name}, {options(name)}}}")
    found = searched(space, 9)
    for setting in found:
        assert ("depth" in setting) == (setting["model"] != "mlp")
        for key, value in setting.items():
            assert space.parameters[key].distribution.canonical(value) == value
    assert found == searched(space, 9)
    assert found != searched(space, 9, seed_after=9)


@pytest.mark.parametrize("name", LEARNING)
def test_a_sampler_that_learns_comes_nearer_than_its_first_draws(make_space: Callable[..., SearchSpace], name: str) -> None:
    text = "  rate: {uniform: [0.0, 1.0]}\n  width: {int: [8, 64]}\n"
    space = make_space(text + f"search: {{sampler: {name}, seed: 2, {options(name)}}}")
    distances = [abs(setting["rate"] - 0.7) for setting in searched(space, 32)]
    assert sum(distances[-8:]) < 0.75 * sum(distances[:8])


def test_what_a_sampler_cannot_learn_is_named(make_space: Callable[..., SearchSpace]) -> None:
    space = make_space(MIXED)
    active = "is not active in every trial"
    assert independent("tpe", space.parameters) == independent("random", space.parameters) == {}
    for name in ("gp", "nsgaii", "qmc"):
        assert independent(name, space.parameters) == {"depth": active}
    order = "has no order for it"
    assert independent("cmaes", space.parameters) == {"model": order, "depth": order}


def test_cmaes_over_choices_alone_is_refused(make_space: Callable[..., SearchSpace]) -> None:
    text = "description: d\nobjective: {metric: m, mode: max}\nspace: {a: [1, 2], b: [1, 2]}\nsearch: {sampler: cmaes}\n"
    with pytest.raises(SpaceError, match=r"test.yaml:4: search.sampler: cmaes learns numeric parameters that are active in"):
        make_space(text, base=False)


def test_even_draws_become_those_of_a_normal() -> None:
    normal = Normal.parse([0.0, 1.0], [-2.0, 2.0])
    assert normal.from_even(0.0) == pytest.approx(0.0, abs=1e-12)
    assert [normal.from_even(end) for end in (-2.0, 2.0)] == pytest.approx([-2.0, 2.0])
    assert normal.from_even(1.0) == pytest.approx(normal.quantile(0.75))
    stepped = Normal.parse([0.0, 1.0], [-2.0, 2.0], 0.5)
    drawn = [stepped.from_even(value) for value in stepped.values()]
    assert set(drawn) <= set(stepped.values())
    assert drawn.count(0.0) > drawn.count(-2.0)


def run(ledger: Ledger, trials: int, ends: Callable[[Mapping[str, Any]], float] = lambda setting: 0.5) -> list[dict[str, Any]]:
    """Bring a sweep `trials` further by a new driver, one trial of one epoch after another; their settings."""
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 1)
    found = []
    while len(found) < trials and (proposal := study.propose()):
        number = proposal["number"]
        setting = ledger.study().get_trials()[number].params
        metrics = {"val/avg_acc": ends(setting), "train/loss": 1.0}
        message = {"epoch": 1, "max_epochs": 1, "parameters": 1, "seconds": 1.0, "metrics": metrics, "repeated": False}
        study.report(number, message)
        study.finish(number, {"metrics": {}, "seconds": 1.0})
        found.append(setting)
    return found


def test_a_resumed_sequence_goes_on(make_ledger: Callable[..., Ledger]) -> None:
    """Eight points of a Sobol sequence lie in eight different eighths, whoever asked for them. The first trial is none."""
    text = "search: {trials: 9, sampler: qmc}\nstopping: {scheduler: fifo}\n"
    whole, parts = make_ledger(text, "whole"), make_ledger(text, "parts")
    run(whole, 9)
    for _ in range(9):
        run(parts, 1)
    for ledger in (whole, parts):
        rates = [trial.params["model.optimizer.lr"] for trial in ledger.study().get_trials()][1:]
        assert len({int(8 * (math.log10(rate) + 4) / 3) for rate in rates}) == 8


# Grids, and settings that were there before


@pytest.fixture
def finite(make_space: Callable[..., SearchSpace], tmp_path: Path) -> Callable[[str], Ledger]:
    """A function: what to add to the finite space → the ledger of a sweep of it."""

    def make(text: str) -> Ledger:
        ledger = Ledger("finite", tmp_path / "runs")
        create_ledger(ledger, make_space(f"{GRID}stopping: {{scheduler: fifo}}\n{text}", "finite", base=False))
        return ledger

    return make


def frozen(found: list[dict[str, Any]]) -> set[frozenset[tuple[str, Any]]]:
    return {frozenset(setting.items()) for setting in found}


def test_the_settings_of_a_space_are_listed_once_each(make_space: Callable[..., SearchSpace]) -> None:
    space = make_space(GRID, base=False)
    assert frozen(list(settings(space.parameters))) == frozen(ALL)
    assert count(space.parameters) == len(ALL) == 8
    assert count(make_space(MIXED).parameters) is None
    many = "description: d\nobjective: {metric: m, mode: max}\nspace: {a: {int: [1, 200000]}}\n"
    assert count(make_space(many, base=False).parameters) is None
    with pytest.raises(SpaceError, match=r"test.yaml:4: search.sampler: grid would list more than 100,000 settings: use qmc"):
        make_space(many + "search: {sampler: grid}", base=False)


def test_what_is_untried_fits_what_is_given(make_space: Callable[..., SearchSpace]) -> None:
    tried = Tried(make_space(GRID, base=False))
    for number, setting in enumerate(ALL[:-1]):
        tried.add(setting, number)
    assert tried.untried() == ALL[-1]
    assert tried.untried({"model": "mlp"}) is None
    assert not tried.exhausted
    tried.add(ALL[-1], 7)
    assert tried.exhausted
    assert tried.number({"width": 1, "model": "mlp"}) == 0


def test_a_grid_runs_every_setting_once_and_ends(finite: Callable[[str], Ledger]) -> None:
    ledger = finite("search: {sampler: grid, start_with: [{width: 2, model: cnn}]}")
    assert ledger.space().search.trials == 8
    found = run(ledger, 3) + run(ledger, 100)  # two drivers
    assert (found[0]["model"], found[0]["width"]) == ("cnn", 2)
    assert len(found) == 8
    assert frozen(found) == frozen(ALL)
    order = [ALL.index(setting) for setting in found]
    assert order != sorted(order)  # a part of it is a fair part


def test_a_grid_leaves_out_what_constraints_refuse(finite: Callable[[str], Ledger]) -> None:
    ledger = finite("search: {sampler: grid}\nconstraints: [size * width < 33]")
    assert frozen(run(ledger, 100)) == frozen([each for each in ALL if each.get("size", 0) * each["width"] < 33])
    study = SweepStudy(ledger, ledger.space(), lambda overrides: 1)
    assert study.complete
    assert study.exhausted
    assert study.propose() is None


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_repeats_a_setting_and_an_exhausted_space_ends_the_sweep(finite: Callable[[str], Ledger], name: str) -> None:
    ledger = finite(f"search: {{sampler: {name}, trials: 30, {options(name)}}}")
    rng = random.Random(0)
    found = run(ledger, 100, ends=lambda setting: rng.random())
    assert len(found) == 8
    assert frozen(found) == frozen(ALL)
    trials = ledger.study().get_trials()
    reasons = [trial.user_attrs["verdict"]["reason"] for trial in trials if "overrides" not in trial.user_attrs]
    assert all(reason.startswith("the setting of trial ") and reason.endswith(" again") for reason in reasons)
    assert SweepStudy(ledger, ledger.space(), lambda overrides: 1).complete


def test_a_sampler_that_keeps_repeating_itself_gets_another_setting(
    finite: Callable[[str], Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        optuna.samplers.RandomSampler,
        "sample_independent",
        lambda self, study, trial, name, distribution: {"model": "mlp", "width": 1}[name],
    )
    ledger = finite("search: {sampler: random, trials: 2}")
    assert len(frozen(run(ledger, 10))) == 2
    *_, last = ledger.study().get_trials()
    assert last.number == 11  # one that ran, ten that repeated it
    assert last.user_attrs["note"] == "drawn at random: random proposed 10 settings in a row that had been tried"
