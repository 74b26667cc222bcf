"""What the next trial is: asked of the sampler, refused if it was there before or violates a constraint, and then all the
overrides and the seed that make it what it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import optuna
from optuna.trial import TrialState

from sweeps import resources
from sweeps.attributes import ALLOTTED, FROM
from sweeps.errors import SpaceError
from sweeps.hydra_overrides import key_of
from sweeps.samplers import make_sampler
from sweeps.schema import FIRST_ORDER, ORDER_SEED
from sweeps.settings import Tried
from sweeps.space import SearchSpace, override, overrides, sample, violated
from sweeps.stopping import Verdict

MAX_REJECTIONS = 1000
"""How many proposals in a row the constraints may refuse before the space counts as empty."""

MAX_REPEATED = 10
"""How many settings in a row that were tried before the sampler may propose, until one is drawn for it."""

NetworkSize = Callable[[list[str]], int]
"""The parameters of the network that a list of overrides composes."""


class Proposer:
    """Asks a study for trials, so that none has the setting of another."""

    def __init__(self, space: SearchSpace, network_size: NetworkSize, study: optuna.Study) -> None:
        """Args: study: its trials so far are to be told by `remember`."""
        self._space, self._network_size, self._study = space, network_size, study
        self._tried = Tried(space)
        trials = study.get_trials(deepcopy=False)
        so_far = len(trials)
        self._sampler = study.sampler = make_sampler(space, so_far, [trial for trial in trials if FROM in trial.user_attrs])
        self._rng = random.Random(space.search.seed + so_far)
        self._rejected = self._repeated = 0
        self.note: str | None = None
        """What is to be said of the trial that was asked for last: how it comes that the sampler did not choose it."""

    def remember(self, parameters: Mapping[str, Any], number: int) -> None:
        """Trial `number` has this setting: it ran, runs, or was refused."""
        self._tried.add(parameters, number)

    @property
    def exhausted(self) -> bool:
        """Whether every setting of the space has been tried, and none waits to be."""
        return self._start() is None and self._tried.exhausted

    def ask(self) -> optuna.Trial | None:
        """A new trial of the study, of which nothing has been suggested yet; None if the space is exhausted.

        Raises:
            SpaceError: the constraints refused `MAX_REJECTIONS` in a row.
        """
        if self._rejected >= MAX_REJECTIONS:
            raise too_tight(self._space)
        start, self.note = self._start(), None
        if start is None and self._tried.exhausted:
            return None
        self._sampler.planned = None
        if self._space.search.sampler == "grid":
            self._sampler.planned = self._tried.untried(start)
        elif self._repeated >= MAX_REPEATED:
            self._sampler.planned = self._tried.untried(start) or sample(self._space, self._rng, start)
            what = f"{self._space.search.sampler} proposed {self._repeated} settings in a row that had been tried"
            self.note = f"drawn at random: {what}"
        return self._study.ask()

    def refused(self, parameters: Mapping[str, Any], again: bool = False) -> Verdict | None:
        """Why a trial with this setting does not run. Args: again: somebody asked for a setting that was tried."""
        if not again and (earlier := self._tried.number(parameters)) is not None:
            self._repeated += 1
            return Verdict("rejected", f"the setting of trial {earlier} again")
        try:
            broken = violated(self._space, parameters, partial(self._network_size, overrides(self._space, parameters)))
        except ValueError as error:  # a combination that does not compose is this trial's failure, not the sweep's
            return Verdict("failed", f"{type(error).__name__}: {error}")
        if broken is not None:
            self._rejected += 1
            return Verdict("rejected", f"constraint {broken}")
        self._rejected = self._repeated = 0
        return None

    def choose(
        self, trial: optuna.Trial, parameters: Mapping[str, Any], order: int, allotted: Mapping[str, float]
    ) -> list[str]:
        """All the overrides of a new trial, written down with what it is allotted (`sweeps.usage`)."""
        if self.note:
            trial.set_user_attr("note", self.note)
        chosen = assemble(self._space, parameters, trial.number, order)
        trial.set_user_attr(ALLOTTED, allotted)
        trial.set_user_attr("overrides", chosen)
        return chosen

    def _start(self) -> dict[str, Any] | None:
        """What is given of the setting to start with that is next, if there is one."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return dict(waiting[0].system_attrs["fixed_params"]) if waiting else None


def assemble(space: SearchSpace, parameters: Mapping[str, Any], number: int, order: int = 0) -> list[str]:
    """All the overrides of trial `number`: the space's own, the parameters, what the platform sets (the objective that picks
    the best checkpoint, the resources), and a seed if the space gives none.

    Args: order: where trials train as one, which of their common orders of batches the first epoch takes (docs/fused.md).
    """
    chosen = [
        *overrides(space, parameters),
        override("optimized_metric", space.objective.metric),
        override("optimized_mode", space.objective.mode),
        *resources.overrides(space.resources),
    ]
    if space.fixed_seed(parameters) is None:
        chosen.append(f"seed={trial_seed(space.search.seed, number)}")
    if space.group_size > 1:
        chosen += [] if any(key_of(text) == ORDER_SEED for text in space.trial) else [override(ORDER_SEED, space.search.seed)]
        chosen += [override(FIRST_ORDER, order)] if order else []
    return chosen


def draw(space: SearchSpace, number: int, network_size: NetworkSize) -> list[str]:
    """All the overrides of a trial drawn from `space` at random (seeded), without a study, that its constraints allow.

    Raises:
        SpaceError: they refused `MAX_REJECTIONS` in a row.
    """
    rng = random.Random(space.search.seed)
    for _ in range(MAX_REJECTIONS):
        parameters = sample(space, rng)
        if violated(space, parameters, partial(network_size, overrides(space, parameters))) is None:
            return assemble(space, parameters, number)
    raise too_tight(space)


def too_tight(space: SearchSpace) -> SpaceError:
    return SpaceError(
        f"the constraints refused {MAX_REJECTIONS} proposals in a row: {', '.join(space.constraints)}. "
        "`make validate` tells what share of the space they leave."
    )


def trial_seed(sweep_seed: int, number: int) -> int:
    """The seed of trial `number`: its own, and the same whenever the sweep is run again."""
    return (sweep_seed * 1_000_003 + number) % 2**31
