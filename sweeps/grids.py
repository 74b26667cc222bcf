"""Numbers of ranges and grids: read from YAML, checked, and stepped through in the arithmetic that Optuna uses."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from sweeps.located_yaml import describe


def as_number(value: Any, integer: bool) -> Any:
    """`value`, if it is a finite number (an integer, if asked for).

    Raises:
        ValueError: it is not; the same for the functions below.
    """
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        raise ValueError(f"{'an integer' if integer else 'a number'} is expected, found {describe(value)}")
    if not math.isfinite(value):
        raise ValueError(f"a finite number is expected, found {value}")
    return value if integer else float(value)


def pair(value: Any, names: str, integer: bool, name: str = "") -> tuple[Any, Any]:
    """The two numbers that a list holds."""
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name}[{names}] is expected, found {describe(value)}")
    return as_number(value[0], integer), as_number(value[1], integer)


def check_order(low: float, high: float) -> None:
    """A range has its low end first, and more than one value."""
    if low > high:
        raise ValueError(f"the range [{low}, {high}] is reversed: write [{high}, {low}]")
    if low == high:
        raise ValueError(f"the range [{low}, {high}] holds a single value; what is fixed belongs under `trial`")


def check_step(low: float, high: float, step: Any, integer: bool) -> Any:
    """`step`, if it leads exactly from `low` to `high`."""
    step = as_number(step, integer)
    if step <= 0:
        raise ValueError(f"the step must be above 0, found {step}")
    # In decimal, as it is written: 0.3 is three steps of 0.1 although their doubles disagree.
    span, size = Decimal(str(high)) - Decimal(str(low)), Decimal(str(step))
    if size > span:
        raise ValueError(f"the step {step} is larger than the range [{low}, {high}]")
    if span % size:
        last = Decimal(str(low)) + span // size * size
        raise ValueError(f"the step {step} does not lead from {low} to {high}: the last value would be {last}")
    return step


def check_within(number: float, low: float, high: float) -> None:
    """A value lies in its range."""
    if not low <= number <= high:
        raise ValueError(f"{number} lies outside [{low}, {high}]")


def grid(low: Any, high: Any, step: Any, index: int) -> Any:
    """The value `index` steps above `low`, in the very arithmetic by which Optuna makes it."""
    return min(low + step * index, high)


def steps(low: Any, high: Any, step: Any) -> list[Any]:
    """Every value of the grid."""
    return [grid(low, high, step, index) for index in range(round((high - low) / step) + 1)]


def nearest(number: Any, low: Any, high: Any, step: Any) -> Any:
    """The value of the grid that is nearest to `number`."""
    return grid(low, high, step, round((number - low) / step))


def on_grid(number: Any, low: Any, high: Any, step: Any) -> Any:
    """The value of the grid that `number` is, rounding aside."""
    value = nearest(number, low, high, step)
    if not math.isclose(value, number, rel_tol=1e-9, abs_tol=1e-9 * step):
        raise ValueError(f"{number} is not on the grid: {value} is the nearest value that is (from {low} in steps of {step})")
    return value
