"""The units of a head agree with the dataset's own arithmetic; weights follow their rule."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhtx.data.parameters import class_count, class_index, class_values
from lhtx.data.spec import HeadSpec
from lhtx.errors import ConfigError
from lhtx.tasks.heads import Head, parse_heads, weigh

ranges = st.tuples(
    st.floats(-100, 100).map(lambda x: round(x, 2)),
    st.integers(4, 60),
    st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.0]),
    st.floats(0, 0.4).map(lambda x: round(x, 2)),
)


def head_of(minimum: float, steps: int, step: float, rest: float) -> Head:
    maximum = minimum + (steps + rest) * (step or 0.37)
    return Head("p", HeadSpec(class_count(minimum, maximum, step), minimum, maximum, step))


@given(ranges)
def test_positions_are_the_datasets_classes(numbers):
    head = head_of(*numbers)
    spec = head.spec
    positions = torch.arange(spec.classes, dtype=torch.float64)
    centres = class_values(spec.minimum, spec.maximum, spec.step)
    np.testing.assert_allclose(head.value_of_position(positions).numpy(), centres, rtol=1e-9, atol=1e-9)


@given(ranges, st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_units_and_positions_have_the_same_value(numbers, units):
    head, unit = head_of(*numbers), torch.tensor(units, dtype=torch.float64)
    value = head.value_of_unit(unit)
    torch.testing.assert_close(head.value_of_position(head.position_of_unit(unit)), value, rtol=1e-9, atol=1e-9)
    nearest = head.position_of_unit(unit).round().clamp(0, head.spec.classes - 1).long()
    expected = class_index(value.numpy(), head.spec.minimum, head.spec.maximum, head.spec.step)
    # A value half-way between two classes may fall on either side by rounding.
    position = head.position_of_unit(unit)
    clear = ((position - position.floor() - 0.5).abs() > 1e-6).numpy()
    np.testing.assert_array_equal(nearest.numpy()[clear], expected[clear])


def test_a_parameter_without_a_range_has_one_position():
    head = Head("p", HeadSpec(256, 3.0, 3.0, 0.0))
    assert torch.equal(head.position_of_unit(torch.tensor([0.0, 0.7])), torch.zeros(2))
    assert torch.equal(head.value_of_unit(torch.tensor([0.0, 0.7])), torch.full((2,), 3.0))


def test_heads_weigh_by_their_just_noticeable_steps(heads):
    parsed = parse_heads(heads)
    assert weigh(parsed, None) == [11 / 255, 1.0]
    assert weigh(parsed, {}) == [11 / 255, 1.0]


def test_given_weights_win(heads):
    parsed = parse_heads(heads)
    assert weigh(parsed, {"note": 3, "decay": 0.5}) == [3.0, 0.5]
    assert weigh(parsed, {"decay": 0}) == [11 / 255, 0.0]


def test_a_head_without_a_range_weighs_nothing_unless_it_is_told_to(heads):
    heads["note"] |= {"minimum": 5.0, "maximum": 5.0}
    assert weigh(parse_heads(heads), None) == [0.0, 1.0]
    assert weigh(parse_heads(heads), {"note": 2.0}) == [2.0, 1.0]
    del heads["decay"]
    with pytest.raises(ConfigError, match=r"every head weighs 0 \(note: 0\), so there is nothing to train"):
        weigh(parse_heads(heads), None)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"velocity": 1.0}, "head_weights names 'velocity', which is no head. The heads are: note, decay"),
        ({"note": -1.0}, "head_weights.note is -1.0; expected a finite number, 0 or more"),
        ({"note": float("nan")}, "head_weights.note is nan; expected a finite number"),
        ({"note": "2"}, "head_weights.note is '2'; expected a finite number"),
        ({"note": 0, "decay": 0}, r"every head weighs 0 \(note: 0, decay: 0\)"),
    ],
)
def test_senseless_weights_are_refused(heads, weights, message):
    with pytest.raises(ConfigError, match=message):
        weigh(parse_heads(heads), weights)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({}, "a task needs one head at least"),
        ({"note": 12}, "heads.note holds 12; expected the keys classes, minimum, maximum, step"),
        ({"note": {"classes": 12}}, "heads.note holds classes; expected the keys classes, minimum, maximum, step"),
        (
            {"note": {"classes": 12, "minimum": "a", "maximum": 1, "step": 1}},
            "heads.note.minimum is 'a'; expected a finite number",
        ),
        ({"note": {"classes": 12, "minimum": 2, "maximum": 1, "step": 1}}, "heads.note has minimum 2.0 above maximum 1.0"),
        ({"avg": {"classes": 12, "minimum": 0, "maximum": 1, "step": 0}}, "a head cannot be named 'avg'"),
    ],
)
def test_senseless_heads_are_refused(broken, message):
    with pytest.raises(ConfigError, match=message):
        parse_heads(broken)
