"""Reads a search space: a YAML document in, a `SearchSpace` or every problem that was found, each with file and line, out.

It checks all that can be known without composing a config; `validation.py` does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from sweeps import outputs, places, population_checks, space_checks
from sweeps.budgets import unpriced
from sweeps.constraints import compile_constraint
from sweeps.distributions import KINDS, Choice, Distribution, parse_distribution
from sweeps.errors import Problem, SpaceError, suggestions
from sweeps.explain import explain, names
from sweeps.hydra_overrides import Scalar, key_of, parse
from sweeps.located_yaml import Document, KeyPath, describe
from sweeps.sampler_options import SAMPLERS, unfit
from sweeps.schema import (
    PLATFORM_KEYS,
    SCHEDULER_OPTIONS,
    Budget,
    Objective,
    Parameter,
    Resources,
    Search,
    SearchSpace,
    Stopping,
)
from sweeps.settings import count

KEYS = (
    "description",
    "extends",
    "trial",
    "objective",
    "space",
    "constraints",
    "outcome_constraints",
    "search",
    "stopping",
    "resources",
    "budget",
    "fuse",
    "storage",
    *outputs.KEYS,
)
"""The top-level keys of a search space."""

_KEY = re.compile(r"\+{0,2}[A-Za-z_]\w*([./]\w+)*")
_Model = TypeVar("_Model", bound=BaseModel)


def read_space(document: Document, name: str) -> SearchSpace:
    """The space that `document` (with `extends` resolved) describes.

    Raises:
        SpaceError: with every problem found.
    """
    return SpaceReader(document).read(name)


class SpaceReader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.raw: dict[str, Any] = document.value
        space = self.raw.get("space")
        self.entries: dict[str, Any] = space if isinstance(space, dict) else {}
        """What stands under `space`, sound or not."""
        self.problems: list[Problem] = []

    def read(self, name: str) -> SearchSpace:
        for key in self.raw:
            if key not in KEYS:
                self.problem((key,), f"unknown key. {suggestions(key, KEYS)}")
        description = self.raw.get("description")
        if not isinstance(description, str):
            self.problem(("description",), f"a sentence that says what is asked is expected, found {describe(description)}")
        trial = self.texts("trial", "a list of Hydra overrides, such as [experiment=vimh, trainer.max_epochs=20]")
        constraints = self.texts("constraints", "a list of expressions, such as [parameters <= 200_000]")
        objectives = self.objectives()
        parameters = self.parameters()
        self.check_trial(trial, parameters)
        for index, text in enumerate(constraints):
            self.attempt(("constraints", index), compile_constraint, text, tuple(self.entries))
        outcomes = space_checks.outcome_constraints(self)
        search = self.search(parameters)
        if search:
            space_checks.repeats(self, search, trial)
        stopping = self.stopping()
        population_checks.perturbed(self, stopping, parameters)
        if len(objectives) > 1:
            space_checks.several_objectives(self, len(objectives), search, stopping)
        resources = self.section(Resources, "resources")
        budget = self.section(Budget, "budget")
        if budget and resources and (free := unpriced(budget, resources)):
            self.problem(("budget", "cost"), free)
        fuse = space_checks.fuse(self)
        if stopping:
            space_checks.fused(self, fuse, trial, stopping)
        storage, found = self.storage(), outputs.Outputs.read(self)
        if self.problems or not (objectives and search and stopping and resources and budget):
            raise SpaceError(sorted(dict.fromkeys(self.problems), key=lambda problem: _order(problem.where)))
        return SearchSpace(
            description=str(description),
            trial=tuple(trial),
            objectives=tuple(objectives),
            parameters=parameters,
            constraints=tuple(constraints),
            outcome_constraints=outcomes,
            search=search,
            stopping=stopping,
            resources=resources,
            budget=budget,
            fuse=fuse,
            storage=storage,
            outputs=found,
            name=name,
            document=self.document,
        )

    def problem(self, path: KeyPath, what: str) -> None:
        self.problems.append(Problem(self.document.where(path), f"{'.'.join(map(str, path))}: {what}"))

    def attempt(self, path: KeyPath, function: Any, *arguments: Any) -> Any:
        """What `function` returns; its ValueError becomes a problem at `path`, and None is returned."""
        try:
            return function(*arguments)
        except ValueError as error:
            self.problem(path, str(error))
            return None

    def canonical(self, path: KeyPath, distribution: Distribution, values: list[Any]) -> tuple[Scalar, ...]:
        """Those of `values` that `distribution` holds, as it holds them; the others are problems at `path`."""
        held = []
        for value in values:
            try:
                held.append(distribution.canonical(value))
            except ValueError as error:
                self.problem(path, str(error))
        return tuple(held)

    def storage(self) -> str | None:
        value = self.raw.get("storage")
        if "storage" in self.raw and not isinstance(value, str):
            self.problem(("storage",), f"a text is expected: {', '.join(places.ACCEPTED)}")  # what is there may be a password
            return None
        return None if value is None else str(self.attempt(("storage",), places.Place.parse, value))

    # Sections

    def section(self, model: type[_Model], name: str) -> _Model | None:
        return self.validated(model, self.raw.get(name, {}), (name,))

    def validated(self, model: type[_Model], value: Any, path: KeyPath) -> _Model | None:
        if not isinstance(value, dict):
            fields = ", ".join(names(model))
            self.problem(path, f"a mapping with some of {fields} is expected, found {describe(value)}")
            return None
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors():
                self.problem((*path, *detail["loc"]), explain(model, dict(detail)))
            return None

    def texts(self, name: str, expected: str) -> list[str]:
        value = self.raw.get(name, [])
        try:
            return TypeAdapter(list[str]).validate_python(value, strict=True)
        except ValidationError as error:
            for detail in error.errors():
                self.problem((name, *detail["loc"]), f"{expected} is expected, found {describe(detail['input'])}")
            return []

    def objectives(self) -> list[Objective]:
        """What stands under `objective`, one mapping or a list of them."""
        value = self.raw.get("objective")
        if value is None or value == []:
            self.problem(("objective",), "is missing: {metric: val/avg_acc, mode: max}")
            return []
        entries = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        found: list[Objective] = []
        for index, entry in entries:
            path: KeyPath = ("objective",) if index is None else ("objective", index)
            objective = self.validated(Objective, entry, path)
            if objective and objective.metric in [other.metric for other in found]:
                self.problem(path, f"{objective.metric} is an objective already")
            elif objective:
                found.append(objective)
        return found

    def stopping(self) -> Stopping | None:
        value = self.raw.get("stopping", {})
        if not isinstance(value, dict):
            return self.section(Stopping, "stopping")
        scheduler = value.get("scheduler", Stopping.model_fields["scheduler"].default)
        if isinstance(scheduler, str) and scheduler in SCHEDULER_OPTIONS:
            taken = SCHEDULER_OPTIONS[scheduler]
            for key in value:
                takers = [name for name, options in SCHEDULER_OPTIONS.items() if key in options]
                if takers and key not in taken:
                    what = f"has no effect under {scheduler}: remove it, or choose a scheduler that takes it: "
                    self.problem(("stopping", key), what + ", ".join(takers))
            value = taken | value
        guard = value.get("guard")
        if isinstance(guard, dict) and guard.get("mode") == "off":
            for key in guard:
                if key != "mode":
                    self.problem(("stopping", "guard", key), "has no effect while the guard is off: remove it")
        return self.validated(Stopping, value, ("stopping",))

    def check_trial(self, trial: list[str], parameters: Mapping[str, Parameter]) -> None:
        seen: dict[str, int] = {}
        searched = {key.lstrip("+"): key for key in self.entries}
        for index, text in enumerate(trial):
            path = ("trial", index)
            if self.attempt(path, parse, text) is None:
                continue
            key = str(key_of(text))
            if key in PLATFORM_KEYS:
                self.problem(path, f"{key} is set by the platform: {PLATFORM_KEYS[key]}")
            if key in seen:
                self.problem(path, f"{key} is set twice: first in {self.document.where(('trial', seen[key]))}, then here")
            if key in searched:
                there = self.document.where(("space", searched[key]))
                self.problem(path, f"{key} is fixed here and searched in {there}: remove one of them")
            seen[key] = index

    # Parameters

    def parameters(self) -> dict[str, Parameter]:
        if not self.entries:
            given = describe(self.raw.get("space"))
            self.problem(("space",), f"a mapping from override keys to what to search is expected, found {given}")
            return {}
        found: dict[str, Distribution] = {}
        for key, entry in self.entries.items():
            if not _KEY.fullmatch(key):
                self.problem(("space", key), "an override key is expected, such as model, model.optimizer.lr or +model.new_key")
            elif key.lstrip("+") in PLATFORM_KEYS:
                self.problem(("space", key), f"is set by the platform: {PLATFORM_KEYS[key.lstrip('+')]}")
            elif distribution := self.distribution(key, entry):
                found[key] = distribution
        parameters = {key: Parameter(key, distribution, self.conditions(key, found)) for key, distribution in found.items()}
        return self.ordered(parameters)

    def distribution(self, key: str, entry: Any) -> Distribution | None:
        path = ("space", key)
        if isinstance(entry, list):
            return self.attempt(path, Choice.parse, entry)
        if not isinstance(entry, dict):
            self.problem(
                path,
                f"a list of options or a distribution is expected, found {describe(entry)}; what is fixed belongs under "
                f"`trial`. Distributions: {', '.join(KINDS)}.",
            )
            return None
        kinds = [name for name in entry if name in KINDS]
        if len(kinds) != 1:
            stray = next((name for name in entry if name not in {"step", "clip", "when"} | set(KINDS)), None)
            if not kinds and stray is not None:
                self.problem((*path, stray), f"unknown distribution. {suggestions(stray, list(KINDS))}")
            else:
                there = " and ".join(kinds) or "none"
                self.problem(path, f"one distribution is expected, found {there}. Accepted: {', '.join(KINDS)}.")
            return None
        kind = kinds[0]
        accepted = [kind, *KINDS[kind], "when"]
        unknown = [name for name in entry if name not in accepted]
        for name in unknown:
            self.problem((*path, name), f"does not go with {kind}. {suggestions(name, accepted)}")
        return self.attempt((*path, kind), parse_distribution, entry, kind) if not unknown else None

    def conditions(self, key: str, found: Mapping[str, Distribution]) -> tuple[tuple[str, tuple[Scalar, ...]], ...]:
        entry = self.entries[key]
        if not isinstance(entry, dict) or "when" not in entry:
            return ()
        path = ("space", key, "when")
        when = entry["when"]
        if not isinstance(when, dict) or not when:
            self.problem(path, f"a mapping from a parameter to its value or values is expected, found {describe(when)}")
            return ()
        conditions = []
        for other, wanted in when.items():
            here = (*path, other)
            if other not in self.entries:
                others = [name for name in self.entries if name != key]
                self.problem(here, f"there is no parameter {other}. {suggestions(other, others)}")
            elif other in found and not found[other].finite:
                self.problem(here, f"{other} is continuous, so it never takes a given value: give it a step, or choose another")
            elif other in found:
                values = wanted if isinstance(wanted, list) else [wanted]
                if not values:
                    self.problem(here, "at least one value is expected, found an empty list")
                accepted = self.canonical(here, found[other], values)
                if accepted:
                    conditions.append((other, accepted))
        return tuple(conditions)

    def ordered(self, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        """A parameter after those that its conditions name, else as in the file; cycles and impossible chains are problems."""
        ordered: dict[str, Parameter] = {}
        waiting = dict(parameters)
        while waiting:
            ready = [p for p in waiting.values() if not any(other in waiting for other, _ in p.when)]
            if not ready:
                cycle = _cycle(waiting)
                self.problem(("space", cycle[0], "when"), f"the conditions go in a circle: {' needs '.join(cycle)}")
                return parameters
            ordered[ready[0].key] = waiting.pop(ready[0].key)
        needs: dict[str, dict[str, set[Scalar]]] = {}
        for key, parameter in ordered.items():
            needs[key] = {}
            for other, values in parameter.when:
                for name, accepted in [(other, set(values)), *needs.get(other, {}).items()]:
                    before = needs[key].get(name)
                    needs[key][name] = accepted if before is None else before & accepted
                    if before is not None and not needs[key][name]:
                        what = f"is never active: its conditions ask for different values of {name}"
                        self.problem(("space", key, "when"), what)
        return ordered

    # Search

    def search(self, parameters: Mapping[str, Parameter]) -> Search | None:
        search = self.section(Search, "search")
        if search is None:
            return None
        self.sampler_options(search, parameters)
        space_checks.sources(self, search, parameters)
        if len(search.start_with) > search.trials:
            what = f"{len(search.start_with)} settings to start with, but trials is {search.trials}"
            self.problem(("search", "start_with"), what)
        if search.sampler == "grid" and "trials" not in self.raw["search"]:
            search = search.model_copy(update={"trials": count(parameters) or 1})
        starts = []
        for index, start in enumerate(search.start_with):
            path = ("search", "start_with", index)
            given = {}
            for key, value in start.items():
                if key not in parameters:
                    if key not in self.entries:
                        self.problem((*path, key), f"is no parameter of this space. {suggestions(key, list(parameters))}")
                    continue
                for held in self.canonical((*path, key), parameters[key].distribution, [value]):
                    given[key] = held
            for key in given:
                for other, values in parameters[key].when:
                    if other in given and given[other] not in values:
                        accepted = " or ".join(map(describe, values))
                        what = f"is active only if {other} is {accepted}, and this setting has {describe(given[other])}"
                        self.problem((*path, key), what)
            starts.append(given)
        return search.model_copy(update={"start_with": starts})

    def sampler_options(self, search: Search, parameters: Mapping[str, Parameter]) -> None:
        model, path = SAMPLERS[search.sampler], ("search", "sampler_options")
        unknown = [name for name in search.sampler_options if name not in model.model_fields]
        for name in unknown:
            accepted = suggestions(name, list(model.model_fields))
            self.problem((*path, name), f"is no option of {search.sampler}. {accepted}")
        options = None if unknown else self.validated(model, search.sampler_options, path)
        if options is not None:
            for where, what in unfit(search.sampler, options, parameters):
                self.problem(where or ("search", "sampler"), what)


def _cycle(waiting: Mapping[str, Parameter]) -> list[str]:
    """Parameters of which each needs the next, and the last is the first."""
    chain = [next(iter(waiting))]
    while chain[-1] not in chain[:-1]:
        chain.append(next(other for other, _ in waiting[chain[-1]].when if other in waiting))
    return chain[chain.index(chain[-1]) :]


def _order(where: str) -> tuple[str, int]:
    file, _, line = where.rpartition(":")
    return (file, int(line)) if line.isdigit() else (where, 0)
