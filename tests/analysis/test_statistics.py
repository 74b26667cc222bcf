"""The numbers of a report on sweeps whose answers are known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import load
from analysis.importance import best_by_epoch, first_rung, importances
from analysis.selection import selection
from analysis.statistics import failures, guard, headline, options, short_names


def read(ledger):
    return load(ledger.name, ledger.root)


def spent(epoch):
    return [{"verdict": "spent", "reason": "noise", "epoch": epoch, "numbers": {}}]


def test_headline_counts_every_verdict(write_ledger, made):
    kinds = ["finished", "finished", "spent", "outranked", "broken", "failed", "running", "rejected"]
    ledger = write_ledger([made((0.5, 0.6), kind, "why") for kind in kinds])
    with ledger.lock():
        line = headline(read(ledger))
    expected = {"finished": 2, "spent": 1, "outranked": 1, "broken": 1, "failed": 1, "running": 1}
    expected |= {"waiting": 0, "interrupted": 0}
    assert line.counts == expected
    assert (line.trials, line.ended, line.rejected, line.epochs) == (7, 6, 1, 14)


def test_busy_time_leaves_out_the_pause_of_an_interrupted_sweep(write_ledger, made):
    """Two trials side by side for 15 s, an hour's pause, one of 15 s: busy for 30 s, 360 trials an hour."""
    spans = [(0.0, 10.0), (5.0, 10.0), (3600.0, 15.0)]
    line = headline(read(write_ledger([made((0.5,), started=start, seconds=long) for start, long in spans])))
    assert line.busy_seconds == 30.0
    assert line.trials_per_hour == 360.0
    assert line.trial_seconds == 35.0


def test_busy_time_leaves_out_the_pause_within_a_trial(write_ledger, made):
    """Two trials side by side, both for 5 min before and after a day's pause; the next one for 5 min beside the last 5."""
    day = 86400.0
    trials = [made((0.5,), seconds=600.0, pause=day) for _ in range(2)]
    trials.append(made((0.5,), started=day + 300.0, seconds=300.0))
    line = headline(read(write_ledger(trials)))
    assert line.busy_seconds == 600.0
    assert line.trials_per_hour == 18.0
    assert line.trial_seconds == 1500.0


def test_busy_time_of_a_trial_that_waited_for_a_place(write_ledger, made):
    """Proposed with the first and begun when that had ended: 20 s one after the other, and 10 s of one that still runs."""
    line = headline(read(write_ledger([made((0.5,)), made((0.5,), pause=10.0), made((0.5,), "running", started=3600.0)])))
    assert line.busy_seconds == 30.0


def test_headline_without_trials(write_ledger):
    line = headline(read(write_ledger([])))
    assert (line.trials, line.busy_seconds) == (0, 0.0)
    assert math.isnan(line.trials_per_hour)


def test_options_count_and_rank_the_choices(write_ledger, made):
    mlp, cnn = {"model": "vimh_mlp"}, {"model": "vimh_cnn", "model.net.auxiliary_hidden_size": 8}
    trials = [
        made((0.1, 0.3), params=mlp),
        made((0.2, 0.5), params=mlp),
        made((0.3, 0.9), params=cnn),
        made((0.1,), "outranked", "last", params=cnn),
        made((), "failed", "RuntimeError", params=cnn),
    ]
    found = {(row.parameter, row.option): row for row in options(read(write_ledger(trials)))}
    row = found["model", "vimh_mlp"]
    assert (row.trials, row.complete, row.pruned, row.failed) == (2, 2, 0, 0)
    assert (row.best, row.median, row.early_median) == (0.5, 0.4, pytest.approx(0.15))
    row = found["model", "vimh_cnn"]
    assert (row.trials, row.complete, row.pruned, row.failed) == (3, 1, 1, 1)
    assert (row.best, row.median, row.early_median) == (0.9, 0.9, pytest.approx(0.2))
    assert found["model", "vimh_sdn"].trials == 0
    assert math.isnan(found["model", "vimh_sdn"].best)
    # Only the trials in which the parameter was active count.
    assert found["model.net.auxiliary_hidden_size", 8].trials == 3


def test_the_best_option_follows_the_mode(write_ledger, made):
    trials = [made((value,), params={"model": "vimh_mlp"}) for value in (0.3, 0.5)]
    assert options(read(write_ledger(trials, mode="min")))[0].best == 0.3


def test_guard_tells_saved_epochs_and_regret_of_shadow_mode(write_ledger, made):
    """The best trial (0.9) would have been cut at 0.6, so 0.8 would have won: a regret of 0.1 for 2 + 1 epochs."""
    trials = [
        made((0.5, 0.6, 0.7, 0.9), shadow=spent(2), max_epochs=4),
        made((0.5, 0.6, 0.7, 0.8), max_epochs=4),
        made((0.3, 0.5, 0.5, 0.5), shadow=spent(3), max_epochs=4),
        made((0.1,), "outranked", "last", max_epochs=4),
    ]
    found = guard(read(write_ledger(trials)))
    assert found.shadow == {"spent": 2}
    assert (found.shadow_saved, found.shadow_share) == (3, 3 / 13)
    assert found.shadow_regret == pytest.approx(0.1)
    assert [(loss[0], loss[2], pytest.approx(loss[3])) for loss in found.shadow_losses] == [(0, 2, 0.3), (2, 3, 0.0)]
    assert (found.stopped, found.saved_epochs, found.budget_known) == ({"outranked": 1}, 3, True)


def test_a_trial_that_shadow_mode_calls_broken_would_have_had_no_value(write_ledger, made):
    shadow = [{"verdict": "broken", "reason": "exploding", "epoch": 1, "numbers": {}}]
    found = guard(read(write_ledger([made((0.5, 0.9), shadow=shadow), made((0.5, 0.4))])))
    assert math.isnan(found.shadow_losses[0][3])
    assert found.shadow_regret == pytest.approx(0.4)


def test_regret_of_a_minimised_objective_is_positive_too(write_ledger, made):
    found = guard(read(write_ledger([made((0.5, 0.4, 0.1), shadow=spent(2)), made((0.3, 0.3, 0.3))], mode="min")))
    assert found.shadow_losses[0][3] == pytest.approx(0.3)
    assert found.shadow_regret == pytest.approx(0.2)


def test_failures_are_grouped_by_reason(write_ledger, made):
    trials = [
        made((), "failed", "ValueError: x", error="line\n" * 100 + "ValueError: x"),
        made((math.nan,), "broken", "not finite: objective = nan"),
        made((), "failed", "ValueError: x"),
        made((math.nan,), "broken", "not finite: train/loss = inf"),
        made((0.5,), "broken", "exploding: gradient norm 12, more than 10 times"),
        made((), "failed", "ValueError: x"),
    ]
    found = failures(read(write_ledger(trials)))
    assert [(one.verdict, one.reason, one.numbers) for one in found] == [
        ("failed", "ValueError: x", (0, 2, 5)),
        ("broken", "not finite", (1, 3)),
        ("broken", "exploding: gradient norm 12, more than 10 times", (4,)),
    ]
    assert found[0].traceback.splitlines()[-1] == "ValueError: x"
    assert len(found[0].traceback.splitlines()) == 40


def test_the_first_rung_is_where_all_trials_can_be_compared(write_ledger, made):
    trials = [made((0.1, 0.5, 0.2, 0.6)), made((0.3, 0.2), "outranked", "last"), made((0.2, 0.4, 0.4), "outranked", "last")]
    sweep = read(write_ledger([*trials, made((0.9,), "failed", "RuntimeError")]))
    assert first_rung(sweep) == 2
    assert best_by_epoch(sweep, 2, sweep.objectives[0]) == {0: 0.5, 1: 0.3, 2: 0.4}
    assert first_rung(read(write_ledger([made((0.5,))], name="unpruned"))) is None


def test_importance_finds_what_decides_and_not_what_does_nothing(search_ledger):
    """The learning rate decides all trials of the search; batch size and target width do nothing."""
    found = importances(read(search_ledger))
    assert [entry.basis.split(",")[0] for entry in found] == ["complete trials", "all trials that reached epoch 2"]
    for entry in found:
        assert entry.parameters[0].parameter == "model.optimizer.lr"
        assert entry.parameters[0].above_chance
        assert sum(one.share for one in entry.parameters) == pytest.approx(1)
        assert {one.parameter for one in entry.parameters if not one.above_chance} >= {"data.target_width"}


def test_importance_drops_no_trial_for_want_of_a_conditional_parameter(search_ledger):
    sweep = read(search_ledger)
    complete = importances(sweep)[0]
    active = {one.parameter: one.active for one in complete.parameters}
    assert complete.trials == len(sweep.complete)
    assert active["model"] == len(sweep.complete)
    assert active["model.net.auxiliary_hidden_size"] == (sweep.complete["model"] == "vimh_cnn").sum() < len(sweep.complete)


def test_too_few_or_equal_trials_have_no_importances(write_ledger, made):
    few = importances(read(write_ledger([made((0.5,), params={"data.batch_size": 40})], name="few")))[0]
    assert (few.parameters, few.missing) == ((), "1 trials are too few: it takes 10")
    same = [made((0.5,), params={"data.batch_size": size}) for size in range(40, 60)]
    equal = importances(read(write_ledger(same, name="equal")))[0]
    assert (equal.parameters, equal.missing) == ((), "the best trials cannot be told from the others")


def with_test(made, pairs):
    return [made((value,), metrics={"test/avg_acc": test}) for value, test in pairs]


def test_selection_compares_validation_with_test(write_ledger, made):
    pairs = [(0.50, 0.49), (0.60, 0.59), (0.70, 0.68), (0.80, 0.79), (0.90, 0.78), (0.89, 0.88)]
    found = selection(read(write_ledger(with_test(made, pairs))))
    assert (found.best, found.runner_up, found.complete) == (4, 5, 6)
    assert (found.lead, found.lead_over_median) == (pytest.approx(0.01), pytest.approx(0.15))
    assert (found.gap, found.median_gap) == (pytest.approx(0.12), pytest.approx(0.01))
    assert (found.test_value, found.test_rank, found.tested) == (0.78, 3, 6)
    # Ranks by validation 1 2 3 4 6 5 and by test 1 2 3 5 4 6: 1 − 6·(1 + 4 + 1)/(6·35).
    assert found.rank_correlation == pytest.approx(1 - 36 / 210)


def test_spread_is_robust_and_ties_lie_within_twice_of_it(write_ledger, made):
    gaps = [0.00, 0.01, 0.02, 0.03, 0.04]
    values = [0.90, 0.88, 0.86, 0.80, 0.70]
    found = selection(read(write_ledger(with_test(made, [(v, v - g) for v, g in zip(values, gaps, strict=True)]))))
    assert found.spread == pytest.approx(1.4826 * 0.01)
    assert found.tied == (1,)
    assert any("1 other trial is within twice that of the best" in sentence for sentence in found.sentences)


def test_selection_of_a_minimised_objective_has_positive_leads(write_ledger, made):
    found = selection(read(write_ledger([made((0.3,)), made((0.1,)), made((0.2,))], mode="min", metric="val/loss")))
    assert (found.best, found.runner_up) == (1, 2)
    assert (found.lead, found.lead_over_median) == (pytest.approx(0.1), pytest.approx(0.1))
    assert any("No trial was tested" in sentence for sentence in found.sentences)


def test_selection_claims_nothing_from_one_trial_or_none(write_ledger, made):
    assert selection(read(write_ledger([made((), "failed", "no")], name="none"))) is None
    alone = selection(read(write_ledger([made((0.5,))], name="one")))
    assert alone.sentences == ("Trial 0 is the only one with a value (0.5): there is nothing to compare it with.",)


def test_a_best_trial_that_was_not_tested_is_said_to_be_so(write_ledger, made):
    trials = [made((0.9,), "spent", "noise"), made((0.5,), metrics={"test/avg_acc": 0.4})]
    sentences = selection(read(write_ledger(trials))).sentences
    assert "Trial 0 has no test/avg_acc: evaluate it before quoting a number." in sentences


NAMES = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join), unique=True, max_size=8)


@settings(max_examples=200, deadline=None)
@given(NAMES)
def test_short_names_are_endings_and_differ(names):
    short = short_names(names)
    assert list(short) == names
    assert all(name == ending or name.endswith("." + ending) for name, ending in short.items())
    assert len(set(short.values())) == len(names)
