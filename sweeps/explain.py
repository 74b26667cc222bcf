"""Errors of pydantic in this project's words. It knows sections of a search space, and neither files nor lines."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel

from sweeps.errors import suggestions
from sweeps.located_yaml import describe


def explain(model: type[BaseModel], detail: dict[str, Any]) -> str:
    """A pydantic error in this project's words."""
    location, found = detail["loc"], describe(detail["input"])
    match detail["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            for step in location[:-1]:
                model = _model(model.model_fields[step].annotation)
            return f"unknown key. {suggestions(str(location[-1]), names(model))}"
        case "literal_error":
            accepted = [text.strip("'") for text in re.findall(r"'[^']*'", detail["ctx"]["expected"])]
            return f"found {found}. {suggestions(str(detail['input']), accepted)}"
        case "value_error":  # the model's own words
            return detail["msg"].removeprefix("Value error, ")
        case _:
            return f"found {found}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _model(annotation: Any) -> type[BaseModel]:
    """The model of a section, which may be optional."""
    return next(each for each in (*get_args(annotation), annotation) if isinstance(each, type) and issubclass(each, BaseModel))


def names(model: type[BaseModel]) -> list[str]:
    """The keys that a section takes."""
    return [field.alias or name for name, field in model.model_fields.items()]
