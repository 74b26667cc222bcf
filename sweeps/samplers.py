"""Builds the sampler that a space names, and adds what Optuna's lack: normal priors, and trials whose setting is planned.

It knows Optuna and the parameters of a space, not how trials are run.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.distributions import Normal
from sweeps.hydra_overrides import Scalar
from sweeps.sampler_options import SAMPLERS, independent
from sweeps.schema import SearchSpace

LEAST_SOURCES = 10
"""CMA-ES starts from the best tenth of other trials."""


def make_sampler(space: SearchSpace, trials_so_far: int, sources: Sequence[FrozenTrial] = ()) -> SpaceSampler:
    """The sampler that the space names; a resumed sweep's draws differ from those that it has made already.

    Args: sources: trials of other sweeps to learn from, which the study holds, too: all samplers but CMA-ES find them there.
    """
    seed = (space.search.seed + 7919 * trials_so_far) % 2**32
    options = SAMPLERS[space.search.sampler].model_validate(space.search.sampler_options).model_dump()
    with warnings.catch_warnings():  # options that Optuna may still change: the versions are pinned
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = _build(space, seed, options, sources)
    return SpaceSampler(sampler, space, seed)


def _build(space: SearchSpace, seed: int, options: dict[str, Any], sources: Sequence[FrozenTrial]) -> BaseSampler:
    silent = {"warn_independent_sampling": False}  # what is drawn independently, validation has told
    match space.search.sampler:
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, **options)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, **silent, **options)
        case "cmaes":
            given = {"source_trials": _numeric(space, sources)} if len(sources) >= LEAST_SOURCES else {}
            return optuna.samplers.CmaEsSampler(seed=seed, **silent, **options, **given)
        case "qmc":  # one sequence for the whole sweep: the study remembers how far it is
            independent = optuna.samplers.RandomSampler(seed=seed)
            first = space.search.seed
            return optuna.samplers.QMCSampler(seed=first, independent_sampler=independent, **silent, **options)
        case "nsgaii":
            return optuna.samplers.NSGAIISampler(seed=seed, **options)
        case _:  # random; and grid, whose trials are all planned
            return optuna.samplers.RandomSampler(seed=seed)


def _numeric(space: SearchSpace, sources: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """`sources` with the parameters alone that CMA-ES searches: it takes no others."""
    skipped = independent("cmaes", space.parameters)
    kept = []
    for trial in sources:
        held = {key: each for key, each in trial.distributions.items() if key not in skipped and not each.single()}
        params = {key: trial.params[key] for key in held}
        kept.append(optuna.trial.create_trial(values=trial.values, params=params, distributions=held))
    return kept


class SpaceSampler(BaseSampler):
    """Another sampler, with two things more.

    Normal parameters are drawn from their clipped normal wherever that sampler would draw evenly from a range: always for
    random and qmc, for the others in their startup trials. After those they model what did well, as for any range.

    A trial whose setting is `planned` gets that setting. The study holds the values themselves in both cases.
    """

    def __init__(self, sampler: BaseSampler, space: SearchSpace, seed: int) -> None:
        self._sampler = sampler
        self._normals = {
            key: parameter.distribution
            for key, parameter in space.parameters.items()
            if isinstance(parameter.distribution, Normal)
        }
        self._rng = random.Random(seed)
        self.planned: Mapping[str, Scalar] | None = None
        """The setting of the next trial, if it is not for the sampler to choose."""

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self.planned is not None:
            return self.planned[param_name]
        if param_name in self._normals:
            return self._normals[param_name].draw(self._rng)
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if self.planned is not None else self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        if self.planned is not None:
            return {}
        chosen = self._sampler.sample_relative(study, trial, search_space)
        if isinstance(self._sampler, optuna.samplers.QMCSampler):  # it fills the range evenly
            for key in chosen.keys() & self._normals.keys():
                chosen[key] = self._normals[key].from_even(chosen[key])
        return chosen

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        with warnings.catch_warnings():  # that CMA-ES leaves outcome constraints aside, validation has told
            warnings.simplefilter("ignore", UserWarning)
            self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._rng.seed()
        self._sampler.reseed_rng()
