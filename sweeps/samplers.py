"""What Optuna's samplers lack: a normal prior. It knows Optuna and the parameters of a space, not how trials are run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from sweeps.distributions import Normal
from sweeps.schema import SearchSpace


class NormalPriors(BaseSampler):
    """Another sampler, with normal parameters drawn from their clipped normal wherever that one would draw evenly from a
    range: always for random search, for TPE in its startup trials. After those TPE models what did well, as for any range.

    The study holds the value itself, not its place in the distribution.
    """

    def __init__(self, sampler: BaseSampler, space: SearchSpace, seed: int) -> None:
        """Args: sampler: one that draws a parameter by itself only where it has no model (random; multivariate TPE)."""
        self._sampler = sampler
        self._normals = {
            key: parameter.distribution
            for key, parameter in space.parameters.items()
            if isinstance(parameter.distribution, Normal)
        }
        self._rng = random.Random(seed)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._normals:
            return self._normals[param_name].draw(self._rng)
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._rng.seed()
        self._sampler.reseed_rng()
