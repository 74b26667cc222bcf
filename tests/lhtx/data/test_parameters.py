"""The arithmetic between values, stored bytes and classes."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lhtx.data.parameters import (
    Parameter,
    class_count,
    class_index,
    class_values,
    dequantise,
    normalise,
    quantise,
)
from lhtx.errors import DatasetError

numbers = st.floats(-1e3, 1e3)


@pytest.mark.parametrize(
    ("value", "stored"), [(-1.0, 0), (1.0, 255), (0.0, 128), (0.003, 128), (0.005, 128), (-0.005, 127), (-9.0, 0), (9.0, 255)]
)
def test_quantise_rounds_and_clamps(value: float, stored: int) -> None:
    assert quantise(np.array([value]), -1.0, 1.0).tolist() == [stored]


def test_dequantise_spreads_the_bytes_over_the_range() -> None:
    assert dequantise(np.array([0, 51, 255]), 10.0, 20.0).tolist() == [10.0, 12.0, 20.0]


@given(numbers, numbers, st.lists(st.integers(0, 255), min_size=1))
def test_a_stored_byte_survives_reading_and_writing(low: float, high: float, stored: list[int]) -> None:
    assume(high - low > 1e-6)
    stored = np.array(stored, dtype=np.uint8)
    assert (quantise(dequantise(stored, low, high), low, high) == stored).all()


@given(numbers, st.floats(1e-3, 1e3), st.floats(0, 1))
def test_a_value_comes_back_within_half_a_level(low: float, span: float, share: float) -> None:
    value = np.array([low + share * span])
    restored = dequantise(quantise(value, low, low + span), low, low + span)
    assert abs(restored - value).item() <= span / 255 / 2 * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize(
    ("low", "high", "step", "classes"),
    [(48, 71, 1, 24), (40, 120, 40, 3), (-2.0, 0.3, 0.1, 24), (0, 1, 0, 256), (0, 1, -1, 256), (0.3, 2.6, 1, 4)],
)
def test_class_count(low: float, high: float, step: float, classes: int) -> None:
    assert class_count(low, high, step) == classes
    assert len(class_values(low, high, step)) == classes


def test_class_index_moves_the_minimum_to_a_multiple_of_the_step() -> None:
    # min 0.3 and step 1 start the classes at 0, and max 2.6 ends them at 3
    assert class_index(np.array([-5, 0.3, 0.6, 1.4, 2.6, 9]), 0.3, 2.6, 1).tolist() == [0, 0, 1, 1, 3, 3]


def test_class_index_without_a_step_is_the_stored_byte() -> None:
    assert class_index(dequantise(np.arange(256), 3.0, 4.0), 3.0, 4.0, 0).tolist() == list(range(256))


@given(st.integers(-500, 500), st.integers(2, 256), st.sampled_from([0.01, 0.1, 0.25, 1.0, 3.0, 40.0]))
def test_every_class_survives_storage_in_a_byte(first: int, classes: int, step: float) -> None:
    low, high = first * step, (first + classes - 1) * step
    values = class_values(low, high, step)
    restored = dequantise(quantise(values, low, high), low, high)
    assert class_index(restored, low, high, step).tolist() == list(range(classes))


@given(numbers, st.floats(1e-2, 1e3), st.floats(1e-2, 1e2), st.lists(st.floats(-2e3, 2e3), min_size=2))
def test_class_index_is_monotone_and_in_range(low: float, span: float, step: float, values: list[float]) -> None:
    index = class_index(np.sort(values), low, low + span, step)
    assert (np.diff(index) >= 0).all()
    assert index[0] >= 0
    assert index[-1] < class_count(low, low + span, step)


def test_normalise() -> None:
    assert normalise(np.array([10.0, 12.5, 20.0]), 10.0, 20.0).tolist() == [0.0, 0.25, 1.0]
    assert normalise(np.array([10.0]), 10.0, 10.0).tolist() == [0.0]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"min": 1}, "'a' has max = None; expected a finite number"),
        ({"min": True, "max": 2}, "'a' has min = True"),
        ({"min": 0, "max": float("nan")}, "max = nan"),
        ({"min": 3, "max": 2}, "'a' has min 3.0 above max 2.0"),
        ([0, 1], r"'a' holds \[0, 1\]; expected an object"),
    ],
)
def test_parse_refuses_a_senseless_entry(entry: object, message: str) -> None:
    with pytest.raises(DatasetError, match=f"^here: .*{message}"):
        Parameter.parse("a", entry, "here")


def test_parse_takes_what_as_json_gives() -> None:
    parameter = Parameter(0.0, 2.0, 0.5, "text", "linear", "float")
    assert Parameter.parse("a", parameter.as_json(), "here") == parameter
    assert Parameter.parse("a", {"min": 0, "max": 2, "step": None}, "here") == Parameter(0.0, 2.0)
