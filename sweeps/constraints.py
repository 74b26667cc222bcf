"""Constraints: arithmetic over the dotted keys of parameters and `parameters`, the composed network's size.

simpleeval evaluates them, after every part of the expression has been checked against a short list when the space is read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from simpleeval import EvalWithCompoundTypes, InvalidExpression

from sweeps.errors import suggestions
from sweeps.hydra_overrides import Scalar

SIZE = "parameters"
"""The name that stands for the number of trainable parameters of the composed network."""

FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "max": max, "min": min, "round": round}

_TOKEN = re.compile(
    r"""(?P<text>'[^']*'|"[^"]*")|(?P<number>\d[\w.]*(?:(?<=[eE])[-+]\d+)?|\.\d\w*)|(?P<name>[A-Za-z_]\w*(?:[./](?=[A-Za-z_])\w+)*)"""
)
_WORDS = {"and", "or", "not", "in", "if", "else", "True", "False", "None"}
_NODES = (
    *(ast.Expression, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Compare, ast.IfExp, ast.Call, ast.Constant, ast.Name),
    *(ast.List, ast.Tuple, ast.Load, ast.boolop, ast.unaryop, ast.operator, ast.cmpop),
)


@dataclass(frozen=True)
class Constraint:
    """One constraint, ready to be evaluated."""

    text: str
    code: str
    """`text` with a safe name in the place of each key."""
    names: tuple[tuple[str, str], ...]
    """(safe name, key) of everything that the expression uses."""

    @property
    def keys(self) -> list[str]:
        """The parameters that it uses; `parameters` is none of them."""
        return [key for _, key in self.names if key != SIZE]

    @property
    def needs_size(self) -> bool:
        """Whether the network must be composed to tell."""
        return any(key == SIZE for _, key in self.names)

    def holds(self, parameters: Mapping[str, Scalar], size: Callable[[], int]) -> tuple[bool, dict[str, Any]]:
        """Whether `parameters` satisfy it, and the numbers that it looked at. One that uses an inactive parameter says
        nothing about this trial, and holds.

        Args:
            parameters: the active parameters.
            size: counts the composed network's parameters; called only if the expression uses them.

        Raises:
            ValueError: the expression cannot be evaluated on these values, or gives something else than true or false.
        """
        if not all(key in parameters for key in self.keys):
            return True, {}
        values = {key: size() if key == SIZE else parameters[key] for _, key in self.names}
        names = {safe: values[key] for safe, key in self.names} | {"True": True, "False": False, "None": None}
        shown = ", ".join(f"{key} = {value}" for key, value in values.items())
        try:
            result = EvalWithCompoundTypes(functions=FUNCTIONS, names=names).eval(self.code)
        except (InvalidExpression, ArithmeticError, TypeError, ValueError) as error:
            raise ValueError(f"the constraint {self.text!r} cannot be evaluated for {shown}: {error}") from error
        if not isinstance(result, bool):
            raise ValueError(f"the constraint {self.text!r} gives {result!r} for {shown}; true or false is expected")
        return result, values


def compile_constraint(text: str, keys: Collection[str]) -> Constraint:
    """Check the expression `text` over the parameters `keys` (and `parameters`).

    Raises:
        ValueError: it is no expression, or uses a name or a construct that is not accepted.
    """
    return _compile(text, tuple(keys))


@lru_cache(maxsize=256)
def _compile(text: str, keys: tuple[str, ...]) -> Constraint:
    plain = {key.lstrip("+"): key for key in keys} | {SIZE: SIZE}
    safe: dict[str, str] = {}
    unknown: list[str] = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name is None or name in _WORDS:
            return match[0]
        if name in FUNCTIONS and text[match.end() :].lstrip().startswith("("):
            return name
        if name not in plain:
            unknown.append(name)
            return "unknown"
        return safe.setdefault(plain[name], f"p{len(safe)}")

    code = _TOKEN.sub(replace, text)
    if unknown:
        raise ValueError(f"{unknown[0]} is no parameter of this space. {suggestions(unknown[0], sorted(plain))}")
    try:
        tree = ast.parse(code.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r} is no expression ({error.msg}); an example: parameters <= 200_000") from error
    for node in ast.walk(tree):
        call = isinstance(node, ast.Call)
        if not isinstance(node, _NODES) or (call and (node.keywords or getattr(node.func, "id", None) not in FUNCTIONS)):
            raise ValueError(
                f"{text!r} uses {type(node).__name__}, which is not accepted: numbers, texts, parameters, comparisons, "
                f"arithmetic, and, or, not, in, and the functions {', '.join(FUNCTIONS)} are"
            )
    if not safe:
        raise ValueError(f"{text!r} uses no parameter, so it holds always or never. Accepted: {', '.join(sorted(plain))}.")
    return Constraint(text, code.strip(), tuple((name, key) for key, name in safe.items()))
