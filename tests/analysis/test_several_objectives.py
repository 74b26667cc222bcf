"""Sweeps with several objectives: nothing is called the best, and the front is the one that dominance gives."""

from __future__ import annotations

import io
from functools import partial

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from analysis import figures, front, load
from analysis.__main__ import app
from analysis.frames import Objective
from analysis.importance import importances
from analysis.page import panels, render
from analysis.report import build
from analysis.statistics import options
from analysis.tables import front as front_table
from analysis.terminal import print_report
from sweeps.ledger import LedgerError

SIZE = [("parameters", "min")]
"""The objectives after `val/avg_acc`."""


def read(ledger):
    return load(ledger.name, ledger.root)


@pytest.fixture
def sized(made):
    """A trial of a width with one value a epoch: the network's size goes with the width."""

    def trial(width, *accuracies, **rest):
        rest = {"parameters": 1000 * width, "params": {"data.batch_size": 30 + width}} | rest
        return made([(accuracy, 1000.0 * width) for accuracy in accuracies], **rest)

    return trial


@pytest.fixture
def ledger(write_ledger, sized):
    """Four trials: 0 and 2 are the front, 1 is dominated by 0, 3 was stopped at a value that would have been on it."""
    trials = [
        sized(8, 0.5, 0.6, 0.55, metrics={"test/avg_acc": 0.5}),
        sized(16, 0.4, 0.5, metrics={"test/avg_acc": 0.45}),
        sized(4, 0.3, 0.4, metrics={"test/avg_acc": 0.2}),
        sized(2, 0.35, verdict="outranked", reason="5 of 9"),
    ]
    return write_ledger(trials, others=SIZE)


def test_values_stand_in_a_column_for_each_objective(ledger):
    sweep = read(ledger)
    assert [(one.metric, one.mode, one.column) for one in sweep.objectives] == [
        ("val/avg_acc", "max", "objective.val/avg_acc"),
        ("parameters", "min", "objective.parameters"),
    ]
    complete = sweep.trials[sweep.trials["state"] == "COMPLETE"]
    assert complete["objective.val/avg_acc"].tolist() == complete["value"].tolist() == [0.6, 0.5, 0.4]
    assert complete["objective.parameters"].tolist() == [8000, 16000, 4000]
    stopped = sweep.trials.set_index("number").loc[3]
    assert stopped[["value", "objective.val/avg_acc", "objective.parameters"]].isna().all()
    assert (stopped["best_seen"], stopped["best_epoch"]) == (0.35, 1)
    of_first = sweep.curves[sweep.curves["number"] == 0]
    assert of_first["best"].tolist() == [0.5, 0.6, 0.6]
    assert of_first["objective.parameters"].tolist() == [8000.0] * 3


def test_the_front_holds_complete_trials_that_none_dominates(ledger):
    found = front.front(read(ledger))
    assert found.numbers == (0, 2)
    assert found.complete == 3
    # By test values 0 is better than 1, and 2 is the smallest still.
    assert (found.kept_by_test, found.tested) == (2, 2)


def test_test_values_can_take_a_trial_off_the_front(write_ledger, sized):
    pairs = [(8, 0.6, 0.4), (4, 0.5, 0.5)]
    trials = [sized(width, value, metrics={"test/avg_acc": test}) for width, value, test in pairs]
    found = front.front(read(write_ledger(trials, others=SIZE)))
    assert found.numbers == (0, 1)
    assert (found.kept_by_test, found.tested) == (1, 2)
    assert any("1 of the front's 2 tested trials are still on it" in sentence for sentence in found.sentences)


def test_nothing_is_called_the_best_trial(ledger):
    report = build(read(ledger))
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(report, console)
    text, page = console.export_text(), render(report)
    assert report.selection is None
    for shown in (text, page):
        assert "Pareto front of val/avg_acc (max) and parameters (min)" in shown
        assert "Best trials" not in shown
        assert "best (trial" not in shown
    assert "8\u202f000" in text
    assert "2 of 3 complete trials are on the front" in " ".join(text.split())
    assert "The lowest parameters, 4\u202f000, is trial 2's, at val/avg_acc 0.4." in report.sentences


def test_the_table_of_the_front_has_test_metrics_and_parameters(ledger):
    sweep = read(ledger)
    table = front_table(sweep, front.front(sweep))
    assert table.headers[:5] == ["trial", "val/avg_acc", "parameters", "test/avg_acc", "batch_size"]
    assert [row[:5] for row in table.rows] == [["0", "0.6", "8\u202f000", "0.5", "38"], ["2", "0.4", "4\u202f000", "0.2", "34"]]
    assert table.marked is None


def test_the_figure_draws_the_front_over_the_others(ledger):
    sweep = read(ledger)
    figure = figures.pareto_front(sweep, front.front(sweep))
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["finished"].y) == [0.5]
    assert (list(traces["outranked (best it had seen)"].x), list(traces["outranked (best it had seen)"].y)) == (
        [2000.0],
        [0.35],
    )
    drawn = traces["Pareto front (2)"]
    assert (list(drawn.x), list(drawn.y)) == ([4000.0, 8000.0], [0.4, 0.6])
    assert drawn.line.shape == "hv"  # with 6000 parameters no more than the 0.4 of 4000 is reached
    assert panels(build(sweep))["front"].figure is not None


def test_three_objectives_have_a_panel_for_each_two(write_ledger, made):
    values = [(0.6, 3.0, 1.0), (0.5, 2.0, 2.0), (0.4, 1.0, 3.0)]
    sweep = read(write_ledger([made([one]) for one in values], others=[("val/loss", "min"), ("val/worst", "max")]))
    figure = figures.pareto_front(sweep, front.front(sweep))
    axes = [(figure.layout[f"xaxis{n}"].title.text, figure.layout[f"yaxis{n}"].title.text) for n in ("", "2", "3")]
    assert axes == [
        ("val/loss (min)", "val/avg_acc (max)"),
        ("val/worst (max)", "val/avg_acc (max)"),
        ("val/worst (max)", "val/loss (min)"),
    ]
    assert {trace.mode for trace in figure.data} == {"markers"}


def test_parallel_coordinates_draw_the_front_last_and_in_its_colour(write_ledger, made):
    """Trials in an order that numeric choices change, as optuna draws them sorted by those."""
    settings = [
        ("vimh_cnn", 32, (0.9, 9.0)),
        ("vimh_mlp", 8, (0.2, 8.0)),
        ("vimh_sdn", 16, (0.5, 1.0)),
        ("vimh_cnn", 8, (0.4, 7.0)),
    ]
    trials = [made([v], params={"model": m, "model.net.auxiliary_hidden_size": w}) for m, w, v in settings]
    figure = figures.parallel_coordinates(read(write_ledger(trials, others=SIZE)))
    lines = [(trace.line.color == figures.BEST, round(trace.y[0], 3)) for trace in figure.data if trace.mode == "lines"]
    place = {accuracy: round((accuracy - 0.2) / 0.7, 3) for accuracy in (0.2, 0.4, 0.5, 0.9)}
    assert sorted(y for front, y in lines if front) == [place[0.5], place[0.9]]
    assert [front for front, _ in lines] == [False, False, True, True]
    assert list(figure.layout.xaxis.ticktext) == ["val/avg_acc", "parameters", "model", "auxiliary_hidden_size"]


def test_each_objective_has_its_importances(write_ledger, made, make_search):
    """The learning rate decides the first objective, the batch size the second one."""
    trials = make_search(60)
    for trial in trials:
        trial.values = [(value, float(trial.params["data.batch_size"])) for value in trial.values]
    found = importances(read(write_ledger(trials, others=SIZE)))
    assert [(entry.basis.split(", by ")[1], entry.early) for entry in found] == [
        ("val/avg_acc", False),
        ("val/avg_acc at their best epoch until then", True),
        ("parameters", False),
        ("parameters at their best epoch until then", True),
    ]
    first = [entry.parameters[0].parameter for entry in found]
    assert first == ["model.optimizer.lr"] * 2 + ["data.batch_size"] * 2


def test_choices_have_a_median_of_each_objective(write_ledger, made):
    cnn, mlp = {"model": "vimh_cnn"}, {"model": "vimh_mlp"}
    trials = [made([v], params=p) for v, p in [((0.9, 9.0), cnn), ((0.7, 7.0), cnn), ((0.5, 9.0), mlp)]]
    found = {option.option: option for option in options(read(write_ledger(trials, others=SIZE)))}
    assert found["vimh_cnn"].medians == (pytest.approx(0.8), 8.0)
    assert found["vimh_mlp"].medians == (0.5, 9.0)


@pytest.mark.parametrize("case", ["no trial", "only stopped", "one complete", "one dominates all"])
def test_a_poor_sweep_with_several_objectives_has_a_report(write_ledger, sized, case):
    cases = {
        "no trial": [],
        "only stopped": [sized(4, 0.4, verdict="outranked"), sized(8, 0.5, verdict="running")],
        "one complete": [sized(4, 0.4)],
        "one dominates all": [sized(8, 0.4), sized(4, 0.5)],
    }
    told = {
        "no trial": "No trial has run yet.",
        "only stopped": "No trial has finished with a value yet.",
        "one complete": "Trial 0 is the only one with values: there is nothing to compare it with.",
        "one dominates all": "One of 2 complete trials is at least as good as every other one",
    }
    report = build(read(write_ledger(cases[case], others=SIZE, target=9)))
    console = Console(width=300, record=True, file=io.StringIO())
    print_report(report, console)
    assert told[case] in console.export_text()
    assert told[case] in render(report)


def test_the_command_writes_a_column_for_each_objective(ledger):
    result = CliRunner().invoke(app, ["report", "demo", "--root", str(ledger.root)])
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(ledger.results_file)
    assert table["objective.parameters"].tolist()[:3] == [8000.0, 16000.0, 4000.0]


def test_a_study_that_does_not_name_its_objectives_is_refused(ledger):
    from sqlalchemy import text

    with ledger.storage.engine.begin() as connection:
        connection.execute(text("DELETE FROM study_user_attributes WHERE key = 'objectives'"))
    with pytest.raises(LedgerError, match=r"does not say which 2 metrics it optimises \(it has: metric, mode\)"):
        read(ledger)


VALUES = st.lists(st.tuples(*[st.integers(0, 4).map(float)] * 3), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(VALUES, st.lists(st.sampled_from(["max", "min"]), min_size=3, max_size=3))
def test_the_front_is_what_dominance_says(values, modes):
    """On the front is exactly what no other one equals or betters everywhere while it betters it somewhere."""
    objectives = tuple(Objective(f"m{i}", mode, f"objective.m{i}") for i, mode in enumerate(modes))
    trials = pd.DataFrame(values, columns=[one.column for one in objectives]).assign(number=range(10, 10 + len(values)))
    scores = [[one.sign * value for one, value in zip(objectives, row, strict=True)] for row in values]

    def dominates(a, b):
        return all(x >= y for x, y in zip(a, b, strict=True)) and a != b

    expected = [10 + i for i, score in enumerate(scores) if not any(map(partial(dominates, b=score), scores))]
    assert sorted(front.non_dominated(trials, objectives, [one.column for one in objectives])) == expected


def test_a_narrow_terminal_breaks_a_wide_table_and_cuts_nothing(write_ledger, made):
    others = [("val/a_metric_with_a_long_name", "max"), ("val/another_metric_with_a_long_name", "max")]
    trials = [made([(0.5, 0.123, 0.456)], params={"model": "vimh_cnn", "model.net.auxiliary_hidden_size": 8})]
    console = Console(width=80, record=True, file=io.StringIO())
    print_report(build(read(write_ledger(trials, others=others))), console)
    choices = console.export_text().split("Choices")[1].split("The objectives:")[0]
    assert all(text in choices for text in ("val/a_metric_with_a_long_name", "val/another_metric_with_a_long_name", "0.123"))
    assert choices.count("model=vimh_cnn") == 3
    assert max(map(len, choices.splitlines())) <= 80
