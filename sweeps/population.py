"""Under population-based training: the trials that take the place of others, what is perturbed in them, and their lineage.

A rule of `followups.py`: who makes way for whose copy stands in the verdicts (`sweeps.stopping.pbt`); here that becomes trials.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from sweeps.attributes import EPOCHS, EXPLOITS, REPLACES, FollowUp, rejected
from sweeps.distributions import PowerOfTwo, Range
from sweeps.grids import nearest
from sweeps.hydra_overrides import Scalar
from sweeps.space import violated
from sweeps.stopping.pbt import DONOR, DONOR_EPOCH, GENERATION, PLACE

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from sweeps.distributions import Distribution
    from sweeps.schema import SearchSpace, Stopping
    from sweeps.stopping import Verdict

OWN_HYPERPARAMETERS = "restore.hyperparameters=config"
"""The override with which a trial that starts from another's checkpoint trains on with its own parameters."""
FIXED = "search.trials is the size of the population, whose members train in step from the first epoch: it cannot grow later"
ATTEMPTS = 20
"""How often a perturbation is drawn until the constraints accept one; then the copy keeps the parameters as they are."""


def possible(space: SearchSpace) -> bool:
    """Whether anything can become due at all. The end of no running trial is to be waited for: who makes way is suspended."""
    return False


def concerns(space: SearchSpace, verdict: Verdict, trial: FrozenTrial, searched: bool) -> bool:
    """Whether a copy may take the place of a trial that ends so."""
    return DONOR in verdict.numbers


def alone(space: SearchSpace) -> bool:
    """The copy is another's."""
    return False


def due(space: SearchSpace, trials: Sequence[FrozenTrial]) -> Iterator[FollowUp]:
    """For each trial that has made way, and whose place nobody has taken: a copy of its donor, perturbed."""
    if space.stopping.scheduler != "pbt":
        return
    taken = {trial.user_attrs[REPLACES] for trial in trials if REPLACES in trial.user_attrs and not rejected(trial)}
    numbers = {trial.number: trial for trial in trials}
    for trial in trials:
        said = trial.user_attrs.get("verdict", {}).get("numbers", {})
        if DONOR not in said or trial.number in taken or not trial.state.is_finished():
            continue
        rng = random.Random(f"{space.search.seed} {said[GENERATION]} {said[PLACE]} perturb")
        attributes = {REPLACES: trial.number, EXPLOITS: said[DONOR], EPOCHS: said[DONOR_EPOCH]}
        yield FollowUp(perturbed(space, numbers[said[DONOR]], rng), attributes)


def perturbed(space: SearchSpace, donor: FrozenTrial, rng: random.Random) -> dict[str, Scalar]:
    """The parameters of `donor` with those perturbed that the space says, so that the constraints hold."""
    for _ in range(ATTEMPTS):
        changed = _changed(space, donor.params, rng)
        if violated(space, changed, lambda: donor.user_attrs["parameters"]) is None:
            return changed
    return dict(donor.params)


def _changed(space: SearchSpace, parameters: Mapping[str, Scalar], rng: random.Random) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {}
    for key, parameter in space.parameters.items():
        if key in parameters:
            wanted = key in (space.stopping.perturb or ())
            value = parameters[key]
            found[key] = explored(parameter.distribution, value, space.stopping, rng) if wanted else value
    return found


def explored(distribution: Distribution, value: Scalar, stopping: Stopping, rng: random.Random) -> Scalar:
    """Another value of `distribution` (Jaderberg et al. 2017, section 4.1.2, "perturb" and "resample").

    With `resample_probability` one drawn anew; else a number times one of `perturb_factors`, on the distribution's grid and in
    its range, and of a choice the option before or after it. A number that is rounded back to itself moves one step.
    """
    if rng.random() < (stopping.resample_probability or 0.0):
        return distribution.draw(rng)
    factor = rng.choice(stopping.perturb_factors or [1.0])
    if isinstance(distribution, PowerOfTwo) or not hasattr(distribution, "low"):
        return _neighbour(distribution.values(), value, 1 if factor > 1 else -1)
    low, high, step = distribution.low, distribution.high, distribution.step  # type: ignore[attr-defined]
    number = min(max(value * factor, low), high)  # type: ignore[operator]
    if isinstance(distribution, Range) and distribution.integer:
        step = step or 1
    if step is None:
        return number
    moved = nearest(number, low, high, step)
    if moved == value and low < high:
        return _neighbour(distribution.values(), value, 1 if factor > 1 else -1)
    return moved


def _neighbour(values: Sequence[Scalar], value: Scalar, direction: int) -> Scalar:
    """The value before or after `value`; at an end the end itself."""
    place = values.index(value) + direction
    return values[min(max(place, 0), len(values) - 1)]


def lineage(trials: Mapping[int, FrozenTrial], number: int) -> list[FrozenTrial]:
    """The trials by which trial `number` came to be what it is, itself the last: each began from a checkpoint of the one
    before it. Args: trials: the sweep's, by number."""
    found = [trials[number]]
    while (donor := found[0].user_attrs.get(EXPLOITS)) is not None:
        found.insert(0, trials[donor])
    return found


def told(trials: Mapping[int, FrozenTrial], number: int) -> list[str]:
    """The lineage of a trial that is a copy, a line for each trial that it was; empty for any other trial.

    Args: trials: the sweep's, by number.
    """
    found = lineage(trials, number)
    if len(found) == 1:
        return []
    starts = [0, *(trial.user_attrs[EPOCHS] for trial in found[1:])]
    ends = [*starts[1:], found[-1].user_attrs.get("epochs", 0)]
    lines = []
    for trial, start, end in zip(found, starts, ends, strict=True):
        parameters = ", ".join(f"{key}={value}" for key, value in trial.params.items())
        lines.append(f"epochs {start + 1} to {end}: trial {trial.number}, {parameters}")
    return ["Trained by a population: these parameters, one after another; those below are the last.", *lines]
