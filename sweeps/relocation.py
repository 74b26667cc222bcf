"""The same directory under two paths: where a sweep keeps it, and where a node has its copy. It rewrites paths in plain values,
and knows neither files nor nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Places = Sequence[tuple[str, str]]
"""(path where the driver runs, path of the copy on this node), absolute and without a final slash."""


def relocated(value: Any, before: str, after: str) -> Any:
    """`value` with every text in it that is `before`, or lies under it, starting with `after` instead.

    >>> relocated({"dirpath": "/runs/a/x", "score": 1}, "/runs/a", "/runs/b")
    {'dirpath': '/runs/b/x', 'score': 1}
    """
    if isinstance(value, str):
        return after + value[len(before) :] if value == before or value.startswith(f"{before}/") else value
    if isinstance(value, Mapping):
        return {relocated(key, before, after): relocated(item, before, after) for key, item in value.items()}
    return value


def local(path: str, places: Places) -> str:
    """Where this node has `path`: under the nearest of `places`, or where it is.

    >>> local("/data/mnist", [("/data", "/tmp/d"), ("/data/mnist", "/tmp/m")])
    '/tmp/m'
    """
    above = [(there, here) for there, here in places if path == there or path.startswith(f"{there}/")]
    return relocated(path, *max(above, key=lambda place: len(place[0]))) if above else path
