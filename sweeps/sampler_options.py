"""The samplers that a search space may name: which options each takes, and which spaces are beyond it.

Only names, types and bounds: `samplers.py` builds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sweeps.distributions import Choice, Normal, PowerOfTwo
from sweeps.located_yaml import KeyPath
from sweeps.settings import MOST_LISTED, count

if TYPE_CHECKING:
    from sweeps.schema import Parameter


class SamplerOptions(BaseModel):
    """Options of a sampler: those of Optuna's constructor that a YAML file can give and that are not deprecated."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class NoOptions(SamplerOptions):
    """Of a sampler that takes none."""


class TPEOptions(SamplerOptions):
    """Tree-structured Parzen estimator (optuna.samplers.TPESampler)."""

    n_startup_trials: int = Field(10, ge=1, description="drawn at random before the first model")
    n_ei_candidates: int = Field(24, ge=1, description="among which the next trial is chosen")
    multivariate: bool = Field(True, description="learn parameters together")
    group: bool = Field(True, description="learn those of one condition as a group of their own")
    constant_liar: bool = Field(True, description="count running trials as bad ones, so that they are not proposed again")

    @model_validator(mode="after")
    def _groups_are_multivariate(self) -> TPEOptions:
        if self.group and not self.multivariate:
            raise ValueError("groups of parameters are sampled together: set `group: false` too")
        return self


class GPOptions(SamplerOptions):
    """Gaussian process (optuna.samplers.GPSampler)."""

    n_startup_trials: int = Field(10, ge=1, description="drawn at random before the first model")
    deterministic_objective: bool = Field(False, description="the same setting always gives the same value")


class CMAESOptions(SamplerOptions):
    """Covariance matrix adaptation (optuna.samplers.CmaEsSampler)."""

    n_startup_trials: int = Field(1, ge=1, description="drawn at random before the first generation")
    popsize: int | None = Field(None, ge=3, description="trials of a generation; by default 4 + 3 log(parameters)")
    use_separable_cma: bool = Field(False, description="a diagonal covariance, for many parameters")
    with_margin: bool = Field(False, description="keep integers and steps from freezing")
    lr_adapt: bool = Field(False, description="adapt the learning rate, for noisy objectives")
    consider_pruned_trials: bool = Field(False, description="learn from pruned trials' last values, too")

    @model_validator(mode="after")
    def _variants_exclude_each_other(self) -> CMAESOptions:
        chosen = [name for name in ("use_separable_cma", "with_margin", "lr_adapt") if getattr(self, name)]
        if len(chosen) > 1:
            raise ValueError(f"only one of use_separable_cma, with_margin and lr_adapt can be on, found {' and '.join(chosen)}")
        return self


class QMCOptions(SamplerOptions):
    """Quasi-random sequence (optuna.samplers.QMCSampler)."""

    qmc_type: Literal["sobol", "halton"] = Field("sobol", description="which sequence")
    scramble: bool = Field(True, description="shift it at random, by the sweep's seed")


class NSGAIIOptions(SamplerOptions):
    """Non-dominated sorting genetic algorithm (optuna.samplers.NSGAIISampler)."""

    population_size: int = Field(50, ge=2, description="trials of a generation")
    crossover_prob: float = Field(0.9, ge=0, le=1, description="that a trial has two parents")
    swapping_prob: float = Field(0.5, ge=0, le=1, description="that it has a parameter of the second one")
    mutation_prob: float | None = Field(None, ge=0, le=1, description="that a parameter is drawn anew; by default 1/parameters")


SAMPLERS: dict[str, type[SamplerOptions]] = {
    "tpe": TPEOptions,
    "random": NoOptions,
    "grid": NoOptions,
    "qmc": QMCOptions,
    "gp": GPOptions,
    "cmaes": CMAESOptions,
    "nsgaii": NSGAIIOptions,
}
"""By the name that a search space uses."""


def unfit(sampler: str, options: SamplerOptions, parameters: Mapping[str, Parameter]) -> Iterator[tuple[KeyPath, str]]:
    """Why `sampler` cannot search these parameters: the place in the space (empty: the sampler itself), and what to do."""
    if sampler == "grid":
        continuous = [key for key, parameter in parameters.items() if not parameter.distribution.finite]
        for key in continuous:
            yield ("space", key), "is continuous, and grid lists every value: give it a step, or choose among a few"
        if not continuous and parameters and count(parameters) is None:
            yield (), f"grid would list more than {MOST_LISTED:,} settings: use qmc or random, which sample such a space evenly"
    if sampler == "cmaes" and parameters and len(independent(sampler, parameters)) == len(parameters):
        yield (), "cmaes learns numeric parameters that are active in every trial, and here is none: use tpe, which learns any"
    off = [name for name in ("multivariate", "group") if not getattr(options, name, True)]
    for key, parameter in parameters.items():
        if isinstance(parameter.distribution, Normal) and off:
            yield ("space", key, "normal"), f"a normal needs {' and '.join(off)}, which sampler_options turn off"


def independent(sampler: str, parameters: Mapping[str, Parameter]) -> dict[str, str]:
    """The parameters that `sampler` does not search but draws at random, each by itself, and why."""
    found = {}
    for key, parameter in parameters.items():
        if sampler == "cmaes" and isinstance(parameter.distribution, Choice | PowerOfTwo):
            found[key] = "has no order for it"
        elif sampler in {"gp", "cmaes", "nsgaii", "qmc"} and parameter.when:
            found[key] = "is not active in every trial"
    return found
