"""Successive halving and the gradient guard: what they stop, what they let go on, and that replaying changes nothing."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.stopping import (
    ConstantCutoff,
    Guard,
    Hyperband,
    MedianRule,
    Report,
    SuccessiveHalving,
    Verdict,
    objective_not_finite,
)
from sweeps.stopping.hyperband import rota
from sweeps.stopping.pareto import crowding, dominates, fronts, ranked


def report(number, epoch, value, max_epochs=100, **metrics):
    return Report(number, epoch, max_epochs, value, {name.replace("__", "/"): cell for name, cell in metrics.items()})


def test_rungs_lie_at_powers_of_the_reduction_factor():
    halving = SuccessiveHalving(("max",), grace_epochs=2, reduction_factor=3)
    assert [halving.rung(epoch) for epoch in (1, 2, 5, 6, 17, 18, 53, 54)] == [None, 2, 2, 6, 6, 18, 18, 54]


def test_the_cut_keeps_the_best_third():
    halving = SuccessiveHalving(("max",), grace_epochs=1, reduction_factor=3)
    values = [0.5, 0.6, 0.4, 0.7, 0.65, 0.1]
    verdicts = [halving.judge(report(number, 1, value)) for number, value in enumerate(values)]
    # 0.5 comes first and stays; 0.6 beats it; 0.4 is third of three; 0.7 leads; 0.65 is second of five (one is kept); …
    assert [verdict is None for verdict in verdicts] == [True, True, False, True, False, False]
    assert verdicts[2].verdict == "outranked"
    assert verdicts[2].numbers == {"value": 0.4, "cut": 0.6, "rung": 1, "reached": 3, "kept": 1}
    assert verdicts[2].reason.startswith("3 of 3 at the rung of 1 epochs, where 1 go on: 0.4 against a cut of 0.6")


def test_ties_within_the_tolerance_are_kept():
    exact = SuccessiveHalving(("max",), 1, 2)
    assert exact.judge(report(0, 1, 0.5)) is None
    assert exact.judge(report(1, 1, 0.5)) is None
    assert exact.judge(report(2, 1, 0.49)) is not None
    tolerant = SuccessiveHalving(("max",), 1, 2, tolerance=0.02)
    tolerant.judge(report(0, 1, 0.5))
    assert tolerant.judge(report(1, 1, 0.49)) is None


def test_a_trial_at_its_last_epoch_is_finished_not_outranked():
    halving = SuccessiveHalving(("max",), 1, 2)
    halving.judge(report(0, 4, 0.9, max_epochs=4))
    assert halving.judge(report(1, 4, 0.1, max_epochs=4)) is None


def test_a_trial_without_a_last_epoch_is_ranked():
    halving = SuccessiveHalving(("max",), 1, 2)
    halving.judge(report(0, 1, 0.9, max_epochs=-1))
    assert halving.judge(report(1, 1, 0.1, max_epochs=-1)).verdict == "outranked"


def test_halving_ranks_by_the_best_value_so_far_and_judges_a_rung_once():
    halving = SuccessiveHalving(("min",), 2, 2)
    halving.judge(report(0, 1, 0.1))
    halving.judge(report(0, 2, 5.0))
    outranked = halving.judge(report(1, 2, 0.2))
    assert outranked is not None
    assert outranked.numbers["cut"] == 0.1
    assert halving.judge(report(1, 3, 9.0)) is None


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=40), st.integers(2, 5))
def test_min_of_the_negated_values_is_max(values, factor):
    highest, lowest = SuccessiveHalving(("max",), 1, factor), SuccessiveHalving(("min",), 1, factor)
    kept = [highest.judge(report(number, 1, value)) is None for number, value in enumerate(values)]
    assert kept == [lowest.judge(report(number, 1, -value)) is None for number, value in enumerate(values)]
    # Whoever is the best so far is never stopped.
    assert all(kept[number] for number, value in enumerate(values) if value == max(values[: number + 1]))


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"train__loss": math.nan}, "train/loss = nan"),
        ({"val__loss": math.inf}, "val/loss = inf"),
        ({"grad__norm_max": math.inf}, "grad/norm_max = inf"),
        ({"grad__epoch_mean": math.nan}, "grad/epoch_mean = nan"),
    ],
)
def test_what_is_not_finite_is_broken(metrics, named):
    told = report(0, 3, 0.5, **metrics)
    assert objective_not_finite(told) is None
    verdict = Guard("max", 10, 3, 0.01).judge(told)
    assert verdict is not None
    assert (verdict.verdict, verdict.epoch) == ("broken", 3)
    assert named in verdict.reason


def test_an_objective_that_is_nan_is_broken_and_a_statistic_that_is_nan_is_not():
    assert objective_not_finite(report(0, 1, math.nan)).reason == "not finite: objective = nan"
    assert Guard("max", 10, 3, 0.01).judge(report(0, 1, 0.5, grad__snr=math.nan, grad__evidence=math.nan)) is None


def test_a_dead_gradient_is_broken():
    verdict = Guard("max", 10, 3, 0.01).judge(report(4, 2, 0.5, grad__epoch_mean=0.0))
    assert verdict.verdict == "broken"
    assert verdict.reason.startswith("dead")


def test_explosion_is_measured_against_the_median_of_peers_at_that_epoch():
    guard = Guard("max", explode_factor=10, patience=3, min_gain=0.01, min_peers=3)
    for number, norm in enumerate([1.0, 2.0, 100.0]):  # too few peers yet: even 100 says nothing
        assert guard.judge(report(number, 1, 0.5, grad__epoch_mean=norm)) is None
    assert guard.judge(report(3, 1, 0.5, grad__epoch_mean=19.0)) is None
    verdict = guard.judge(report(4, 1, 0.5, grad__epoch_mean=500.0))
    assert verdict.numbers == {"grad/epoch_mean": 500.0, "median_of_peers": 10.5, "peers": 4, "explode_factor": 10}
    assert guard.judge(report(4, 2, 0.5, grad__epoch_mean=500.0)) is None  # nobody has been at epoch 2


def feed(guard, values, evidence, max_epochs=100):
    return [
        guard.judge(report(0, epoch, value, max_epochs, grad__evidence=proof))
        for epoch, (value, proof) in enumerate(zip(values, evidence, strict=True), start=1)
    ]


def test_spent_needs_noise_for_patience_epochs_and_no_gain_in_them():
    noise = [0.1] * 6
    assert [verdict is not None for verdict in feed(Guard("max", 10, 3, 0.01), [0.5] * 6, noise)] == [False] * 3 + [True] * 3
    gaining = feed(Guard("max", 10, 3, 0.01), [0.5, 0.51, 0.52, 0.53, 0.54, 0.55], noise)
    assert gaining == [None] * 6
    interrupted = feed(Guard("max", 10, 3, 0.01), [0.5] * 6, [0.1, 0.1, -0.1, 0.1, 0.1, 0.1])
    assert [verdict is not None for verdict in interrupted] == [False] * 5 + [True]
    spent = interrupted[-1]
    assert (spent.verdict, spent.epoch) == ("spent", 6)
    assert spent.numbers == {"grad/evidence": 0.1, "gain": 0.0, "noise_epochs": 3, "patience": 3}


def test_spent_makes_no_statement_without_statistics_nor_at_the_last_epoch():
    assert feed(Guard("min", 10, 2, 0.01), [0.5] * 5, [math.nan] * 5) == [None] * 5
    assert feed(Guard("min", 10, 2, 0.01), [0.5] * 3, [0.1] * 3, max_epochs=3) == [None] * 3


def test_epochs_told_again_after_a_resume_change_no_verdict():
    straight, resumed = Guard("max", 10, 2, 0.01), Guard("max", 10, 2, 0.01)
    for epoch in (1, 2):
        assert straight.judge(report(0, epoch, 0.5, grad__evidence=0.2)) is None
    for epoch in (1, 2, 2, 2):
        assert resumed.judge(report(0, epoch, 0.5, grad__evidence=0.2)) is None
    assert straight.judge(report(0, 3, 0.5, grad__evidence=0.2)) == resumed.judge(report(0, 3, 0.5, grad__evidence=0.2))


def test_an_attribute_is_json_even_for_numbers_that_are_not():
    attribute = Verdict("broken", "why", 1, {"objective": math.nan, "cut": 0.5}).as_attribute()
    assert attribute == {"verdict": "broken", "reason": "why", "epoch": 1, "numbers": {"objective": "nan", "cut": 0.5}}


def test_brackets_come_as_often_as_the_paper_says():
    turns = rota(4, 3)  # R = 81, η = 3: the table of Li et al. 2018
    assert {bracket: turns.count(bracket) for bracket in set(turns)} == {4: 81, 3: 34, 2: 15, 1: 8, 0: 5}
    assert turns[:6] == (4, 3, 4, 2, 4, 3)  # spread, not in blocks: every beginning is a fair mixture
    assert rota(0, 3) == (0,)


def test_a_bracket_ranks_as_often_as_its_number_says_and_bracket_0_never():
    hyperband = Hyperband(("max",), grace_epochs=1, reduction_factor=3)
    assert [hyperband.rung(2, epoch, 9) for epoch in (1, 2, 3, 8)] == [1, 1, 3, 3]
    assert [hyperband.rung(1, epoch, 9) for epoch in (1, 2, 3, 8)] == [None, None, 3, 3]
    assert [hyperband.rung(0, epoch, 9) for epoch in (1, 3, 9)] == [None] * 3
    assert [hyperband.bracket(place, 9) for place in range(4)] == list(rota(2, 3)[:4])
    assert hyperband.bracket(0, 2) == 0  # too short for a rung


def test_hyperband_ranks_a_trial_only_within_its_bracket():
    hyperband = Hyperband(("max",), grace_epochs=1, reduction_factor=3)
    early = [place for place in range(19) if hyperband.bracket(place, 9) == 2]
    late = next(place for place in range(19) if hyperband.bracket(place, 9) == 1)
    for place in early[:3]:
        hyperband.judge(report(place, 1, 0.5 + place / 100, max_epochs=9))
    assert hyperband.judge(report(early[3], 1, 0.1, max_epochs=9)).numbers["reached"] == 4
    assert hyperband.judge(report(late, 3, 0.1, max_epochs=9)) is None


def test_worse_than_the_median_of_running_means_ends_a_trial():
    rule = MedianRule(("max",), grace_epochs=2, min_trials=3)
    for number, values in enumerate([(0.2, 0.4), (0.4, 0.6), (0.6, 0.8)]):  # means 0.3, 0.5, 0.7
        for epoch, value in enumerate(values, start=1):
            assert rule.judge(report(number, epoch, value)) is None
    assert rule.judge(report(3, 1, 0.0)) is None  # before the grace is over
    verdict = rule.judge(report(3, 2, 0.49))
    assert verdict.numbers == {"value": 0.49, "median": 0.5, "others": 3}
    assert verdict.reason == "0.49 after 2 epochs is worse than 0.5, the median of the running means of 3 other trials"
    assert rule.judge(report(4, 1, 0.5)) is None
    assert rule.judge(report(4, 2, 0.0)) is None  # its best value counts, and equals are not worse
    assert rule.judge(report(5, 3, 0.0)) is None  # nobody has come so far


def test_the_cutoff_keeps_the_best_of_all():
    constant = ConstantCutoff(("min",), cutoff_epochs=2, top_k=2)
    assert constant.judge(report(0, 1, 0.9)) is None
    told = [constant.judge(report(number, 2, value)).verdict for number, value in enumerate([0.5, 0.4, 0.6, 0.3])]
    assert told == ["waiting", "waiting", "outranked", "waiting"]
    constant.end(2)
    [(number, verdict)] = constant.overtaken()
    assert (number, verdict.numbers) == (0, {"value": 0.5, "cut": 0.4, "reached": 4, "kept": 2})
    constant.end(number)
    assert constant.waiting == [3, 1]
    constant.release(3)
    assert (constant.waiting, constant.released) == ([1], {3})
    assert constant.judge(report(3, 2, 0.3)) is None
    with pytest.raises(ValueError, match="trial 3 is not suspended"):
        SuccessiveHalving(("max",), 1, 3).release(3)


SCORES = st.dictionaries(st.integers(0, 30), st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=15)


@given(SCORES)
def test_fronts_are_what_is_left_undominated(scores):
    left = dict(scores)
    for front in fronts(scores):
        undominated = {one for one in left if not any(dominates(left[other], left[one]) for other in left)}
        assert set(front) == undominated
        left = {number: score for number, score in left.items() if number not in undominated}
    assert not left


@given(SCORES)
def test_nobody_ranks_behind_one_that_it_dominates(scores):
    order = [number for equals in ranked(scores) for number in equals]
    assert sorted(order) == sorted(scores)
    for one in scores:
        for other in scores:
            if dominates(scores[one], scores[other]):
                assert order.index(one) < order.index(other)


def test_crowding_measures_the_gap_between_neighbours():
    scores = {0: (0, 4), 1: (1, 3), 2: (3, 1), 3: (4, 0)}
    assert crowding(scores, [0, 1, 2, 3]) == {0: math.inf, 1: 1.5, 2: 1.5, 3: math.inf}
    assert ranked({number: (float(value),) for number, value in enumerate([1, 3, 2, 3])}) == [[1, 3], [2], [0]]


def test_with_two_objectives_halving_keeps_the_front():
    halving = SuccessiveHalving(("max", "min"), 1, 2)
    for number, values in enumerate([(0.5, 5.0), (0.9, 9.0)]):
        assert halving.judge(Report(number, 1, 9, values[0], {}, values[1:])) is None
    dominated = halving.judge(Report(2, 1, 9, 0.4, {}, (9.5,)))
    assert dominated.reason == "3 of 3 at the rung of 1 epochs, where 1 go on: 0.4 / 9.5 against a cut of 0.5 / 5"
    assert halving.judge(Report(3, 1, 9, 0.1, {}, (1.0,))) is None
