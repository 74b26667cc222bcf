"""Splits are disjoint, seeded and of the asked sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lhtx.data.splits import Split, coverage_split, file_split, random_split
from lhtx.errors import ConfigError

seeds = st.integers(0, 2**32)


def _all(split: Split) -> list[int]:
    return sorted(np.concatenate([split.train, split.validation, split.test]).tolist())


@given(st.integers(20, 500), seeds)
def test_a_random_split_divides_the_samples(samples: int, seed: int) -> None:
    split = random_split(samples, (0.7, 0.2, 0.1), seed)
    assert _all(split) == list(range(samples))
    assert abs(len(split.train) - 0.7 * samples) <= 0.5
    assert abs(len(split.validation) - 0.2 * samples) <= 1


@given(st.integers(10, 300), st.integers(1, 100), seeds)
def test_a_file_split_tests_on_the_test_file_alone(train: int, test: int, seed: int) -> None:
    split = file_split(train, test, seed)
    assert split.test.tolist() == list(range(train, train + test))
    assert sorted([*split.train, *split.validation]) == list(range(train))
    assert len(split.validation) == round(0.1 * train)


@given(st.integers(20, 500), seeds)
def test_a_coverage_split_trains_on_all_but_a_tenth(samples: int, seed: int) -> None:
    split = coverage_split(samples, seed)
    assert _all(split) == list(range(samples))
    assert len(split.train) == samples - round(0.1 * samples)
    assert 0 <= len(split.validation) - len(split.test) <= 1


@pytest.mark.parametrize(
    "make", [lambda s: random_split(50, (0.7, 0.2, 0.1), s), lambda s: file_split(50, 5, s), lambda s: coverage_split(50, s)]
)
def test_the_seed_decides(make) -> None:
    same, again, other = make(3), make(3), make(4)
    assert same.train.tolist() == again.train.tolist()
    assert same.train.tolist() != other.train.tolist()


@pytest.mark.parametrize("fractions", [(0.7, 0.2), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5, float("nan")), ("a", 0, 1)])
def test_fractions_that_are_no_division_are_refused(fractions: tuple) -> None:
    with pytest.raises(ConfigError, match=r"train_val_test_split is .*expected three numbers ≥ 0 that sum to 1"):
        random_split(100, fractions, 0)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: random_split(3, (0.7, 0.2, 0.1), 0), "test"),
        (lambda: random_split(100, (0.9, 0.1, 0.0), 0), "test"),
        (lambda: file_split(100, 0, 0), "test"),
        (lambda: coverage_split(8, 0), "test"),
        (lambda: file_split(4, 5, 0), "validation"),
    ],
)
def test_an_empty_part_is_refused_by_name(make, part: str) -> None:
    with pytest.raises(ConfigError, match=f"leaves none for {part}"):
        make()
