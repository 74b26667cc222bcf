"""What a search space consists of: its sections with their defaults, its parameters, and the space itself.

Only structure: `space_reader.py` reads it from YAML and refuses what is wrong, `space.py` samples it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from sweeps.distributions import Distribution
from sweeps.hydra_overrides import Scalar, value_of
from sweeps.located_yaml import Document, KeyPath
from sweeps.sizes import parse_size, size_text

if TYPE_CHECKING:
    from sweeps.outputs import Outputs


class Section(BaseModel):
    """What is written under one key."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Objective(Section):
    """What trials are ranked by."""

    metric: str = Field(min_length=1, description="a metric that every trial logs after each validation")
    mode: Literal["max", "min"] = Field(description="whether more or less of it is better")


class OutcomeConstraint(Section):
    """A bound on what a trial comes to, at the epoch that gives it its value."""

    metric: str = Field(min_length=1, description="a metric that every trial logs after each validation, or `parameters`")
    min: float | None = Field(None, description="at least so much of it")
    max: float | None = Field(None, description="at most so much of it")

    @model_validator(mode="after")
    def _bounds(self) -> OutcomeConstraint:
        if self.min is None and self.max is None:
            raise ValueError("says nothing about the metric: give it a min, a max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"nothing is both at least {self.min:g} and at most {self.max:g}")
        return self


class Repeats(Section):
    """Which configurations run with several seeds."""

    seeds: int = Field(ge=2, description="how many in all, that of the first trial among them")
    top: int | None = Field(None, ge=1, description="so many of the best, once the search has ended; None: all that finish")


class Search(Section):
    """How trials are proposed."""

    sampler: Literal["tpe", "random", "grid", "qmc", "gp", "cmaes", "nsgaii"] = Field("tpe", description="what proposes trials")
    trials: int = Field(20, ge=1, description="how many trials to run; those that constraints reject do not count")
    seed: int = Field(1, ge=0, lt=2**31, description="of the sampler, and of the trials' own seeds")
    start_with: list[dict[str, Any]] = Field([], description="settings to try first; what one leaves open is sampled")
    sampler_options: dict[str, Any] = Field({}, description="options of the sampler: see SAMPLERS")
    repeats: Repeats | None = Field(None, description="run configurations with several seeds")
    sources: list[str] = Field([], alias="from", description="other sweeps whose finished trials the sampler learns from")


class GuardOptions(Section):
    """When a trial's own health ends it (docs/gradients.md)."""

    mode: Literal["act", "shadow", "off"] = Field("act", description="end trials, or only note what it would have done")
    explode_factor: float = Field(100.0, gt=1, description="broken: gradient norm above so many times its peers' median")
    min_peers: int = Field(5, ge=1, description="… once so many other trials have been at that epoch")
    patience: int = Field(5, ge=1, description="spent: for so many epochs the gradient could not be told from noise")
    min_gain: float = Field(0.001, gt=0, description="… and the objective gained less than this in them, in its own unit")


class Stopping(Section):
    """When trials end before their last epoch. An option that the scheduler does not take (`SCHEDULER_OPTIONS`) is None."""

    scheduler: Literal["fifo", "asha", "hyperband", "median", "constant", "pbt"] = Field(
        "asha", description="how trials are compared"
    )
    grace_epochs: int | None = Field(None, ge=1, description="no trial is ranked before this epoch")
    reduction_factor: float | None = Field(None, gt=1, description="at each rung the best 1/reduction_factor go on")
    tolerance: float | None = Field(None, ge=0, description="so near to the cut a trial still goes on, in the metric's unit")
    min_trials: int | None = Field(None, ge=1, description="no trial is judged before so many others have come as far")
    cutoff_epochs: int | None = Field(None, ge=1, description="every trial is trained for so many epochs")
    top_k: int | None = Field(None, ge=1, description="so many of the best are then trained to their end")
    interval_epochs: int | None = Field(None, ge=1, description="a generation of the population lasts for so many epochs")
    quantile: float | None = Field(None, gt=0, le=0.5, description="the share that makes way for copies of as many of the best")
    perturb: list[str] | None = Field(None, description="the parameters that a copy takes over changed")
    perturb_factors: list[float] | None = Field(None, min_length=1, description="a number is multiplied by one of these")
    resample_probability: float | None = Field(None, ge=0, le=1, description="how often a value is drawn anew instead")
    guard: GuardOptions = Field(GuardOptions(), description="the gradient guard")

    @field_validator("perturb_factors")
    @classmethod
    def _factors(cls, factors: list[float] | None) -> list[float] | None:
        if factors and (len(set(factors)) < len(factors) or not all(factor > 0 and factor != 1 for factor in factors)):
            raise ValueError(f"found {factors}: different numbers above 0 are expected, and 1 among them changes nothing")
        return factors

    @property
    def options(self) -> dict[str, Any]:
        """Those of the scheduler: what it ranks by."""
        return {name: getattr(self, name) for name in SCHEDULER_OPTIONS[self.scheduler] if name not in PERTURBATION}


PERTURBATION: dict[str, Any] = {"perturb": None, "perturb_factors": [0.8, 1.2], "resample_probability": 0.25}
"""Those options of pbt by which a copy differs from what it is a copy of."""
_HALVING: dict[str, Any] = {"grace_epochs": 2, "reduction_factor": 3.0, "tolerance": 0.0}
SCHEDULER_OPTIONS: dict[str, dict[str, Any]] = {
    "fifo": {},
    "asha": _HALVING,
    "hyperband": _HALVING,
    "median": {"grace_epochs": 2, "min_trials": 5},
    "constant": {"cutoff_epochs": 1, "top_k": 3},
    "pbt": {"interval_epochs": 2, "quantile": 0.25, **PERTURBATION},
}
"""The options that each scheduler takes, with what it uses where a space says nothing."""


LEAST_MEMORY = 512 * 2**20
"""Bytes: the least that a trial can be allotted."""


class Resources(Section):
    """What one trial gets, and holds while it runs."""

    cpu: int = Field(1, ge=1, description="cores; a trial uses as many threads")
    gpu: float = Field(0.0, ge=0, le=1, description="the share of one GPU; a trial runs on one device")
    trial_files: Literal["auto", "node"] = Field("auto", description="write to the sweep's directory where it is seen")
    mps: float = Field(0.0, ge=0, le=1, description="the share of the GPU of a Mac")
    memory: str | None = Field(None, description="such as 4 GiB; a trial that holds more is killed (on Linux)")
    on_oom: Literal["retry", "fail"] = Field("retry", description="a trial that ran out of memory: once more at half the batch")

    @field_validator("memory", mode="before")
    @classmethod
    def _memory(cls, value: object) -> object:
        if value is not None and parse_size(value) < LEAST_MEMORY:
            raise ValueError(f"a trial holds some 300 MiB before it has read any data: at least {size_text(LEAST_MEMORY)}")
        return value

    @model_validator(mode="after")
    def _one_device(self) -> Resources:
        if self.gpu and self.mps:
            raise ValueError("gpu and mps are both given, and a trial runs on one device: mps on a Mac, gpu elsewhere")
        return self

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes."""
        return None if self.memory is None else parse_size(self.memory)


class Prices(Section):
    """What it costs to hold a whole one of each for an hour, in any currency."""

    cpu: float = Field(0.0, ge=0, description="one core")
    gpu: float = Field(0.0, ge=0, description="one GPU")
    mps: float = Field(0.0, ge=0, description="the GPU of a Mac")


class Budget(Section):
    """When the sweep ends although trials are left."""

    hours: float | None = Field(None, gt=0, description="hours that all its runs take together")
    epochs: int | None = Field(None, ge=1, description="epochs that all its trials train together")
    prices: Prices | None = Field(None, description="of what a trial holds, for an hour")
    cost: float | None = Field(None, gt=0, description="of all its trials, in the currency of the prices")

    @field_validator("cost")
    @classmethod
    def _priced(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("prices", True) is None:
            raise ValueError("needs prices: {cpu: …, gpu: …, mps: …}, what one of each costs for an hour")
        return value


@dataclass(frozen=True)
class Parameter:
    """One parameter: an override key, its values, and the conditions that must all hold for it to be active."""

    key: str
    distribution: Distribution
    when: tuple[tuple[str, tuple[Scalar, ...]], ...] = ()
    """(other parameter, its values under which this one is active); the other must be active itself."""

    def active(self, parameters: Mapping[str, Scalar]) -> bool:
        """Whether it is, given the parameters that come before it."""
        return all(other in parameters and parameters[other] in values for other, values in self.when)


@dataclass(frozen=True)
class SearchSpace:
    """A search space that has been read and found sound. Equal spaces search the same in the same way, whatever file they
    come from."""

    description: str
    trial: tuple[str, ...]
    """Hydra overrides that every trial starts from."""
    objectives: tuple[Objective, ...]
    """At least one; the first picks each trial's best epoch."""
    parameters: Mapping[str, Parameter]
    """By key, a parameter after those that its conditions name."""
    constraints: tuple[str, ...]
    outcome_constraints: tuple[OutcomeConstraint, ...]
    search: Search
    stopping: Stopping
    resources: Resources
    budget: Budget
    fuse: int | Literal["auto"]
    """At most so many trials train as one network (docs/fused.md): 1 gives each a process of its own, auto lets the validation
    choose."""
    storage: str | None
    """Where the study is to live (`sweeps.places`); None leaves that to the environment."""
    outputs: Outputs
    """What becomes of what it finds."""
    name: str = field(compare=False)
    document: Document = field(compare=False, repr=False)

    @property
    def objective(self) -> Objective:
        """The first, which is the only one in most spaces."""
        return self.objectives[0]

    @property
    def modes(self) -> tuple[Literal["max", "min"], ...]:
        """Of each objective."""
        return tuple(objective.mode for objective in self.objectives)

    @property
    def group_size(self) -> int:
        """At most so many trials share a process; `auto` that has not been settled is 1."""
        return 1 if self.fuse == "auto" else self.fuse

    def where(self, path: KeyPath) -> str:
        """`file:line` of a part of it."""
        return self.document.where(path)

    def fixed_seed(self, parameters: Mapping[str, Scalar]) -> int | None:
        """The trial's seed, if the space searches it or its `trial` fixes it; None leaves it to the sweep."""
        if "seed" in parameters:
            return parameters["seed"]
        return value_of(self.trial, "seed")


PLATFORM_KEYS: dict[str, str] = {
    "paths.output_dir": "every trial gets a directory of its own under runs/",
    "ckpt_path": "an interrupted trial continues from its own last checkpoint",
    "threads": "set resources.cpu instead",
    "trainer.accelerator": "set resources.gpu or resources.mps instead",
    "trainer.devices": "set resources.gpu instead",
    "trainer.enable_progress_bar": "trials report to the sweep's own display",
    "trainer.enable_model_summary": "the report tells every network's size",
    "optimized_metric": "set objective.metric instead",
    "optimized_mode": "set objective.mode instead",
}
"""Config keys that the platform sets for every trial, and what to do instead of setting them in a space."""

ORDER_SEED, FIRST_ORDER = "data.seed", "data.first_order"
"""Config keys: which orders of batches trials that train as one have in common, and which of them a trial begins with."""
