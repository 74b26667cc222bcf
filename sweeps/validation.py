"""Validates a search space for real, before any trial: composes what it can ask for, and counts what it would run.

Nothing is trained and no weight is allocated; a dataset that is missing is made if the config says how.
"""

from __future__ import annotations

import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from omegaconf import OmegaConf

from lhtx.compose import BETTER, describe
from lhtx.errors import ConfigError, DatasetError
from sweeps import population_checks, resources
from sweeps.constraints import SIZE, compile_constraint
from sweeps.errors import Problem, SpaceError, suggestions
from sweeps.hydra_overrides import Scalar, key_of
from sweeps.located_yaml import KeyPath
from sweeps.sampler_options import independent
from sweeps.schema import Objective, SearchSpace
from sweeps.settings import count
from sweeps.space import complete_start, overrides, sample, violated
from sweeps.validated import Sizes, Validation

if TYPE_CHECKING:
    from lhtx.compose import Description

DRAWS = 1000
"""How many settings are drawn to estimate the share that constraints reject: its standard error is at most 1.6 %."""
DRAWS_TO_COMPOSE = 50
"""The same if a constraint asks for the network's size, which takes composing it: at most 7 %."""


def validate(space: SearchSpace, samples: int | None = None) -> Validation:
    """Compose the base config, every option of every choice and both ends of each range (each with what its conditions
    need), at least `samples` settings drawn at random, and the settings to start with.

    Args: samples: five for each parameter, and at most 20, if not given.

    Raises:
        SpaceError: something does not compose, the objective is never logged, or the constraints leave nothing, or nothing of a
            setting to start with; with the file and line of the override to blame.
        lhtx.errors.DatasetError: the base config's dataset cannot be read or made.
    """
    return _Validator(space).validate(samples or min(20, 5 * len(space.parameters)))


class _Validator:
    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.problems: list[Problem] = []
        self.known: dict[tuple[str, ...], Description] = {}
        keys = tuple(space.parameters)
        self.composing = any(compile_constraint(text, keys).needs_size for text in space.constraints)
        """Whether a constraint asks for the network's size. Any parameter may change that, alone or together with others, so
        that it takes composing the whole setting."""

    def describe(self, chosen: Sequence[str]) -> Description:
        key = tuple(chosen)
        if key not in self.known:
            self.known[key] = describe(list(chosen))
        return self.known[key]

    def validate(self, samples: int) -> Validation:
        start = time.monotonic()
        self.base()
        self.each_value()
        self.stop_if_problems()
        sizes = self.drawn(max(samples, DRAWS_TO_COMPOSE) if self.composing else samples)
        self.stop_if_problems()
        rejected = self.rejected()
        self.starts()
        self.stop_if_problems()
        group_size, told = self.fused(sizes)
        self.stop_if_problems()
        return Validation(
            parameters=len(self.space.parameters),
            conditional=sum(bool(parameter.when) for parameter in self.space.parameters.values()),
            constraints=len(self.space.constraints),
            rejected=rejected,
            sizes={name: Sizes(min(found), round(median(found)), max(found)) for name, found in sorted(sizes.items())},
            composed=len(self.known),
            seconds=time.monotonic() - start,
            notes=(*self.notes(), *told),
            group_size=group_size,
        )

    def fused(self, sizes: Mapping[str, Sequence[int]]) -> tuple[int, list[str]]:
        """How many trials train as one, and what is to be said of that. Args: sizes: of networks that the space holds."""
        space = self.space
        if space.fuse == 1:
            return 1, []
        from sweeps import fusing

        settings = self.draws(2)
        for key, parameter in space.parameters.items():
            ends = parameter.distribution.ends()
            settings += [{**needed, key: value} for needed in self.activations(key)[:1] for value in (ends[0], ends[-1])]
        reasons = fusing.refused(space, settings)
        if space.fuse == "auto":
            group_size, told = fusing.size(space, reasons, max((max(found) for found in sizes.values() if found), default=0))
            return group_size, [told]
        for path, reason in reasons:
            self.problem(path, f"fuse: {space.fuse} is asked for, and {reason}" if path != ("fuse",) else reason)
        return space.fuse, []

    def notes(self) -> Iterator[str]:
        sampler = self.space.search.sampler
        for key, why in independent(sampler, self.space.parameters).items():
            yield f"{sampler} draws {key} at random, by itself: it {why}"
        blind = sampler in {"random", "qmc", "grid"}
        if self.space.search.sources and blind:
            yield f"{sampler} does not learn: the trials of other sweeps (search.from) change nothing"
        if self.space.outcome_constraints and (blind or sampler == "cmaes"):
            yield f"{sampler} leaves outcome constraints aside: only what is best is looked for within them"
        settings = count(self.space.parameters)
        if settings is not None and settings < self.space.search.trials:
            wanted = self.space.search.trials
            yield f"the space holds {settings} settings, and {wanted} trials are asked for: it ends with the last setting"
        workers = OmegaConf.select(self.describe(self.space.trial).config, "data.num_workers", default=0)
        yield from resources.notes(self.space.resources, workers or 0)

    def stop_if_problems(self) -> None:
        if self.problems:
            raise SpaceError(self.problems)

    def problem(self, path: KeyPath, what: str) -> None:
        problem = Problem(self.space.where(path), f"{'.'.join(map(str, path))}: {what}")
        if problem not in self.problems:
            self.problems.append(problem)

    def base(self) -> None:
        """What every trial starts from; nothing else can be judged while it does not compose."""
        space = self.space
        try:
            description = self.describe(space.trial)
        except ConfigError as error:
            culprit = blamed(space.trial, str(error))
            path: KeyPath = ("trial",) if culprit is None else ("trial", culprit)
            raise SpaceError([Problem(space.where(path), f"trial: {error}")]) from error
        max_epochs = OmegaConf.select(description.config, "trainer.max_epochs")
        if "trainer.max_epochs" not in space.parameters:
            self.stopping_fits(max_epochs or -1)

    def stopping_fits(self, max_epochs: int) -> None:
        """The scheduler has an epoch at which it can stop a trial of `max_epochs` (-1: without end)."""
        stopping, name = self.space.stopping, self.space.stopping.scheduler
        needed = {"asha": "grace_epochs", "median": "grace_epochs", "constant": "cutoff_epochs"}.get(name)
        if name == "hyperband":
            needed, first = "grace_epochs", (stopping.grace_epochs or 1) * (stopping.reduction_factor or 1)
            if max_epochs < 0:
                what = "hyperband divides a trial's epochs among its brackets: set trainer.max_epochs under `trial`"
                self.problem(("stopping", "scheduler"), what)
            elif first > max_epochs:
                what = f"times reduction_factor is {first:g}, and a trial ends after {max_epochs} epochs (trainer.max_epochs)"
                self.problem(("stopping", needed), f"{what}: hyperband would never stop one")
        elif name == "pbt" and 0 <= max_epochs < 2 * (stopping.interval_epochs or 1):
            what = f"is {stopping.interval_epochs}, and a trial ends after {max_epochs} epochs (trainer.max_epochs)"
            self.problem(("stopping", "interval_epochs"), f"{what}: pbt needs a whole interval more to train a copy")
        elif needed and 0 <= max_epochs <= getattr(stopping, needed):
            what = f"is {getattr(stopping, needed)}, and a trial ends after {max_epochs} epochs (trainer.max_epochs)"
            self.problem(("stopping", needed), f"{what}: {name} would never stop one")

    def composes(self, chosen: Sequence[str]) -> bool:
        try:
            self.describe(chosen)
        except (ConfigError, DatasetError):
            return False
        return True

    def each_value(self) -> None:
        """Every option and end alone on the base, so that there is no doubt about which override is to blame."""
        for key, parameter in self.space.parameters.items():
            for needed in self.activations(key):
                if needed and not self.composes(overrides(self.space, needed)):
                    continue  # reported for the parameter that the condition names
                found = {value: self.attempt({**needed, key: value}, ("space", key)) for value in parameter.distribution.ends()}
                self.perturbed(key, {value: each for value, each in found.items() if each})

    def perturbed(self, key: str, ends: Mapping[Scalar, Description]) -> None:
        """What a copy takes over changed leaves all that a checkpoint holds as it is."""
        wanted = self.space.stopping.perturb or []
        if key in wanted and ends:
            for what in population_checks.changed(key, ends):
                self.problem(("stopping", "perturb", wanted.index(key)), what)

    def activations(self, key: str) -> list[dict[str, Scalar]]:
        """Settings of other parameters that make `key` active: one for each value of its first condition."""
        parameter = self.space.parameters[key]
        if not parameter.when:
            return [{}]
        first, values = parameter.when[0]
        found = []
        for value in values:
            try:
                setting = complete_start(self.space, {first: value, key: parameter.distribution.ends()[0]})
            except ValueError:
                continue  # the other conditions need another value of the first
            del setting[key]
            found.append(setting)
        return found

    def attempt(self, parameters: Mapping[str, Scalar], path: KeyPath) -> Description | None:
        """The description of `parameters`; what does not compose, or does not log the objective, is a problem at `path`."""
        try:
            description = self.describe(overrides(self.space, parameters))
        except (ConfigError, DatasetError) as error:
            self.problem(path, str(error))
            return None
        several = len(self.space.objectives) > 1
        rankable = [name for name in description.metrics if not name.startswith("test/")]  # those come after the last epoch
        for index, objective in enumerate(self.space.objectives):
            place: KeyPath = ("objective", index) if several else ("objective",)
            self.objective(objective, place, [*rankable, SIZE] if several and index else rankable)
        for index, constraint in enumerate(self.space.outcome_constraints):
            self.logged(constraint.metric, ("outcome_constraints", index, "metric"), [*rankable, SIZE])
        return description

    def objective(self, objective: Objective, place: KeyPath, rankable: list[str]) -> None:
        """An objective is among the metrics that a trial logs, and its mode is not the wrong one for it."""
        metric = objective.metric
        self.logged(metric, (*place, "metric"), rankable)
        better = next((mode for mode, names in BETTER.items() if names.search(metric)), None)
        if better and better != objective.mode:
            self.problem((*place, "mode"), f"found {objective.mode!r}, but the best {metric} is its {better}")

    def logged(self, metric: str, place: KeyPath, rankable: list[str]) -> None:
        """A metric is among those that a trial logs after each epoch."""
        validation = f"val/{metric.removeprefix('test/')}"
        if metric.startswith("test/") and place[0] == "outcome_constraints":
            instead = f"bound {validation} instead" if validation in rankable else "bound one that is logged after each epoch"
            self.problem(place, f"{metric} cannot be bounded: to choose by a test metric spoils it; {instead}")
        elif metric not in rankable:
            self.problem(place, f"no trial logs {metric!r} after an epoch. {suggestions(metric, rankable)}")

    def drawn(self, samples: int) -> dict[str, list[int]]:
        """Compose random settings; the network sizes of those that the constraints accept, by architecture."""
        sizes: dict[str, list[int]] = defaultdict(list)
        for parameters in self.draws(samples):
            try:
                description = self.describe(overrides(self.space, parameters))
            except (ConfigError, DatasetError) as error:
                chosen = overrides(self.space, parameters)[len(self.space.trial) :]
                culprit = blamed(chosen, str(error))
                path = ("space",) if culprit is None else ("space", list(parameters)[culprit])
                self.problem(path, f"{error} (in the setting {' '.join(chosen)})")
                continue
            if self.violated(parameters) is None:
                sizes[description.network].append(description.parameters)
        return sizes

    def draws(self, count: int, given: Mapping[str, Scalar] | None = None) -> list[dict[str, Scalar]]:
        """Random settings with what is `given`: always the same ones, of which a smaller `count` has the first."""
        rng = random.Random(self.space.search.seed)
        return [sample(self.space, rng, given) for _ in range(count)]

    def violated(self, parameters: Mapping[str, Scalar]) -> str | None:
        """The constraint that rejects `parameters`, which compose."""
        return violated(self.space, parameters, lambda: self.describe(overrides(self.space, parameters)).parameters)

    def rejected(self) -> float:
        """The share of draws that the constraints reject. Those that it takes composing are among `drawn`."""
        if not self.space.constraints:
            return 0.0
        draws = self.draws(DRAWS_TO_COMPOSE if self.composing else DRAWS)
        count = sum(self.violated(parameters) is not None for parameters in draws)
        if count == len(draws):
            texts = ", ".join(self.space.constraints)
            self.problem(("constraints",), f"all of {count} draws are rejected by {texts}: nothing is left to search")
            self.stop_if_problems()
        return count / len(draws)

    def starts(self) -> None:
        """A setting to start with composes, and in some way to draw what it leaves open the constraints accept it."""
        for index, start in enumerate(self.space.search.start_with):
            self.start(("search", "start_with", index), complete_start(self.space, start))

    def start(self, path: KeyPath, given: Mapping[str, Scalar]) -> None:
        draws = self.draws(DRAWS_TO_COMPOSE if self.composing else DRAWS, given)
        ways = list({tuple(parameters.items()): parameters for parameters in draws}.values())
        for number, parameters in enumerate(ways):
            if (number == 0 or self.composing) and self.attempt(parameters, path) is None:
                return
            broken = self.violated(parameters)
            if broken is None:
                return
        if len(ways) == 1:
            self.problem(path, f"is rejected by the constraint {broken}")
        else:
            what = f"is rejected in all of {len(ways)} ways to draw what it leaves open, in the last by the constraint {broken}"
            self.problem(path, what)


def blamed(chosen: Sequence[str], message: str) -> int | None:
    """The index of the one override in `chosen` that an error's `message` quotes, or else whose last key it names."""
    keys = [str(key_of(text)).rpartition(".")[2] for text in chosen]
    for found in (
        [index for index, text in enumerate(chosen) if repr(text) in message],
        [index for index, key in enumerate(keys) if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", message)],
    ):
        if len(found) == 1:
            return found[0]
    return None
