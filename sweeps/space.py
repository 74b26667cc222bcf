"""Search spaces: found by name, sampled, turned into Hydra overrides, written back to YAML.

It composes no config and runs nothing. The schema's page is search_spaces/README.md.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps.constraints import compile_constraint
from sweeps.errors import Problem, SpaceError
from sweeps.extends import load_extended
from sweeps.hydra_overrides import Scalar, override
from sweeps.located_yaml import describe, display
from sweeps.located_yaml import dump as dump_yaml
from sweeps.schema import Budget, GuardOptions, Objective, Parameter, Resources, Search, SearchSpace, Stopping
from sweeps.space_reader import read_space

if TYPE_CHECKING:
    import optuna

__all__ = [
    "Budget",
    "GuardOptions",
    "Objective",
    "Parameter",
    "Resources",
    "Search",
    "SearchSpace",
    "Stopping",
    "complete_start",
    "distributions",
    "dump",
    "load_space",
    "override",
    "overrides",
    "sample",
    "space_names",
    "suggest",
    "violated",
]

DEFAULT_DIRECTORY = Path("search_spaces")


def space_names(directory: Path | str = DEFAULT_DIRECTORY) -> list[str]:
    """The search spaces in `directory`. A file whose name starts with `_` is there for others to extend, and not listed."""
    return sorted(path.stem for path in Path(directory).glob("*.yaml") if not path.name.startswith("_"))


def load_space(name_or_path: str | Path, directory: Path | str = DEFAULT_DIRECTORY) -> SearchSpace:
    """Read a search space by its name in `directory`, or from a file (a `Path`, or text with a `/` or ending in `.yaml`).

    Raises:
        SpaceError: there is none (near names are listed), or something in it is wrong: every problem with file and line.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".yaml"):
        file = Path(name_or_path)
        if not file.is_file():
            near = get_close_matches(file.stem, space_names(file.parent), n=3)
            hint = f" Did you mean {' or '.join(str(file.parent / f'{name}.yaml') for name in near)}?" if near else ""
            raise SpaceError(f"There is no file {display(file)}.{hint}")
    else:
        file = Path(directory) / f"{text}.yaml"
        if not file.is_file():
            names = space_names(directory)
            near = get_close_matches(text, names, n=3, cutoff=0.5)
            hint = f"Did you mean {' or '.join(near)}? " if near else ""
            known = f"{hint}There are: {', '.join(names)}." if names else f"{display(Path(directory))} holds none."
            raise SpaceError(f"There is no search space {text!r}. {known}")
    space = read_space(load_extended(file), file.stem)
    _check_starts(space)
    return space


def _check_starts(space: SearchSpace) -> None:
    problems = []
    for index, start in enumerate(space.search.start_with):
        try:
            complete_start(space, start)
        except ValueError as error:
            problems.append(Problem(space.where(("search", "start_with", index)), f"search.start_with.{index}: {error}"))
    if problems:
        raise SpaceError(problems)


def suggest(space: SearchSpace, trial: optuna.trial.BaseTrial) -> dict[str, Scalar]:
    """Ask `trial` for every active parameter, those that conditions name first. The study holds each under its key."""
    chosen: dict[str, Scalar] = {}
    for key, parameter in space.parameters.items():
        if parameter.active(chosen):
            chosen[key] = parameter.distribution.suggest(trial, key)
    return chosen


def sample(space: SearchSpace, rng: random.Random, given: Mapping[str, Scalar] | None = None) -> dict[str, Scalar]:
    """Draw every active parameter from its distribution, without a study; those in `given` are as given."""
    given = given or {}
    chosen: dict[str, Scalar] = {}
    for key, parameter in space.parameters.items():
        if parameter.active(chosen):
            chosen[key] = given[key] if key in given else parameter.distribution.draw(rng)
    return chosen


def distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """What Optuna records for each parameter, active or not."""
    return {key: parameter.distribution.to_optuna() for key, parameter in space.parameters.items()}


def overrides(space: SearchSpace, parameters: Mapping[str, Scalar]) -> list[str]:
    """The Hydra overrides of a trial: the space's own, then its parameters.

    Args:
        parameters: as the study holds them; only active ones.
    """
    chosen = [override(key, space.parameters[key].distribution.to_config(value)) for key, value in parameters.items()]
    return [*space.trial, *chosen]


def violated(space: SearchSpace, parameters: Mapping[str, Scalar], network_size: Callable[[], int]) -> str | None:
    """The first constraint that `parameters` violate, with the numbers that it looked at; None if all hold.

    Args:
        network_size: counts the composed network's parameters; called at most once, and only if a constraint asks.

    Raises:
        SpaceError: a constraint cannot be evaluated on these values.
    """
    known: list[int] = []

    def size() -> int:
        if not known:
            known.append(network_size())
        return known[0]

    for index, text in enumerate(space.constraints):
        try:
            holds, values = compile_constraint(text, tuple(space.parameters)).holds(parameters, size)
        except ValueError as error:
            raise SpaceError([Problem(space.where(("constraints", index)), str(error))]) from error
        if not holds:
            return f"{text} ({', '.join(f'{key} = {value}' for key, value in values.items())})"
    return None


def complete_start(space: SearchSpace, start: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """`start` with the parameters that its own need to be active, each at the first value with which all that need it are.

    >>> # with `model.net.auxiliary_hidden_size: {choice: [8, 16], when: {model: vimh_cnn}}`
    >>> complete_start(space, {"model.net.auxiliary_hidden_size": 8})  # doctest: +SKIP
    {'model': 'vimh_cnn', 'model.net.auxiliary_hidden_size': 8}

    Raises:
        ValueError: they cannot all be active together; the message says over which parameter their conditions disagree.
    """
    complete: dict[str, Scalar] = {}
    needs: dict[str, dict[str, tuple[Scalar, ...]]] = {}
    # Conditions are met one parameter at a time, without a search: which others a parameter needs does not depend on its value.
    for key in reversed(space.parameters):  # all that need it come before it here
        needed = needs.get(key, {})
        if key in start:
            options: tuple[Scalar, ...] = (start[key],)
        elif needed:
            options = next(iter(needed.values()))
        else:
            continue
        fitting = [value for value in options if all(value in values for values in needed.values())]
        if not fitting:
            wanted = ", ".join(f"{name} needs {' or '.join(map(describe, values))}" for name, values in needed.items())
            given = f", and this setting has {describe(start[key])}" if key in start else ""
            raise ValueError(f"its parameters are never active together: of {key}, {wanted}{given}")
        complete[key] = fitting[0]
        for other, values in space.parameters[key].when:
            needs.setdefault(other, {})[key] = values
    return {key: complete[key] for key in space.parameters if key in complete}


def dump(space: SearchSpace) -> str:
    """The space as one YAML file, `extends` resolved and defaults filled in. `load_space` reads it back to an equal space."""
    entries: dict[str, Any] = {}
    for key, parameter in space.parameters.items():
        entries[key] = parameter.distribution.as_yaml()
        if parameter.when:
            entries[key]["when"] = {other: _one_or_several(values) for other, values in parameter.when}
    return dump_yaml(
        {
            "description": space.description,
            "trial": list(space.trial),
            "objective": _one_or_several([objective.model_dump() for objective in space.objectives]),
            "space": entries,
            "constraints": list(space.constraints),
            "outcome_constraints": [each.model_dump(exclude_none=True) for each in space.outcome_constraints],
            "search": _search(space.search),
            "stopping": _stopping(space.stopping),
            "resources": space.resources.model_dump(),
            "budget": space.budget.model_dump(),
            **({} if space.fuse == 1 else {"fuse": space.fuse}),
            **({} if space.storage is None else {"storage": space.storage}),
            **space.outputs.dump(),
        }
    )


def _one_or_several(values: Sequence[Any]) -> Any:
    """As a search space writes them: one bare, several as a list."""
    return values[0] if len(values) == 1 else list(values)


def _search(search: Search) -> dict[str, Any]:
    """Without repeats, where there are none."""
    entries = search.model_dump(by_alias=True)
    return {key: value for key, value in entries.items() if key != "repeats"} | (
        {"repeats": search.repeats.model_dump(exclude_none=True)} if search.repeats else {}
    )


def _stopping(stopping: Stopping) -> dict[str, Any]:
    """Without what has no effect: the reader refuses it."""
    entries = stopping.model_dump(exclude_none=True)
    if stopping.guard.mode == "off":
        entries["guard"] = {"mode": "off"}
    return entries
