"""Several seeds and outcome constraints, as a report tells them: means, intervals, who is best, who is out."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from typer.testing import CliRunner

from analysis import figures, load
from analysis.__main__ import app
from analysis.front import front
from analysis.page import render
from analysis.repeats import difference, interval
from analysis.report import build
from analysis.selection import outside, selection
from analysis.statistics import options
from analysis.tables import all_trials, best_trials, ranking
from analysis.terminal import print_report
from sweeps.ledger import FROM

CNN, MLP, SDN = {"model": "vimh_cnn"}, {"model": "vimh_mlp"}, {"model": "vimh_sdn"}


def printed(report, width):
    console = Console(width=width, file=io.StringIO())
    print_report(report, console)
    return console.file.getvalue()


def read(ledger):
    return load(ledger.name, ledger.root)


@pytest.fixture
def repeated(write_ledger, made):
    """Trial 0 was the luckiest single seed; 1, with 3 and 4, is better on average; 2 ran once; 7 failed and 8 retried it."""

    def tested(value: float, **keywords):
        return made((value,), metrics={"test/avg_acc": value - 0.1}, **keywords)

    trials = [
        tested(0.9, params=CNN, seed=10),
        tested(0.8, params=MLP, seed=11),
        tested(0.7, params=SDN, seed=12),
        tested(0.7, params=MLP, origin={"repeats": 1}, seed=13),
        tested(0.9, params=MLP, origin={"repeats": 1}, seed=14),
        tested(0.7, params=CNN, origin={"repeats": 0}, seed=15),
        tested(0.65, params=CNN, origin={"repeats": 0}, seed=16),
        made((), "failed", "ValueError: no", params=CNN, origin={"repeats": 0}),
        tested(0.75, params=CNN, origin={"repeats": 0, "retries": 7}, seed=17),
    ]
    return write_ledger(trials)


def test_a_configuration_is_known_by_its_mean_over_its_seeds(repeated):
    sweep = read(repeated)
    table = sweep.configurations.set_index("number")
    assert table.index.tolist() == [1, 0, 2]
    assert table["trials"].tolist() == [[1, 3, 4], [0, 5, 6, 8], [2]]
    assert table["seeds"].tolist() == [3, 4, 1]
    values = [0.8, 0.7, 0.9]
    assert table.loc[1, ["value", "value.std"]].tolist() == pytest.approx([0.8, np.std(values, ddof=1)])
    expected = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert table.loc[1, ["value.low", "value.high"]].tolist() == pytest.approx(expected)
    assert table.at[1, "test/avg_acc"] == pytest.approx(0.7)
    assert table.loc[2, ["value.std", "value.low", "value.high"]].isna().all()
    assert sweep.ranked["number"].tolist() == [1, 0, 2]
    assert sweep.ranked["value"].tolist() == pytest.approx([0.8, 0.75, 0.7])
    assert sweep.rivals["number"].tolist() == [1, 0]


def test_statistics_count_the_first_seed(repeated):
    sweep = read(repeated)
    assert sweep.origins[8] == sweep.origins[7] == 0
    assert sweep.independent["number"].tolist() == [0, 1, 2]
    assert {row.option: (row.trials, row.best) for row in options(sweep)}["vimh_cnn"] == (1, 0.9)


def test_the_best_mean_wins_and_the_report_says_what_it_knows(repeated):
    report = build(read(repeated))
    found = report.selection
    assert (found.best, found.runner_up, found.complete, found.seeds) == (1, 0, 2, (1, 3, 4))
    assert (found.value, found.lead) == (pytest.approx(0.8), pytest.approx(0.05))
    told = " ".join(report.sentences)
    assert "Trial 1 and its repeats have the best mean val/avg_acc: 0.8 over 3 seeds, with a standard deviation of 0.1;" in told
    assert "zero is in it: these seeds do not tell the two apart" in told
    assert "1 configuration ran with one seed and comes after these" in told
    assert "without its first seed, the best one's mean is 0.8" in told
    assert "test/avg_acc, which had no part in the choice and is the fairer number: 0.7 over 3 seeds" in told
    assert report.ranking == "Best configurations by mean val/avg_acc (max)"
    assert report.chosen == 1
    assert report.again().endswith(
        "6 trials ran another's parameters with another seed: a configuration counts once, in statistics with its first seed."
    )


def test_tables_and_page_show_mean_and_deviation(repeated):
    sweep = read(repeated)
    table = best_trials(sweep)
    assert table.headers[:5] == ["rank", "trial", "seeds", "val/avg_acc", "test/avg_acc"]
    assert [row[1:4] for row in table.rows] == [["1", "3", "0.8 ± 0.1"], ["0", "4", "0.75 ± 0.11"], ["2", "1", "0.7"]]
    assert "repeats 1" in {cell for row in all_trials(sweep).rows for cell in row}
    html = render(build(sweep))
    assert "best mean val/avg_acc (trial 1, 3 seeds)" in html
    assert "0.8 ± 0.1" in html


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_configurations_are_exported(repeated, form):
    assert CliRunner().invoke(app, ["export", "demo", "--format", form, "--root", str(repeated.root)]).exit_code == 0
    file = repeated.export_directory / f"configurations.{form}"
    table = pd.read_csv(file) if form == "csv" else pd.read_parquet(file)
    assert table["number"].tolist() == [1, 0, 2]
    trials = [[int(each) for each in row.split()] if form == "csv" else list(row) for row in table["trials"]]
    assert trials == [[1, 3, 4], [0, 5, 6, 8], [2]]


def test_a_minimum_is_the_best_of_what_is_to_be_small(write_ledger, made):
    trials = [made((0.5,)), made((0.2,)), made((0.4,), origin={"repeats": 0}), made((0.9,), origin={"repeats": 1})]
    found = selection(read(write_ledger(trials, mode="min", metric="val/loss")))
    assert (found.best, found.runner_up) == (0, 1)
    low, high = found.difference
    assert low < found.lead < high
    assert (found.lead, (low + high) / 2) == (pytest.approx(0.1), pytest.approx(0.1))


def test_the_front_is_of_means_where_there_are_any(write_ledger, made):
    trials = [
        made(((0.9, 10),), params=CNN),
        made(((0.5, 5),), params=MLP),
        made(((0.8, 8),), params=SDN),
        made(((0.5, 10),), params=CNN, origin={"repeats": 0}),
        made(((0.8, 9),), params=SDN, origin={"repeats": 2}),
    ]
    sweep = read(write_ledger(trials, others=[("parameters", "min")]))
    found = front(sweep)
    assert found.numbers == (2,)
    assert found.trials["objective.parameters"].tolist() == [8.5]
    assert ranking(sweep, found).rows[0][:3] == ["2", "2", "0.8"]
    assert build(sweep).ranking == "Pareto front of val/avg_acc (max) and parameters (min), by means over seeds"
    assert "of single trials" in render(build(sweep))


@pytest.fixture
def bounded(write_ledger, made):
    """The best trial is outside a constraint, and so is another."""
    trials = [
        made((0.9,), params=CNN, violations={"val/loss <= 0.5": 0.25, "parameters <= 100": -1.0}),
        made((0.8,), params=MLP, violations={"val/loss <= 0.5": -0.1, "parameters <= 100": 0.0}),
        made((0.7,), params=CNN, violations={"val/loss <= 0.5": 0.5, "parameters <= 100": 7.0}),
        made((0.1,), "outranked", params=CNN),
    ]
    return write_ledger(trials)


def test_what_is_outside_a_constraint_is_never_the_best(bounded):
    sweep = read(bounded)
    assert sweep.trials["feasible"].tolist() == [False, True, False, pd.NA]
    assert sweep.trials["violated"].tolist() == [
        "val/loss <= 0.5 by 0.25",
        "",
        "parameters <= 100 by 7, val/loss <= 0.5 by 0.5",
        "",
    ]
    assert sweep.ranked["number"].tolist() == [1]
    assert sweep.complete["number"].tolist() == [0, 1, 2]
    report = build(sweep)
    assert report.chosen == 1
    assert report.sentences[-1] == (
        "2 complete trials of 3 are outside an outcome constraint and cannot be the best: val/loss <= 0.5 (2) and "
        "parameters <= 100 (1)."
    )
    line = next(trace for trace in figures.history(sweep).data if trace.mode == "lines")
    assert (list(line.x), list(line.y)) == ([1], [0.8])
    assert all_trials(sweep).headers[-2:] == ["outside", "reason"]
    assert math.isnan(next(row for row in options(sweep) if row.option == "vimh_cnn").best)


def test_where_none_is_within_the_report_says_so(write_ledger, made):
    trials = [made((value,), violations={"val/loss <= 0.5": by}) for value, by in ((0.5, 0.25), (0.6, 0.125), (0.7, 2.0))]
    report = build(read(write_ledger(trials)))
    assert (report.selection, report.chosen) == (None, None)
    assert report.no_value.startswith("No trial is within the outcome constraints. 3 complete trials of 3 are outside")
    assert [row[0] for row in report.nearest.rows] == ["1", "0", "2"]
    assert report.nearest.rows[0] == ["1", "0.6", "val/loss <= 0.5 by 0.125"]
    assert "val/loss <= 0.5 by 0.125" in printed(report, 80)
    commands = [command for command, _ in report.commands()]
    assert [command.split()[1] for command in commands] == ["extend", "promote", "sweep"]
    assert " TRIAL=1 " in f"{commands[1]} "
    assert report.no_value in render(report).replace("&lt;=", "<=")


def test_bounds_that_hold_are_named(write_ledger, made):
    trials = [made((value,), violations={"val/loss <= 10": -1.0}) for value in (0.5, 0.6)]
    report = build(read(write_ledger(trials)))
    assert report.sentences[-1] == "All 2 complete trials are within val/loss <= 10."
    assert not report.nearest.rows


def test_a_narrow_terminal_cuts_no_column_of_repeats(repeated):
    report = build(read(repeated))
    text = printed(report, 80)
    table = best_trials(report.sweep)
    assert all(cell in text for row in table.rows for cell in row)
    assert all(word in text for header in table.headers for word in header.split())
    assert max(len(line) for line in text.splitlines() if not line.startswith(("make", "python"))) <= 80
    assert "The line is of single trials; the headline is a mean over seeds." in render(report)


def test_two_seeds_tell_little(write_ledger, made):
    trials = [made((0.8,), params=MLP, seed=1), made((0.7,), params=MLP, origin={"repeats": 0}, seed=2)]
    assert "two seeds tell little" in build(read(write_ledger(trials))).sentences[0]


def test_the_front_is_within_the_constraints(write_ledger, made):
    trials = [made(((0.9, 1),), violations={"a <= 1": 1.0}), made(((0.5, 5),), violations={"a <= 1": -1.0})]
    sweep = read(write_ledger(trials, others=[("parameters", "min")]))
    assert front(sweep).numbers == (1,)
    assert [trial.number for trial in sweep.study.best_trials] == [1]
    assert outside(sweep)[0] in front(sweep).sentences


def test_trials_of_another_sweep_are_in_no_table_and_keep_their_numbers(write_ledger, made):
    trials = [made((0.9,), params=CNN, origin={FROM: {"sweep": "old", "trial": 3}}), made((0.5,), params=MLP)]
    sweep = read(write_ledger(trials, target=1))
    assert sweep.trials["number"].tolist() == [1]
    assert (sweep.target, selection(sweep).best) == (1, 1)
    assert [(trial.number, trial.state.name) for trial in sweep.study.get_trials()] == [(0, "FAIL"), (1, "COMPLETE")]


SAMPLES = st.lists(st.floats(-100, 100).map(lambda value: round(value, 2)), min_size=2, max_size=8)


@given(SAMPLES, SAMPLES)
def test_intervals_agree_with_scipy(one, other):
    if np.ptp(one) > 0:
        assert interval(one) == pytest.approx(stats.t.interval(0.95, len(one) - 1, np.mean(one), stats.sem(one)))
    if np.ptp(one) > 0 and np.ptp(other) > 0:
        expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
        assert difference(one, other) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_an_interval_takes_two_values():
    assert all(map(math.isnan, (*interval([1.0]), *difference([1.0], [1.0, 2.0]))))
    assert difference([1.0, 1.0], [0.5, 0.5]) == (0.5, 0.5)


def test_the_page_draws_what_is_outside_a_constraint_dotted(bounded):
    sweep = read(bounded)
    lines = figures.parallel_coordinates(sweep).data
    assert sorted(trace.line.dash for trace in lines if trace.mode == "lines") == ["dot", "dot", "solid"]
    assert "Dotted: outside an outcome constraint." in render(build(sweep))
