"""Constraints over dotted keys."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps.constraints import compile_constraint

KEYS = ("model", "model.lr", "model.lambda", "data.batch_size", "+model.new", "optimizer/kind")
VALUES = {
    "model": "cnn",
    "model.lr": 0.01,
    "model.lambda": 2,
    "data.batch_size": 64,
    "+model.new": True,
    "optimizer/kind": "sgd",
}


def unused() -> int:
    raise AssertionError("the network must not be composed for this")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data.batch_size <= 64", True),
        ("data.batch_size < 64", False),
        ("32 < data.batch_size <= 64", True),
        ("model.lr * data.batch_size >= 0.64", True),
        ("model.lr < 1e-2", False),
        ("model.lr <= 1.0e-02", True),
        ("model == 'cnn'", True),
        ("model in ['mlp', \"sdn\"]", False),
        ("not model == 'model.lr'", True),  # a key within quotes is text
        ("model.lambda ** 3 == 8 and model.lambda % 2 == 0", True),
        ("max(model.lambda, 3) == 3 or model.lr > 1", True),
        ("min(data.batch_size, 10) // 3 == 3", True),
        ("(model.lr if model == 'cnn' else 1) < 0.1", True),
        ("model.new", True),
        ("optimizer/kind == 'sgd'", True),
        ("data.batch_size/2 == 32", True),
        ("-data.batch_size + 64 == 0", True),
    ],
)
def test_values(text: str, expected: bool) -> None:
    holds, _ = compile_constraint(text, KEYS).holds(VALUES, unused)
    assert holds is expected


def test_the_size_is_asked_for_only_by_those_that_use_it() -> None:
    constraint = compile_constraint("parameters <= 200_000 or model == 'mlp'", KEYS)
    assert constraint.needs_size
    assert constraint.keys == ["model"]
    assert constraint.holds(VALUES, lambda: 200_000) == (True, {"parameters": 200_000, "model": "cnn"})
    assert constraint.holds(VALUES, lambda: 200_001)[0] is False
    assert not compile_constraint("model.lr < 1", KEYS).needs_size


def test_one_on_an_inactive_parameter_holds_and_composes_nothing() -> None:
    constraint = compile_constraint("parameters < 10 and model.lambda > 5", KEYS)
    assert constraint.holds({"model": "cnn"}, unused) == (True, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model.lrr < 1",
            r"model.lrr is no parameter of this space. Did you mean model.lr or model or model.new\? Accepted: data.batch",
        ),
        ("parameter < 1", r"parameter is no parameter of this space. Did you mean parameters"),
        ("__import__('os').system('true')", "__import__ is no parameter"),
        ("model.__class__ == 1", "model.__class__ is no parameter"),
        ("model.lr <", "is no expression"),
        ("model.lr = 3", "is no expression"),
        ("", "is no expression"),
        ("model.lr < 1; model.lr > 0", "is no expression"),
        ("1 < 2", "uses no parameter, so it holds always or never"),
        ("[model for model in [1]]", "for is no parameter"),
        ("max(model, key=model)", "key is no parameter"),
        ("(lambda: model)()", "lambda is no parameter"),
        ("model[0] == 'c'", "uses Subscript, which is not accepted"),
        ("f'{model}' == 'cnn'", "f is no parameter"),
        ("{model: 1}", "uses Dict, which is not accepted"),
        ("max", "max is no parameter"),
        ("model.lr(1)", "uses Call, which is not accepted"),
    ],
)
def test_what_is_refused_when_a_space_is_read(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compile_constraint(text, KEYS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model < 3", "cannot be evaluated for model = cnn"),
        ("1 / (model.lambda - 2) > 0", "cannot be evaluated for model.lambda = 2: division by zero"),
        ("9 ** 9 ** 9 ** model.lambda > 0", "cannot be evaluated"),
        ("model.lr * 2", "gives 0.02 for model.lr = 0.01; true or false is expected"),
    ],
)
def test_what_is_refused_when_it_is_evaluated(text: str, message: str) -> None:
    constraint = compile_constraint(text, KEYS)
    with pytest.raises(ValueError, match=message):
        constraint.holds(VALUES, unused)


def test_a_key_named_as_a_function_is_told_from_its_call() -> None:
    constraint = compile_constraint("max(max, 2) < 3", ("max",))
    holds: Any = constraint.holds({"max": 1}, unused)[0]
    assert holds is True
