"""Checks of a search space that concern several of its sections: objectives, outcome constraints, repeats, sources, trials that
train as one.

Parts of `space_reader.py`, which calls them; they compose nothing and open no other sweep.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from sweeps.distributions import Choice, PowerOfTwo
from sweeps.hydra_overrides import key_of
from sweeps.located_yaml import KeyPath, describe
from sweeps.outcomes import violations
from sweeps.schema import FIRST_ORDER, ORDER_SEED, OutcomeConstraint, Parameter, Search, Stopping

if TYPE_CHECKING:
    from sweeps.space_reader import SpaceReader

MOST_FUSED = 256


def outcome_constraints(reader: SpaceReader) -> tuple[OutcomeConstraint, ...]:
    """What stands under `outcome_constraints`."""
    value = reader.raw.get("outcome_constraints", [])
    if not isinstance(value, list):
        reader.problem(
            ("outcome_constraints",), f"a list such as [{{metric: val/loss, max: 0.5}}] is expected, found {describe(value)}"
        )
        return ()
    found: list[OutcomeConstraint] = []
    taken: dict[str, int] = {}
    for index, entry in enumerate(value):
        constraint = reader.validated(OutcomeConstraint, entry, ("outcome_constraints", index))
        if not constraint:
            continue
        for name in violations([constraint], {constraint.metric: 0.0}):
            bound = name.split()[1]  # >= or <=
            if (first := taken.setdefault(f"{constraint.metric} {bound}", index)) != index:
                there = reader.document.where(("outcome_constraints", first))
                side = "min" if bound == ">=" else "max"
                reader.problem(("outcome_constraints", index, side), f"{constraint.metric} has a {side} in {there} already")
        found.append(constraint)
    return tuple(found)


def several_objectives(reader: SpaceReader, number: int, search: Search | None, stopping: Stopping | None) -> None:
    """What is made for one objective only."""
    if search and search.sampler == "cmaes":
        able = "tpe, gp or nsgaii, or one that does not learn"
        reader.problem(("search", "sampler"), f"cmaes optimises one objective, and there are {number}: use {able}")
    if stopping and stopping.tolerance:
        what = f"is in one metric's unit, and there are {number} objectives, which rank by Pareto front: remove it"
        reader.problem(("stopping", "tolerance"), what)


def repeats(reader: SpaceReader, search: Search, trial: list[str]) -> None:
    """Repeats need seeds of their own, and trials that are comparable."""
    if search.repeats is None:
        return
    path: KeyPath = ("search", "repeats")
    fixed = next((index for index, text in enumerate(trial) if key_of(text) == "seed"), None)
    searched = next((key for key in reader.entries if key.lstrip("+") == "seed"), None)
    if fixed is not None:
        there = reader.document.where(("trial", fixed))
        reader.problem(path, f"each repeat has a seed of its own, and {there} fixes `seed`: remove one of the two")
    elif searched is not None:
        there = reader.document.where(("space", searched))
        reader.problem(path, f"each repeat has a seed of its own, and {there} searches `seed`: remove one of the two")
    stopping = reader.raw.get("stopping")
    if isinstance(stopping, dict) and stopping.get("scheduler") == "pbt":
        what = "under pbt a trial changes its parameters while it runs, so that there is no configuration to repeat: remove it"
        reader.problem(path, what)


def sources(reader: SpaceReader, search: Search, parameters: Mapping[str, Parameter]) -> None:
    """The sweeps to start from are named once each, for a sampler that can take them."""
    path: KeyPath = ("search", "from")
    for index, name in enumerate(search.sources):
        if name in search.sources[:index]:
            reader.problem((*path, index), f"{name} stands here twice")
        elif not name.strip():
            reader.problem((*path, index), "the name of another sweep, or the path of its directory, is expected")
    if not search.sources or search.sampler != "cmaes":
        return
    if search.sampler_options.get("use_separable_cma"):
        reader.problem(path, "cmaes with use_separable_cma cannot start from other trials: remove one of the two")
    ordered = [key for key, each in parameters.items() if each.when and not isinstance(each.distribution, Choice | PowerOfTwo)]
    if ordered:
        what = f"cmaes starts from other trials only where no number has a condition, and {ordered[0]} has one: use tpe"
        reader.problem(path, what)


def fuse(reader: SpaceReader) -> int | Literal["auto"]:
    """What stands under `fuse`."""
    value = reader.raw.get("fuse", 1)
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_FUSED):
        return value
    reader.problem(
        ("fuse",), f"how many trials train as one, from 1 to {MOST_FUSED}, or auto is expected, found {describe(value)}"
    )
    return 1


def fused(reader: SpaceReader, fuse: int | Literal["auto"], trial: list[str], stopping: Stopping) -> None:
    """Trials that train as one share the order of their batches, and cannot take over each other's checkpoints. `auto` says no
    more than it cannot (`validation.py`) where a number is refused."""
    if fuse == 1:
        return
    for index, text in enumerate(trial):
        if key_of(text) == FIRST_ORDER:
            reader.problem(("trial", index), f"where trials train as one, the sweep sets {FIRST_ORDER}: remove one of the two")
    if fuse == "auto":
        return
    for path, reason in unfusable(stopping.scheduler, reader.entries):
        reader.problem(path, f"{reason}: remove {'it' if path == ('fuse',) else 'one of the two'}")


def unfusable(scheduler: str, keys: Iterable[str]) -> Iterator[tuple[KeyPath, str]]:
    """What in a space by itself keeps its trials from training as one: the place, and why. Args: keys: of its parameters."""
    if scheduler == "pbt":
        yield ("fuse",), "networks that train as one cannot become copies of each other, as under pbt"
    for key in keys:
        if key.lstrip("+") in (ORDER_SEED, FIRST_ORDER):
            yield ("space", key), f"networks that train as one share the order of batches, which {key} decides"
