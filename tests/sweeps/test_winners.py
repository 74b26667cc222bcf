"""The one rule of who won: laws of grouping, of what may win, and that one objective and one seed are as they were."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps.stopping.pareto import dominates
from sweeps.winners import Configuration, Outcome, best, configurations, deviation, front, mean, order, rivals, top

VALUES = st.floats(-10, 10).map(lambda value: round(value, 3))


@st.composite
def sweeps(draw, objectives: int = 1) -> list[Outcome]:
    """COMPLETE trials, of which some repeat an earlier one, and some are outside a constraint."""
    made: list[Outcome] = []
    for number in range(draw(st.integers(1, 12))):
        sources = [outcome.number for outcome in made if outcome.source is None]
        source = draw(st.sampled_from([None, None, *sources]))
        values = tuple(draw(VALUES) for _ in range(objectives))
        made.append(Outcome(number, values, source, {"loss": draw(st.sampled_from([-1.0, 0.0, 0.5]))}))
    return made


def single(values: list[float], violated: tuple[int, ...] = ()) -> list[Configuration]:
    return configurations(
        Outcome(number, (value,), None, {"size": float(number in violated)}) for number, value in enumerate(values)
    )


@given(st.lists(VALUES, min_size=1, max_size=20))
def test_without_repeats_and_constraints_the_best_value_wins_and_the_earliest_of_equals(values):
    found = single(values)
    assert best(found, ["max"]).number == values.index(max(values))
    assert best(found, ["min"]).number == values.index(min(values))
    assert [each.values[0] for each in order(found, ["min"])] == sorted(values)
    assert [each.number for each in top(found, ["max"], 3)] == [each.number for each in order(found, ["max"])][:3]


@given(sweeps())
def test_every_trial_is_in_one_configuration_that_has_the_mean_over_its_seeds(outcomes):
    found = configurations(reversed(outcomes))
    assert sorted(number for each in found for number in each.trials) == [outcome.number for outcome in outcomes]
    for each in found:
        values = [outcome.values[0] for outcome in outcomes if outcome.number in each.trials]
        assert each.number == each.trials[0] == min(each.trials)
        assert each.values[0] == pytest.approx(statistics.fmean(values))
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        assert each.deviations[0] == pytest.approx(spread, nan_ok=True)


@given(sweeps(objectives=2))
def test_the_winner_is_a_feasible_rival_on_the_front_that_no_other_dominates(outcomes):
    found, modes = configurations(outcomes), ["max", "min"]
    those, winner = rivals(found), best(found, modes)
    assert all(each.feasible for each in those)
    assert not any(each.repeated for each in those) or all(each.repeated for each in those)
    assert (winner is None) == (not any(each.feasible for each in found))
    if winner:
        assert winner in those
        assert winner.values[0] == max(each.values[0] for each in those)
        scores = {each.number: (each.values[0], -each.values[1]) for each in those}
        on_front = {each.number for each in front(found, modes)}
        for number, score in scores.items():
            assert (number in on_front) == (not any(dominates(other, score) for other in scores.values()))


def test_one_seed_s_luck_does_not_beat_a_mean():
    outcomes = [Outcome(0, (0.7,)), Outcome(1, (0.9,)), Outcome(2, (0.5,), source=0)]
    found = configurations(outcomes)
    assert best(found, ["max"]) == Configuration(0, (0, 2), (0.6,), (pytest.approx(0.1 * math.sqrt(2)),), {})
    assert [each.number for each in order(found, ["max"])] == [0, 1]
    assert best(found, ["max"]).by() == " by mean over 2 seeds"
    assert found[1].by() == ""


def test_what_is_outside_a_constraint_never_wins():
    found = single([0.9, 0.5, 0.7], violated=(0,))
    assert (best(found, ["max"]).number, [each.number for each in front(found, ["max"])]) == (2, [2])
    assert best(single([0.9], violated=(0,)), ["max"]) is None
    assert front(single([0.9], violated=(0,)), ["max"]) == []


def test_a_configuration_is_within_a_constraint_if_its_mean_is():
    outcomes = [Outcome(0, (0.9,), None, {"loss": -0.2}), Outcome(1, (0.8,), 0, {"loss": 0.1})]
    assert configurations(outcomes)[0].feasible
    assert not configurations([*outcomes, Outcome(2, (0.8,), 0, {"loss": 0.2})])[0].feasible


def test_the_top_of_several_objectives_are_the_front_and_in_it_the_emptier_places():
    outcomes = [Outcome(number, values) for number, values in enumerate([(1, 1), (5, 0), (4.9, 0.1), (0, 5), (0, 0)])]
    assert [each.number for each in top(configurations(outcomes), ["max", "max"], 4)] == [1, 3, 0, 2]


def test_mean_and_deviation_of_one_value():
    assert mean([0.1]) == 0.1
    assert math.isnan(deviation([0.1]))
