"""YAML that remembers the file and line of every key and item, so that an error can say where a wrong value stands.

It knows nothing of search spaces. Scalars follow the YAML 1.2 core schema (`off` and `no` are text, `1e-4` is a number);
duplicate keys are refused; so are tags, and aliases, which would let a value stand in two places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sweeps.errors import Problem, SpaceError

KeyPath = tuple[str | int, ...]
"""The way to a value: mapping keys and list indices, from the root."""

_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN\0"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own registry

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            problem = f"the alias *{event.anchor}: aliases are not supported, use `extends` to share settings"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem=f"the tag {event.tag}: tags are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's own registry


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes these line breaks as they are, and reads them back as spaces, unless it is made to escape them.
    style = '"' if set(text) & set("\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            _tag, re.compile(rf"^(?:{_pattern})$"), list(_first.replace("\0", "")) + [""] * ("\0" in _first)
        )


@dataclass(frozen=True)
class Where:
    """A place in a file; lines count from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{display(self.file)}:{self.line}"


@dataclass
class Document:
    """A value made of builtins, and where each of its parts stands."""

    file: Path
    value: Any
    lines: dict[KeyPath, Where] = field(default_factory=dict)

    def where(self, path: KeyPath = ()) -> str:
        """`file:line` of the part at `path`, or of the nearest enclosing part that is written down; else the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return str(self.lines[path[:end]])
        return display(self.file)


def display(file: Path) -> str:
    """`file` relative to the working directory where it lies below it."""
    try:
        return str(file.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def load(file: Path) -> Document:
    """Read the YAML file `file`, whose root must be a mapping.

    Raises:
        SpaceError: it cannot be read, is not YAML, holds a duplicate key, an alias or a key that is not text.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpaceError([Problem(display(file), f"not UTF-8 text (byte {error.start})")]) from error
    except OSError as error:
        raise SpaceError([Problem(display(file), f"cannot be read: {error.strerror}")]) from error
    return parse(text, file)


def parse(text: str, file: Path) -> Document:
    """The YAML in `text`, as `load` reads it from `file`. Raises SpaceError, as `load` does."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            document = Document(file, None)
            problems: list[Problem] = []
            if node is not None:
                document.value = _build(loader, node, (), document, problems)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = str(Where(file, mark.line + 1)) if mark else display(file)
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise SpaceError([Problem(where, f"not valid YAML: {what}")]) from error
    except yaml.YAMLError as error:
        raise SpaceError([Problem(display(file), f"not valid YAML: {' '.join(str(error).split())}")]) from error
    if not problems and not isinstance(document.value, dict):
        problems.append(Problem(display(file), f"a mapping is expected at the top, found {describe(document.value)}"))
    if problems:
        raise SpaceError(problems)
    return document


def _build(loader: _Loader, node: yaml.Node, path: KeyPath, document: Document, problems: list[Problem]) -> Any:
    """The value of `node`; what stands where is noted in `document`, duplicate and odd keys in `problems`."""
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, child in enumerate(node.value):
            document.lines[(*path, index)] = Where(document.file, child.start_mark.line + 1)
            items.append(_build(loader, child, (*path, index), document, problems))
        return items
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    for key_node, child in node.value:
        where = Where(document.file, key_node.start_mark.line + 1)
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            problems.append(Problem(str(where), f"a key must be text, found {key_node.value!r}: put it in quotes"))
        elif key in mapping:
            first = document.lines[(*path, key)]
            name = ".".join(map(str, (*path, key)))
            problems.append(Problem(str(where), f"{name} is given twice: first in line {first.line}, then here. Remove one"))
        else:
            document.lines[(*path, key)] = where
            mapping[key] = _build(loader, child, (*path, key), document, problems)
    return mapping


def dump(value: Mapping[str, Any]) -> str:
    """`value` as YAML that `load` reads back to an equal one."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def describe(value: Any) -> str:
    """What a value is, for an error.

    >>> describe(None), describe([1]), describe("tpe")
    ('nothing', 'the list [1]', "'tpe'")
    """
    if value is None:
        return "nothing"
    kind = {list: "the list ", dict: "the mapping "}.get(type(value), "")
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return kind + (text if len(text) <= 80 else text[:77] + "...")
