"""Budgets of a sweep: arithmetic, hours over all its runs, epochs and cost from the histories, through kills and clocks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import budgets, manifest, more, runner, usage
from sweeps.budgets import Used, Work
from sweeps.errors import LedgerError, SpaceError
from sweeps.interruption import Interruption
from sweeps.ledger import read_history
from sweeps.overview import overview
from sweeps.schema import Budget, Prices, Resources
from sweeps.searcher import SweepStopper
from sweeps.status import show_status
from sweeps.study import End

FIFO = "search: {trials: 4, seed: 3}\nstopping: {scheduler: fifo}\n"
PRICED = "resources: {cpu: 2}\nbudget: {epochs: 7, cost: 50, prices: {cpu: 900}}\n"  # a second of two cores costs 0.5


# Arithmetic


def test_a_trial_costs_what_it_holds_for_as_long_as_it_runs():
    prices = Prices(cpu=0.5, gpu=2.0)
    work = Work(3, 1800.0, budgets.allotted(Resources(cpu=4, gpu=0.25)))
    assert work.cost(prices) == pytest.approx(0.5 * (4 * 0.5 + 0.25 * 2.0))
    assert work.cost(None) == 0
    assert Work(1, 3600.0, {"mps": 0.5}).cost(Prices(mps=3.0)) == 1.5


@given(st.lists(st.tuples(st.floats(0, 1e5), st.integers(1, 64), st.floats(0, 1)), max_size=5), st.floats(0, 100))
def test_cost_is_linear(trials, price):
    """Law: a sweep costs the sum of its trials, and twice the price twice as much."""
    prices, double = Prices(cpu=price, gpu=price / 2), Prices(cpu=2 * price, gpu=price)
    works = [Work(1, seconds, {"cpu": cpu, "gpu": gpu}) for seconds, cpu, gpu in trials]
    total = sum(work.cost(prices) for work in works)
    assert total == pytest.approx(sum(s / 3600 * (c * price + g * price / 2) for s, c, g in trials))
    assert sum(work.cost(double) for work in works) == pytest.approx(2 * total)


def test_what_is_spent_and_how_that_is_told():
    budget = Budget(hours=2, epochs=500, cost=10, prices=Prices(cpu=1))
    assert budgets.spent(budget, Used(1.99, 499, 9.99)) is None
    assert [budgets.spent(budget, used) for used in (Used(2, 9, 9), Used(0, 500, 9), Used(0, 0, 10))] == [
        "hours",
        "epochs",
        "cost",
    ]
    assert budgets.told(budget, Used(0.516, 130, 3.1)) == "0.52 of 2 hours, 130 of 500 epochs, cost 3.10 of 10"
    assert budgets.told(Budget(prices=Prices(cpu=1)), Used(1, 2, 3)) == "cost 3.00"
    assert budgets.told(Budget(), Used(1, 2, 3)) == ""


@given(st.integers(1, 10**6), st.integers(0, 10**6))
def test_what_is_proposed_is_enough(limit, beyond):
    """Law: a limit that has been reached is no longer reached with what `more` proposes."""
    budget, used = Budget(epochs=limit), Used(epochs=limit + beyond)
    text = budgets.more(budget, used, "epochs")
    extended = Budget(epochs=limit + int(text.removeprefix("EPOCHS=+")))
    assert budgets.spent(budget, used) == "epochs"
    assert budgets.spent(extended, used) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budget: {cost: 3}", "7: budget.cost: needs prices: {cpu: …, gpu: …, mps: …}"),
        ("budget: {cost: 3, prices: {cpu: -1}}", "7: budget.prices.cpu: found -1"),
        (
            "budget: {cost: 3, prices: {tpu: 1}}",
            "7: budget.prices.tpu: unknown key. Did you mean gpu or cpu? Accepted: cpu, gpu, mps.",
        ),
        ("budget: {cost: 3, prices: {gpu: 1}}", "7: budget.cost: would never be spent: nothing that a trial is allotted"),
        ("budget: {epochs: 0}", "7: budget.epochs: found 0"),
        ("budget: {minutes: 3}", "7: budget.minutes: unknown key"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_with_its_line(make_space, text, message):
    with pytest.raises(SpaceError) as refused:
        make_space(text + "\n", name="odd")
    (problem,) = str(refused.value).splitlines()
    assert f"odd.yaml:{message}" in problem


# Hours


def session(ledger, seconds=None, beat=None):
    """A run of the sweep, of so many seconds; killed if it has only beaten."""
    manifest.open_session(ledger)
    number = len(ledger.manifest()["sessions"])
    if beat is not None:
        ledger.clock_file.write_text(json.dumps({"session": number, "seconds": beat}))
    if seconds is not None:
        manifest.close_session(ledger, "interrupted", seconds)


def test_hours_are_those_of_all_runs_also_of_killed_ones(make_ledger):
    ledger = make_ledger(FIFO + "budget: {hours: 1}\n")
    assert manifest.run_seconds(ledger) == (0, 0)
    session(ledger, 600)
    session(ledger, beat=300)  # killed
    assert manifest.run_seconds(ledger) == (2, 900)
    session(ledger)  # killed before it had beaten; the one before it keeps what it had
    assert manifest.run_seconds(ledger) == (3, 900)
    session(ledger, 100, beat=90)
    assert manifest.run_seconds(ledger) == (4, 1000)
    assert [each.get("seconds") for each in ledger.manifest()["sessions"]] == [600, 300, 0, 100]


@given(st.booleans(), st.one_of(st.none(), st.integers(0, 10**5)), st.integers(-(10**6), 10**6))
def test_no_clock_makes_the_hours_wrong(killed, beat, jump):
    """Law: however the system's clock was set meanwhile, a run took what it wrote down at its end, or last before its kill."""
    began = datetime.now(UTC)
    unmeasured = {"started": began.isoformat(), "ended": (began + timedelta(seconds=jump)).isoformat()}
    session = {"started": unmeasured["started"]} if killed else {**unmeasured, "seconds": 7}
    assert manifest.session_seconds(session, beat) == ((beat or 0) if killed else 7)
    assert manifest.session_seconds(unmeasured, None) == max(0, jump)  # as it was before the seconds were kept


def test_a_damaged_clock_is_told(make_ledger):
    ledger = make_ledger(FIFO)
    ledger.clock_file.write_text("{")
    with pytest.raises(LedgerError, match=r"\.clock is damaged .* Delete it"):
        manifest.run_seconds(ledger)


def test_a_run_writes_down_how_long_it_takes(make_ledger, open_study, monkeypatch):
    ledger = make_ledger(FIFO + "budget: {hours: 0.01}\n")
    study = open_study(ledger)
    now = [1000.0]
    monkeypatch.setattr(usage.time, "monotonic", lambda: now[0])
    manifest.open_session(ledger)
    study.account.begin()
    with Interruption() as interruption:
        stopper = SweepStopper(study, interruption)
        now[0] += 9
        assert not stopper.stop_all()
        assert not ledger.clock_file.exists()
        now[0] += 11
        assert not stopper.stop_all()
        assert json.loads(ledger.clock_file.read_text()) == {"session": 1, "seconds": 20}
        assert manifest.run_seconds(ledger) == (1, 20)  # as another terminal sees it
        now[0] += 16
        assert stopper.stop_all()
    assert stopper.end is End.BUDGET
    assert study.account.more == f"{ledger.command('extend')} HOURS=+1"


# Epochs and cost


def test_epochs_and_cost_are_those_of_the_histories(make_ledger, open_study, run_trial, report_epoch, console):
    ledger = make_ledger(FIFO + PRICED)
    study = open_study(ledger)
    run_trial(study, [0.5, 0.6, 0.7])  # 3 s
    number = study.propose()["number"]
    study.begin(number)
    for epoch in (1, 2):
        report_epoch(study, number, epoch, 0.1)
    assert (study.account.used.epochs, study.account.used.cost) == (5, pytest.approx(2.5))
    again = open_study(ledger)  # the driver was killed
    assert (again.account.used.epochs, again.account.used.cost) == (5, pytest.approx(2.5))
    again.begin(again.propose()["number"])
    report_epoch(again, number, 2, 0.1, repeated=True)  # what it says again counts once
    assert again.account.used.epochs == 5
    report_epoch(again, number, 3, 0.1)
    again.fail(number, {"error": "no"})
    assert again.account.used.epochs == 6
    assert again.account.spent is None
    run_trial(again, [0.5])
    assert again.account.spent == "epochs"
    assert str(again.account) == f"7 of 7 epochs, cost {again.account.used.cost:.2f} of 50"
    seconds = sum(read_history(ledger.trial(number).history)[-1]["seconds"] for number in range(3))
    assert again.account.used.cost == pytest.approx(0.5 * seconds)


def test_a_budget_that_is_spent_starts_nothing_until_it_is_extended(make_ledger, open_study, run_trial, console, monkeypatch):
    ledger = make_ledger(FIFO + PRICED)
    study = open_study(ledger)
    for _ in range(3):
        run_trial(study, [0.1, 0.2, 0.3])
    ran = []
    monkeypatch.setattr(runner, "_work", lambda study, console, interruption: ran.append(study))
    assert runner.resume("test", ledger.root, console) == 0
    assert not ran
    assert ledger.manifest()["sessions"] == []
    told = console.file.getvalue()
    assert "test: the budget is spent: 9 of 7 epochs, cost 4.50 of 50." in told
    assert f"{ledger.command('extend')} EPOCHS=+4; nothing was started" in told
    seen = overview(ledger)
    assert (seen.budget, seen.more) == ("9 of 7 epochs, cost 4.50 of 50", f"{ledger.command('extend')} EPOCHS=+4")
    show_status(ledger, console)
    assert "budget: 9 of 7 epochs" in console.file.getvalue()
    assert f"go on with: {seen.more}" in console.file.getvalue()
    more.extend("test", None, None, ledger.root, console, epochs="+4", cost="60")
    assert (ledger.space().budget.epochs, ledger.space().budget.cost, len(ran)) == (11, 60, 1)
    assert "test: 7 → 11 epochs, 50 → 60 cost." in console.file.getvalue()


def test_copied_epochs_count_for_the_trial_that_trained_them(ended, open_study, report_epoch):
    study = ended.study()
    study.enqueue_trial(study.get_trials()[0].params, user_attrs={"continues": 0, "to_epochs": 4})
    driver = open_study(ended)
    before = driver.account.used
    number = driver.propose()["number"]
    driver.begin(number)
    assert driver.account.used == before
    report_epoch(driver, number, 2, 0.4, max_epochs=4, repeated=True)
    assert driver.account.used.epochs == before.epochs == 6
    report_epoch(driver, number, 3, 0.4, max_epochs=4)
    assert driver.account.used.epochs == 7
    assert open_study(ended).account.used.epochs == 7


def test_prices_are_those_of_what_each_trial_was_allotted(make_ledger, open_study, run_trial):
    ledger = make_ledger(FIFO + PRICED)
    run_trial(open_study(ledger), [0.1, 0.2])
    text = ledger.space_file.read_text()
    ledger.space_file.write_text(text.replace("cpu: 2", "cpu: 1"))
    assert ledger.space().resources.cpu == 1
    assert open_study(ledger).account.used.cost == pytest.approx(1.0)


def test_a_sweep_without_a_budget_tells_of_none(make_ledger, open_study, run_trial):
    ledger = make_ledger(FIFO)
    run_trial(open_study(ledger), [0.1])
    assert (overview(ledger).budget, ledger.budget_used([]), str(open_study(ledger).account)) == ("", "", "")
