"""Which samples train, validate and test. Pure functions of counts, fractions and a seed; knows nothing of files."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose, isfinite

import numpy as np

from lhtx.errors import ConfigError

HELD_OUT = 0.1
"""The share that is held out where the files themselves decide the rest."""


@dataclass(frozen=True)
class Split:
    """Disjoint sample indices, int64, each ascending. Samples count through the train file, then the test file."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def random_split(samples: int, fractions: Sequence[float], seed: int) -> Split:
    """`samples` of one file divided at random by three fractions that sum to 1 (train, validation, test).

    Raises `ConfigError` for fractions that are no division, or that leave a part without a sample.
    """
    check_fractions(fractions)
    ends = np.rint(np.cumsum(fractions) * samples).astype(int)
    order = _permutation(samples, seed)
    return _checked(Split(*(np.sort(part) for part in np.split(order, ends[:2]))), samples)


def file_split(train_samples: int, test_samples: int, seed: int) -> Split:
    """The test file tests; a seeded tenth of the train file validates (the test file never does); the rest trains."""
    order = _permutation(train_samples, seed)
    held_out = round(HELD_OUT * train_samples)
    test = np.arange(train_samples, train_samples + test_samples)
    return _checked(Split(np.sort(order[held_out:]), np.sort(order[:held_out]), test), train_samples + test_samples)


def coverage_split(samples: int, seed: int) -> Split:
    """Train on everything but a seeded tenth of both files together, for grids that enumerate a parameter space.

    The tenth is halved between validation and test, validation taking the odd sample, so that all three stay disjoint.
    """
    order = _permutation(samples, seed)
    held_out = round(HELD_OUT * samples)
    middle = (held_out + 1) // 2
    parts = order[held_out:], order[:middle], order[middle:held_out]
    return _checked(Split(*(np.sort(part) for part in parts)), samples)


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise `ConfigError` unless `fractions` are three numbers ≥ 0 that sum to 1."""
    numbers = [isinstance(f, int | float) and not isinstance(f, bool) and isfinite(f) and f >= 0 for f in fractions]
    if len(fractions) != 3 or not all(numbers) or not isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ConfigError(
            f"train_val_test_split is {list(fractions)}; expected three numbers ≥ 0 that sum to 1, such as [0.7, 0.2, 0.1]"
        )


def _permutation(samples: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(samples)


def _checked(split: Split, samples: int) -> Split:
    sizes = {"train": len(split.train), "validation": len(split.validation), "test": len(split.test)}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise ConfigError(
            f"the split of {samples} samples leaves none for {' and '.join(empty)} ({sizes}); "
            "use a larger dataset, other fractions, or use_random_split=true where there is no test file"
        )
    return split
