"""Outcome constraints: which epoch counts, what the study holds of them, and that what is outside is never the best."""

from __future__ import annotations

import math

import pytest
from optuna.trial import TrialState

from sweeps import housekeeping
from sweeps.errors import SpaceError, SweepError
from sweeps.outcomes import best_epoch, violations
from sweeps.overview import overview
from sweeps.promote import promote
from sweeps.runner import EXIT_DONE, _conclude
from sweeps.schema import OutcomeConstraint
from sweeps.space import dump
from sweeps.validation import validate

BOUNDS = "outcome_constraints: [{metric: val/loss, max: 0.5}, {metric: parameters, min: 5, max: 100}]\n"
SWEEP = "search: {trials: 3, seed: 3}\nstopping: {scheduler: fifo}\n" + BOUNDS


@pytest.fixture
def run(report_epoch):
    """A function: a study, and objective and loss by epoch → the number of the next trial, which then has finished."""

    def run(study, epochs):
        number = study.propose()["number"]
        study.begin(number)
        for epoch, (value, loss) in enumerate(epochs, start=1):
            if verdict := report_epoch(study, number, epoch, value, max_epochs=len(epochs), val__loss=loss):
                return verdict
        study.finish(number, {"metrics": {"val/loss": epochs[-1][1]}, "seconds": 1.0})
        return number

    return run


def test_the_epoch_that_gives_the_value_counts(make_ledger, open_study, run):
    ledger = make_ledger(SWEEP)
    study = open_study(ledger)
    run(study, [(0.5, 0.3), (0.9, 0.75), (0.7, 0.1)])
    run(study, [(0.6, 0.4), (0.3, 0.9)])
    trials = study.study.get_trials()
    names = ["val/loss <= 0.5", "parameters >= 5", "parameters <= 100"]
    assert trials[0].constraints == dict(zip(names, [0.25, -2.0, -93.0], strict=True))
    assert trials[1].constraints == dict(zip(names, [pytest.approx(-0.1), -2.0, -93.0], strict=True))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    for driver in (study, open_study(ledger)):
        assert (driver.best, driver.found.infeasible) == ((1, 0.6), 1)
    assert study.study.best_trial.number == 1, "Optuna knows it, too"
    seen = overview(ledger)
    assert (seen.best, seen.infeasible) == ((1, 0.6), 1)


def test_where_none_is_within_there_is_no_best(make_ledger, open_study, run, console, tmp_path):
    ledger = make_ledger(SWEEP, name="mine")
    study = open_study(ledger)
    for _ in range(3):
        run(study, [(0.9, 0.6)])
    assert (study.complete, study.best, study.front) == (True, None, {})
    assert _conclude(study, None, 1.0, console) == EXIT_DONE
    said = console.file.getvalue()
    assert "3 of 3 complete trials break an outcome constraint: none is within them, so that there is no best" in said
    told = "3 of 3 trials have ended, none of them within the outcome constraints"
    assert housekeeping.outcome(study, None) == ("complete", told)
    seen = overview(ledger)
    assert (seen.state, seen.best_text()) == ("complete", "no trial is within the outcome constraints")
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    with pytest.raises(SweepError, match="No trial of the sweep 'mine' is within its outcome constraints: name one"):
        promote(ledger, None, None, console, tmp_path / "configs")
    text = promote(ledger, 1, None, console, tmp_path / "configs").read_text()
    assert "# Breaks an outcome constraint: val/loss <= 0.5 by 0.1.\n" in text
    assert "it breaks an outcome constraint: val/loss <= 0.5 by 0.1\n" in console.file.getvalue()


def test_a_metric_that_is_not_logged_fails_the_trial_and_one_that_is_not_finite_breaks_it(
    make_ledger, open_study, run, report_epoch
):
    ledger = make_ledger(SWEEP.replace("fifo", "fifo, guard: {mode: off}"))
    study = open_study(ledger)
    verdict = run(study, [(0.5, math.nan)])
    assert (verdict.verdict, verdict.reason) == ("broken", "not finite: val/loss = nan")
    number = study.propose()["number"]
    verdict = report_epoch(study, number, 1, 0.5)
    assert (verdict.verdict, verdict.reason) == ("failed", "val/loss was not logged; these were: train/loss, val/avg_acc")
    assert open_study(ledger).ended == {"broken": 1, "failed": 1}


def test_a_history_that_lost_its_best_epoch_fails_the_trial(make_ledger, open_study, run, report_epoch):
    ledger = make_ledger(SWEEP)
    study = open_study(ledger)
    number = study.propose()["number"]
    report_epoch(study, number, 1, 0.9, val__loss=0.1)
    ledger.trial(number).history.unlink()
    study = open_study(ledger)
    assert study.propose()["number"] == number
    report_epoch(study, number, 2, 0.5, max_epochs=2, val__loss=0.1)
    verdict = study.finish(number, {"metrics": {}, "seconds": 1.0})
    assert verdict.verdict == "failed"
    assert "history.csv lacks val/loss at epoch 1, which an outcome constraint asks for" in verdict.reason


@pytest.mark.parametrize("name", ["tpe", "gp", "nsgaii", "cmaes"])
def test_every_sampler_lives_with_them(make_ledger, open_study, run, name):
    options = {"tpe": "n_startup_trials: 2", "gp": "n_startup_trials: 2", "nsgaii": "population_size: 2"}.get(name, "")
    ledger = make_ledger(
        f"search: {{trials: 6, sampler: {name}, sampler_options: {{{options}}}}}\nstopping: {{scheduler: fifo}}\n{BOUNDS}"
    )
    study = open_study(ledger)
    for place in range(6):
        run(study, [(0.1 * place, 0.2 * place)])
    assert (study.complete, study.best) == (True, (2, pytest.approx(0.2)))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("outcome_constraints: {metric: val/loss}\n", 7, r"outcome_constraints: a list such as .* found the mapping"),
        ("outcome_constraints: [{metric: val/loss}]\n", 7, r"outcome_constraints\.0: says nothing about the metric"),
        ("outcome_constraints: [{metric: a, min: 2, max: 1}]\n", 7, r"outcome_constraints\.0: nothing is both at least 2"),
        ("outcome_constraints: [{metric: a, maximum: 1}]\n", 7, r"outcome_constraints\.0\.maximum: unknown key\. .*max"),
        (
            "outcome_constraints:\n  - {metric: a, max: 1}\n  - {metric: a, min: 0, max: 2}\n",
            9,
            r"outcome_constraints\.1\.max: a has a max in .*test\.yaml:8 already",
        ),
    ],
)
def test_what_makes_no_constraint_is_refused_with_its_line(make_space, text, place, what):
    with pytest.raises(SpaceError, match=rf"test\.yaml:{place}: {what}"):
        make_space(text)


def test_a_metric_that_no_trial_logs_is_refused_before_any_runs(make_space):
    space = make_space("outcome_constraints:\n  - {metric: val/los, max: 1}\n  - {metric: test/loss, max: 1}\n")
    with pytest.raises(SpaceError) as refused:
        validate(space, 1)
    first, second = refused.value.problems
    assert first.where.endswith("test.yaml:8")
    assert first.what.startswith("outcome_constraints.0.metric: no trial logs 'val/los' after an epoch. Did you mean val/loss")
    assert second.what.endswith("test/loss cannot be bounded: to choose by a test metric spoils it; bound val/loss instead")


def test_a_sampler_that_leaves_them_aside_is_told(make_space):
    assert "random leaves outcome constraints aside" in "".join(
        validate(make_space(BOUNDS + "search: {sampler: random}\n"), 1).notes
    )


def test_they_are_written_as_they_were_read(make_space):
    space = make_space(BOUNDS)
    assert make_space(dump(space), "again", base=False) == space


def test_bounds_and_the_best_epoch():
    assert violations([OutcomeConstraint(metric="a", min=1, max=3)], {"a": 4.0}) == {"a >= 1": -3.0, "a <= 3": 1.0}
    assert best_epoch({1: (0.5, 9.0), 2: (0.7, math.nan), 3: (0.6, 1.0), 4: (0.6, 0.0)}, "max") == 3
    assert best_epoch({1: (0.5,), 2: (0.4,)}, "min") == 2
    assert best_epoch({1: (math.nan,)}, "min") is None
