"""Trials that retry or continue others, that wait, that were refused, and sweeps that stopped themselves."""

from __future__ import annotations

import pytest

from analysis import figures, load
from analysis.importance import best_by_epoch
from analysis.report import build
from analysis.selection import selection
from analysis.statistics import failures, guard, headline, options
from analysis.tables import all_trials, best_trials


def read(ledger):
    return load(ledger.name, ledger.root)


CNN, MLP = {"model": "vimh_cnn"}, {"model": "vimh_mlp"}


@pytest.fixture
def again(write_ledger, made):
    """Trial 1 failed, 3 retried it and failed, 4 retried that; 5 trained 0 two epochs further, from 10 s to 20 s."""
    trials = [
        made((0.5, 0.6), params=CNN, max_epochs=2),
        made((), "failed", "ValueError: no", params=MLP, error="Traceback"),
        made((0.2, 0.3), params=MLP, max_epochs=2, started=20.0),
        made((), "failed", "ValueError: no", params=MLP, origin={"retries": 1}, started=40.0),
        made((0.4, 0.5), params=MLP, origin={"retries": 3}, max_epochs=2, started=60.0),
        made((0.5, 0.6, 0.6, 0.7), params=CNN, origin={"continues": 0}, max_epochs=4, seconds=20.0, started=80.0),
    ]
    return write_ledger(trials)


def test_each_configuration_counts_once(again):
    sweep = read(again)
    assert sweep.origins == {0: 0, 1: 1, 2: 2, 3: 1, 4: 1, 5: 0}
    assert sweep.independent["number"].tolist() == [0, 2, 4]
    assert sweep.complete["number"].tolist() == [5, 0, 4, 2]
    assert sweep.ranked["number"].tolist() == [5, 4, 2]
    assert best_by_epoch(sweep, 2, sweep.objectives[0]) == {0: 0.6, 2: 0.3, 4: 0.5}
    counts = {row.option: (row.trials, row.complete, row.failed, row.best) for row in options(sweep)}
    assert counts["vimh_cnn"] == (1, 1, 0, 0.6)
    assert counts["vimh_mlp"] == (2, 2, 0, 0.5)


def test_copied_epochs_and_their_seconds_count_once(again):
    sweep = read(again)
    assert sweep.trials["copied_epochs"].tolist() == [0, 0, 0, 0, 0, 2]
    assert sweep.trials["copied_seconds"].tolist() == [0.0, 0.0, 0.0, 0.0, 0.0, 10.0]
    line = headline(sweep)
    assert (line.retries, line.continuations) == (2, 1)
    assert line.epochs == 2 + 2 + 2 + 2
    assert line.trial_seconds == 60.0


def test_the_continuation_of_the_best_is_no_rival_of_it(again):
    found = selection(read(again))
    assert (found.best, found.runner_up, found.complete) == (5, 4, 3)
    assert any("Trial 5 continues trial 0: it was trained for 4 epochs" in sentence for sentence in found.sentences)


def test_a_continuation_that_gained_nothing_leaves_the_place_to_the_trial_itself(write_ledger, made):
    trials = [made((0.6,)), made((0.5,)), made((0.6, 0.4), origin={"continues": 0})]
    found = selection(read(write_ledger(trials)))
    assert (found.best, found.runner_up) == (0, 1)
    assert not any("continues" in sentence for sentence in found.sentences)


def test_tables_say_what_a_trial_runs_again(again):
    sweep = read(again)
    table = best_trials(sweep)
    assert table.headers[:4] == ["rank", "trial", "origin", "val/avg_acc"]
    assert [row[1:3] for row in table.rows] == [["5", "continues 0"], ["4", "retries 3"], ["2", ""]]
    origin = all_trials(sweep).headers.index("origin")
    assert [row[origin] for row in all_trials(sweep).rows] == ["", "", "", "retries 1", "retries 3", "continues 0"]


def test_a_sweep_without_any_has_no_such_column(write_ledger, made):
    sweep = read(write_ledger([made((0.5,))]))
    assert "origin" not in [*best_trials(sweep).headers, *all_trials(sweep).headers]
    assert build(sweep).again() == ""


def test_a_continuation_is_drawn_from_where_it_takes_up(again):
    figure = figures.learning_curves(read(again), [])
    finished = next(trace for trace in figure.data if trace.name == "finished")
    drawn = [(n, x) for n, x in zip(finished.customdata, finished.x, strict=True) if n in (0, 5) and x == x]
    assert drawn == [(0, 1), (0, 2), (5, 2), (5, 3), (5, 4)]


def test_both_failures_are_listed_and_none_is_left_to_retry(again):
    sweep = read(again)
    assert failures(sweep)[0].numbers == (1, 3)
    report = build(sweep)
    assert report.retryable == 0
    assert not any("make retry" in command for command, _ in report.commands())
    assert report.again().startswith("2 trials retried a failed one, in whose place it counts")


def test_epochs_that_a_continuation_ran_after_all_were_not_saved(write_ledger, made):
    first = made((0.5,), "outranked", "2 of 3", max_epochs=4)
    second = made((0.4,), "outranked", "3 of 3", max_epochs=4, started=20.0)
    further = made((0.5, 0.6, 0.6, 0.6), max_epochs=4, origin={"continues": 0}, started=40.0)
    assert guard(read(write_ledger([first, second], name="before"))).saved_epochs == 6
    assert guard(read(write_ledger([first, second, further], name="after"))).saved_epochs == 3


def test_refused_proposals_are_told_apart(write_ledger, made):
    reasons = ["constraint a < 1", "the setting of trial 0 again", "the driver was killed while it was being proposed"]
    trials = [made((0.5,)), *(made((), "rejected", reason) for reason in [*reasons, reasons[1]])]
    report = build(read(write_ledger(trials, target=1)))
    assert report.headline.rejected == 4
    assert report.status() == (
        "1 of 1 trials: 1 finished; 2 proposals repeated the setting of another trial, 1 lost when the sweep was killed, "
        "1 rejected by constraints"
    )


def test_trials_at_the_cut_off_wait(write_ledger, made):
    """0 is overtaken; 1 stands at the cut-off; 2 went on; 3 has not come there; 4 continues another and waits for nobody."""
    trials = [
        made((0.1, 0.2), "outranked", "4 of 4 at the cut-off of 2 epochs, where 3 go on: 0.2 against a cut of 0.5"),
        made((0.5, 0.6), "running"),
        made((0.5, 0.6, 0.7), "running"),
        made((0.5,), "running"),
        made((0.1, 0.2), "running", origin={"continues": 0}),
    ]
    ledger = write_ledger(trials, stopping="{scheduler: constant, cutoff_epochs: 2, top_k: 3}")
    with ledger.lock():
        sweep = read(ledger)
        line = headline(sweep)
    assert sweep.trials["verdict"].tolist() == ["outranked", "waiting", "running", "running", "running"]
    assert (line.ended, line.counts["waiting"]) == (1, 1)
    assert "waiting" in [trace.name for trace in figures.learning_curves(sweep, []).data]
    assert build(sweep).commands()[0][0].startswith("make status NAME=demo")
    assert set(read(ledger).trials["verdict"]) == {"outranked", "interrupted"}


def test_a_sweep_that_stopped_itself_is_not_said_to_run(write_ledger, made):
    trials = [*(made((), "failed", "RuntimeError: no", error="Traceback") for _ in range(3)), made((), "running")]
    report = build(read(write_ledger(trials, target=20, end="hopeless")))
    assert report.status() == (
        "4 of 20 trials: 3 failed, 1 interrupted; stopped, since the first trials all ended for one bad reason"
    )
    assert report.no_value == "No trial has finished with a value."
    assert [command.split()[1] for command, _ in report.commands()] == ["resume", "debug", "retry"]
    assert report.commands()[0][1] == "go on, once what made the first trials fail is mended"
