"""`extends`: one search space built on another. Reads the chain of files and merges them, keeping where each part stands.

The rule, nearest file wins: mappings merge key by key; a parameter of `space`, a list or a plain value replaces what was
there; `trial` is joined, an override replacing an earlier one of the same key; `null` takes an inherited entry out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.errors import Problem, SpaceError
from sweeps.hydra_overrides import key_of
from sweeps.located_yaml import Document, KeyPath, describe, display, load


def load_extended(file: Path) -> Document:
    """The document in `file` with everything that it extends; the result has no `extends`.

    Raises:
        SpaceError: a file cannot be read, extends something that is no file, or a chain comes back to itself.
    """
    return _load(file, ())


def _load(file: Path, chain: tuple[Path, ...]) -> Document:
    document = load(file)
    if "extends" not in document.value:
        return document
    target = document.value["extends"]
    where = document.where(("extends",))
    if not isinstance(target, str):
        raise SpaceError([Problem(where, f"extends: the name of one file is expected, found {describe(target)}")])
    base = file.parent / target
    if not base.is_file():
        near = ", ".join(sorted(path.name for path in base.parent.glob("*.yaml") if path.resolve() != file.resolve()))
        there = f"That directory holds: {near}" if near else "That directory holds no YAML file"
        raise SpaceError([Problem(where, f"extends: there is no file {display(base)}. {there}")])
    seen = (*chain, file.resolve())
    if base.resolve() in seen:
        circle = [*seen[seen.index(base.resolve()) :], base]
        names = " → ".join(display(path) for path in circle)
        raise SpaceError([Problem(where, f"extends: a file cannot extend itself: {names}")])
    inherited = _load(base, seen)
    merged = Document(file, {})
    del document.value["extends"]
    merged.value = _merge(inherited, document, (), merged)
    return merged


def _merge(base: Document, extension: Document, path: KeyPath, into: Document) -> dict[str, Any]:
    old, new = _at(base, path), _at(extension, path)
    merged: dict[str, Any] = {}
    for key in dict.fromkeys([*old, *new]):
        here = (*path, key)
        if key not in new:
            merged[key] = _take(base, here, into)
        elif key in old and new[key] is None:
            continue
        elif here == ("trial",) and isinstance(old.get(key), list) and isinstance(new[key], list):
            merged[key] = _join(base, extension, here, into)
        elif isinstance(old.get(key), dict) and isinstance(new[key], dict) and path != ("space",):
            into.lines[here] = extension.lines[here]
            merged[key] = _merge(base, extension, here, into)
        else:
            merged[key] = _take(extension, here, into)
    return merged


def _join(base: Document, extension: Document, path: KeyPath, into: Document) -> list[Any]:
    """The lists of both, an item of `extension` in the place of the one of `base` that sets the same key."""
    places = [(base, index) for index in range(len(_at(base, path)))]
    keys = [key_of(item) for item in _at(base, path)]
    for index, item in enumerate(_at(extension, path)):
        key = key_of(item)
        if key is not None and key in keys:
            places[keys.index(key)] = (extension, index)
        else:
            places.append((extension, index))
    into.lines[path] = extension.lines[path]
    for position, (document, index) in enumerate(places):
        into.lines[(*path, position)] = document.lines[(*path, index)]
    return [_at(document, path)[index] for document, index in places]


def _take(document: Document, path: KeyPath, into: Document) -> Any:
    """The part of `document` at `path`, with its lines."""
    into.lines.update({other: where for other, where in document.lines.items() if other[: len(path)] == path})
    return _at(document, path)


def _at(document: Document, path: KeyPath) -> Any:
    value = document.value
    for step in path:
        value = value[step]
    return value
