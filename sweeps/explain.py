"""Errors of pydantic in this project's words. It knows sections of a search space, and neither files nor lines."""

from __future__ import annotations

import re
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

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
                model = _section(model.model_fields[step].annotation) or model
            return f"unknown key. {suggestions(str(location[-1]), names(model))}"
        case "literal_error":
            accepted = [text.strip("'") for text in re.findall(r"'[^']*'", detail["ctx"]["expected"])]
            return f"found {found}. {suggestions(str(detail['input']), accepted)}"
        case "model_type" | "list_type" if example := _example(_annotation(model, location), detail["input"]):
            return f"found {found}: {example} is expected"
        case "value_error":  # the model's own words
            return detail["msg"].removeprefix("Value error, ")
        case _:
            return f"found {found}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _annotation(model: type[BaseModel], location: tuple[int | str, ...]) -> Any:
    """What a section says of the key at `location`; None of what is below a list or a mapping without a model."""
    annotation: Any = model
    for step in location:
        section = _section(annotation)
        if section is None:
            return None
        annotation = {field.alias or name: field.annotation for name, field in section.model_fields.items()}.get(str(step))
    return annotation


def _example(annotation: Any, found: Any) -> str | None:
    """A mapping or a list such as is expected instead of a single value, which becomes its first; None if none is known."""
    section, first = _section(annotation), [found]
    try:
        if section is not None:
            first = {names(section)[0]: found}
        TypeAdapter(annotation).validate_python(first)
    except ValidationError:
        return f"a mapping with some of {', '.join(names(section))}" if section else None
    text = yaml.safe_dump(first, default_flow_style=True, width=1000).strip()
    return f"a {'mapping' if section else 'list'} such as {text}"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, which may be optional; None of anything else."""
    of = (*get_args(annotation), annotation)
    return next((each for each in of if isinstance(each, type) and issubclass(each, BaseModel)), None)


def names(model: type[BaseModel]) -> list[str]:
    """The keys that a section takes."""
    return [field.alias or name for name, field in model.model_fields.items()]
