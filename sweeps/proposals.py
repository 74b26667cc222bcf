"""What the next trial is: which sampler draws it, and all the overrides and the seed that make it what it is."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import optuna

from sweeps import resources
from sweeps.errors import SpaceError
from sweeps.samplers import NormalPriors
from sweeps.space import SearchSpace, override, overrides, sample, violated

MAX_REJECTIONS = 1000
"""How many proposals in a row the constraints may refuse before the space counts as empty."""

NetworkSize = Callable[[list[str]], int]
"""The parameters of the network that a list of overrides composes."""


def make_sampler(space: SearchSpace, trials_so_far: int) -> optuna.samplers.BaseSampler:
    """The sampler that the space names; a resumed sweep's draws differ from those that it has made already."""
    seed = (space.search.seed + 7919 * trials_so_far) % 2**32
    options = space.search.sampler_options
    if space.search.sampler == "random":
        return NormalPriors(optuna.samplers.RandomSampler(seed=seed, **options), space, seed)
    # Parameters are learnt together, and those of one condition as a group of their own.
    warnings.filterwarnings("ignore", "Argument ``group`` is an experimental", optuna.exceptions.ExperimentalWarning)
    return NormalPriors(
        optuna.samplers.TPESampler(**{"multivariate": True, "group": True, "seed": seed, **options}), space, seed
    )


def assemble(space: SearchSpace, parameters: Mapping[str, Any], number: int) -> list[str]:
    """All the overrides of trial `number`: the space's own, the parameters, what the platform sets (the objective that picks
    the best checkpoint, the resources), and a seed if the space gives none."""
    chosen = [
        *overrides(space, parameters),
        override("optimized_metric", space.objective.metric),
        override("optimized_mode", space.objective.mode),
        *resources.overrides(space.resources),
    ]
    return chosen if space.fixed_seed(parameters) is not None else [*chosen, f"seed={trial_seed(space.search.seed, number)}"]


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
