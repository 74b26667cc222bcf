"""Whether the values of a config are of the types that its classes announce, so that a wrong one is refused by its key.

Looks at plain values alone (numbers, words, true and false), and at arguments whose annotation says nothing but such. It
instantiates nothing: what a value means is the class's own business.
"""

import inspect
import pydoc
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from lhtx.errors import ConfigError

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def check_types(node: Any, key: str) -> None:
    """Refuses a value below `node` that the class of its mapping does not take.

    Args:
        node: a config as plain containers, resolved; every mapping in it with a `_target_` is looked at.
        key: where it stands in the whole config.

    Raises:
        ConfigError: the key, the value and what is accepted.
    """
    if not isinstance(node, Mapping):
        return
    hints = _hints(node["_target_"]) if isinstance(node.get("_target_"), str) else {}
    for name, value in node.items():
        check_types(value, f"{key}.{name}")
        accepted = _plain(hints[name]) if name in hints else None
        if accepted and isinstance(value, int | float | str) and not any(_is(value, kind) for kind in accepted):
            words = [WORDS.get(kind) or str(kind) for kind in accepted if kind is not int or float not in accepted]
            raise ConfigError(f"{key}.{name} is {value!r}; expected {', '.join(dict.fromkeys(words))}")


def check_switches(node: Mapping[str, Any], key: str = "") -> None:
    """Raises ConfigError for a value of `node`, which stands at `key`, that is neither true nor false."""
    for name, value in node.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{key}{'.' if key else ''}{name} is {value!r}; expected true or false")


def check_choice(value: Any, key: str, accepted: tuple[str, ...]) -> None:
    """Raises ConfigError for a `value` of `key` that is not among the `accepted` ones."""
    if value not in accepted:
        raise ConfigError(f"{key} is {value!r}; expected {' or '.join(accepted)}")


def _hints(target: str) -> dict[str, Any]:
    """Argument → annotation of the class or function `target`; of a class that hands options on, those of its bases too."""
    try:
        call: Any = pydoc.locate(target)
    except pydoc.ErrorDuringImport:
        call = None
    if not callable(call):
        return {}  # `instantiate` refuses it by name
    hints: dict[str, Any] = {}
    for function in [base.__init__ for base in call.__mro__ if "__init__" in vars(base)] if inspect.isclass(call) else [call]:
        try:
            hints = get_type_hints(function) | hints
            parameters = inspect.signature(function).parameters.values()
        except (NameError, TypeError, ValueError):  # annotations that name what is imported for type checkers alone; builtins
            break
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return hints


def _plain(hint: Any) -> tuple[Any, ...] | None:
    """The types and literal values that `hint` allows; None where it allows more than plain values and tensors."""
    if get_origin(hint) in (Union, UnionType):
        parts = [_plain(part) for part in get_args(hint)]
        return None if None in parts else tuple(kind for part in parts for kind in part)
    if get_origin(hint) is Literal:
        return get_args(hint)
    if hint is Tensor:  # no config can hold one
        return ()
    return (hint,) if hint in (int, float, bool, str, type(None)) else None


def _is(value: int | float | str, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind) if isinstance(kind, type) else type(value) is type(kind) and value == kind
