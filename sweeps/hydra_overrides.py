"""Hydra's override grammar: a key and a value to an override, and back. It knows nothing of search spaces or configs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

Scalar = bool | int | float | str | None


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def parse(text: str) -> Override:
    """Parse one override.

    Raises:
        ValueError: it is none, or it is a sweep of several values.
    """
    try:
        parsed = _parser().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the override {text!r} cannot be read ({reason}): key=value is expected, or +key=value to add a key, or ~key "
            "to delete one; quote a value that holds any of ,={}[]"
        ) from error
    if parsed.is_sweep_override():
        raise ValueError(f"the override {text!r} lists several values: what is searched belongs under `space`")
    return parsed


def key_of(text: Any) -> str | None:
    """The key that an override sets, without `+` or `~`; None for what is no override."""
    return _key_of(text) if isinstance(text, str) else None


@lru_cache(maxsize=4096)  # the same few overrides are asked about for every trial, and Hydra takes its time
def _key_of(text: str) -> str | None:
    try:
        return parse(text).get_key_element().lstrip("+~")
    except ValueError:
        return None


def value_of(overrides: Iterable[str], key: str, default: Any = None) -> Any:
    """What the first of `overrides` that sets `key` sets it to; `default` where none does."""
    return next((parse(text).value() for text in overrides if key_of(text) == key), default)


def value_text(value: Scalar | list[Any]) -> str:
    """How `value` is written in an override, so that Hydra reads back the same value of the same type.

    >>> value_text(0.1), value_text(None), value_text("vimh_cnn"), value_text("1"), value_text(["a", 2])
    ('0.1', 'null', 'vimh_cnn', "'1'", '[a,2]')
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if not isinstance(value, str):
        return repr(value)
    return value if _reads_back(value) else QuotedString(value, Quote.single).with_quotes()


@cache
def _reads_back(text: str) -> bool:
    """Whether Hydra reads the bare `text` as that very text, also within a list."""
    try:
        return parse(f"key=[{text}]").value() == [text]
    except ValueError:
        return False


def override(key: str, value: Scalar | list[Any]) -> str:
    """The override that sets `key` to `value`.

    >>> override("model.optimizer.lr", 1e-4)
    'model.optimizer.lr=0.0001'
    """
    return f"{key}={value_text(value)}"
