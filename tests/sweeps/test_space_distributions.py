"""Distributions: what they hold, how they are drawn, what Optuna makes of them."""

from __future__ import annotations

import math
import random
import warnings
from statistics import NormalDist, fmean, stdev
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import truncnorm

from sweeps.distributions import KINDS, Choice, Distribution, Normal, PowerOfTwo, Range, parse_distribution

optuna.logging.set_verbosity(optuna.logging.ERROR)

EXAMPLES: dict[str, dict[str, Any]] = {
    "choice": {"choice": ["a", 2, 0.5, None, True, [1, "x"]]},
    "uniform": {"uniform": [-1, 3.0]},
    "uniform with a step": {"uniform": [0.1, 0.7], "step": 0.1},
    "log_uniform": {"log_uniform": [1e-5, 0.1]},
    "int": {"int": [-3, 9]},
    "int with a step": {"int": [8, 32], "step": 8},
    "log_int": {"log_int": [1, 300]},
    "power_of_two": {"power_of_two": [1, 512]},
    "normal": {"normal": [0.3, 0.1], "clip": [0.0, 0.5]},
    "normal without a clip": {"normal": [10, 2]},
    "normal with a step": {"normal": [0, 1], "clip": [-2, 2], "step": 0.5},
}
KIND_OF = {name: next(kind for kind in KINDS if kind in entry) for name, entry in EXAMPLES.items()}


@pytest.fixture(params=EXAMPLES, ids=str)
def distribution(request: pytest.FixtureRequest) -> Distribution:
    return parse_distribution(EXAMPLES[request.param], KIND_OF[request.param])


def test_every_kind_has_an_example() -> None:
    assert set(KIND_OF.values()) == set(KINDS)


def test_what_is_drawn_is_held_as_it_is(distribution: Distribution) -> None:
    rng = random.Random(1)
    for value in [*(distribution.draw(rng) for _ in range(300)), *distribution.ends()]:
        assert distribution.canonical(value) == value
        assert type(value) in (bool, int, float, str, type(None))


def test_optuna_suggests_builtins_that_are_held_as_they_are(distribution: Distribution) -> None:
    for sampler in (optuna.samplers.RandomSampler(seed=2), optuna.samplers.TPESampler(seed=2, n_startup_trials=3)):
        study = optuna.create_study(sampler=sampler)
        for _ in range(15):
            trial = study.ask()
            value = distribution.suggest(trial, "some.key")
            assert distribution.canonical(value) == value
            assert type(value) in (bool, int, float, str, type(None))
            study.tell(trial, 1.0)
            assert study.trials[-1].params == {"some.key": value}


def test_a_study_on_disk_gives_the_values_back(distribution: Distribution, tmp_path: Any) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    trial = optuna.create_study(storage=storage, study_name="s", sampler=optuna.samplers.RandomSampler(seed=1)).ask()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a choice that a database cannot keep
        value = distribution.suggest(trial, "key")
    assert optuna.load_study(storage=storage, study_name="s").trials[0].params == {"key": value}


def test_written_and_read_again_it_is_equal(distribution: Distribution) -> None:
    entry = distribution.as_yaml()
    kind = next(kind for kind in KINDS if kind in entry)
    assert parse_distribution(entry, kind) == distribution


def test_list_options_are_text_in_the_study_and_lists_in_the_config() -> None:
    choice = Choice.parse([[], ["decay_time", 2], "plain"])
    assert choice.held == ["[]", "[decay_time,2]", "plain"]
    assert choice.canonical(["decay_time", 2]) == choice.canonical("[decay_time,2]") == "[decay_time,2]"
    assert choice.to_config("[decay_time,2]") == ["decay_time", 2]
    assert choice.to_config("[]") == []
    assert choice.to_config("plain") == "plain"


def test_power_of_two_holds_the_value_not_the_exponent() -> None:
    assert PowerOfTwo.parse([32, 512]).values() == [32, 64, 128, 256, 512]
    assert PowerOfTwo.parse([1, 4]).values() == [1, 2, 4]


def test_a_step_reaches_both_ends() -> None:
    grid = Range.parse("uniform", [0.1, 0.7], 0.1)
    rng = random.Random(0)
    drawn = {round(grid.draw(rng), 9) for _ in range(500)}
    assert drawn == {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7}
    steps = Range.parse("int", [8, 32], 8)
    assert {steps.draw(rng) for _ in range(200)} == {8, 16, 24, 32}


def test_logarithmic_draws_are_even_in_the_logarithm() -> None:
    rng = random.Random(3)
    drawn = [math.log10(Range.parse("log_uniform", [1e-4, 1.0]).draw(rng)) for _ in range(4000)]
    counts, _ = np.histogram(drawn, bins=4, range=(-4, 0))
    assert np.all(np.abs(counts - 1000) < 120)
    integers = [Range.parse("log_int", [1, 1000]).draw(rng) for _ in range(4000)]
    share = sum(value < 32 for value in integers) / 4000
    assert share == pytest.approx(math.log(31.5 / 0.5) / math.log(1000.5 / 0.5), abs=0.03)


@given(
    st.floats(-5, 5),
    st.floats(0.1, 3),
    st.tuples(st.floats(-2, 1.9), st.floats(0.1, 4)),
    st.floats(0.001, 0.999),
)
def test_the_quantile_of_a_clipped_normal_agrees_with_scipy(
    mean: float, std: float, clip: tuple[float, float], share: float
) -> None:
    low, high = mean + clip[0] * std, mean + (clip[0] + clip[1]) * std
    ours = Normal(mean, std, low, high).quantile(share)
    reference = truncnorm.ppf(share, (low - mean) / std, (high - mean) / std, loc=mean, scale=std)
    assert ours == pytest.approx(reference, abs=1e-6 * std)
    assert low <= ours <= high


def test_a_normal_without_a_clip_reaches_three_deviations() -> None:
    normal = Normal.parse([10, 2], None)
    assert (normal.low, normal.high) == (4.0, 16.0)
    rng = random.Random(5)
    drawn = [normal.draw(rng) for _ in range(4000)]
    assert fmean(drawn) == pytest.approx(10, abs=0.15)
    assert stdev(drawn) == pytest.approx(1.97, abs=0.1)  # three deviations cut a little off
    assert normal.quantile(0.5) == pytest.approx(10)
    assert NormalDist(10, 2).cdf(normal.quantile(0.84)) == pytest.approx(0.84, abs=0.002)


@pytest.mark.parametrize(
    ("kind", "entry", "message"),
    [
        ("choice", {"choice": ["a"]}, "at least two options"),
        ("choice", {"choice": []}, "at least two options"),
        ("choice", {"choice": ["a", "b", "a"]}, "the option 'a' is given twice"),
        ("choice", {"choice": [1, True]}, "the option true and 1 are one option"),
        ("choice", {"choice": [[1], "[1]"]}, r"the option '\[1\]' and the list \[1\] are one option"),
        ("choice", {"choice": [{"a": 1}, 2]}, "a plain value or a list of plain values, found the mapping"),
        ("choice", {"choice": [[[1]], 2]}, "a plain value or a list of plain values"),
        ("choice", {"choice": [math.inf, 2]}, "finite"),
        ("choice", {"choice": "ab"}, "a list of options is expected, found 'ab'"),
        ("uniform", {"uniform": [1, 0]}, r"\[1.0, 0.0\] is reversed: write \[0.0, 1.0\]"),
        ("uniform", {"uniform": [1, 1]}, "holds a single value; what is fixed belongs under `trial`"),
        ("uniform", {"uniform": [1, 2, 3]}, r"\[low, high\] is expected, found the list \[1, 2, 3\]"),
        ("uniform", {"uniform": [0, "1"]}, "a number is expected, found '1'"),
        ("uniform", {"uniform": [0, True]}, "a number is expected, found true"),
        ("uniform", {"uniform": [0, math.nan]}, "finite"),
        ("uniform", {"uniform": [0, 1], "step": 0.3}, "does not lead from 0.0 to 1.0: the last value would be 0.9"),
        ("uniform", {"uniform": [0, 1], "step": 2}, r"the step 2.0 is larger than the range \[0.0, 1.0\]"),
        ("uniform", {"uniform": [0, 1], "step": 0}, "the step must be above 0"),
        ("log_uniform", {"log_uniform": [0, 1]}, "must be above 0, found 0.0"),
        ("log_uniform", {"log_uniform": [1, 2], "step": 1}, "a step goes with uniform and int, not with log_uniform"),
        ("int", {"int": [1, 2.0]}, "an integer is expected, found 2.0"),
        ("int", {"int": [1, 10], "step": 4}, "does not lead from 1 to 10: the last value would be 9"),
        ("log_int", {"log_int": [0, 10]}, "must be at least 1, found 0"),
        ("power_of_two", {"power_of_two": [3, 64]}, "3 is not a power of two; near ones: 2, 4"),
        ("power_of_two", {"power_of_two": [-4, 64]}, "-4 is not a power of two; near ones: 1"),
        ("power_of_two", {"power_of_two": [64, 32]}, "reversed"),
        ("normal", {"normal": [0, 0]}, "the standard deviation must be above 0"),
        ("normal", {"normal": [0, 1], "clip": [20, 30]}, "leaves nothing of a normal"),
        ("normal", {"normal": [0, 1], "clip": [1, -1]}, "reversed"),
        ("normal", {"normal": [0, 1], "clip": 3}, r"clip: \[low, high\] is expected, found 3"),
    ],
)
def test_senseless_numbers_are_refused(kind: str, entry: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_distribution(entry, kind)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("choice", "b", "'b' is not among the options"),
        ("choice", 1, "1 is not among the options"),  # there is a true, which equals 1 to Python
        ("uniform", 4, r"4.0 lies outside \[-1.0, 3.0\]"),
        ("uniform with a step", 0.25, "0.25 is not on the grid: 0.2"),
        ("int", 2.5, "an integer is expected, found 2.5"),
        ("int with a step", 12, "not on the grid"),
        ("power_of_two", 48, "48 is not among the values. Accepted: 1, 2, 4"),
        ("normal", 0.6, "lies outside"),
    ],
)
def test_values_that_it_does_not_hold(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_distribution(EXAMPLES[name], KIND_OF[name]).canonical(value)


@given(st.integers(-50, 50), st.integers(1, 40), st.integers(1, 7))
def test_steps_of_tenths_lead_where_decimals_say(low: int, steps: int, size: int) -> None:
    step = size / 10
    start, end = low / 10, round(low / 10 + steps * step, 10)
    grid = Range.parse("uniform", [start, end], step)
    assert grid.canonical(end) == pytest.approx(end)
    assert grid.to_optuna().high == pytest.approx(end)
