"""What one parameter may be: a choice, a range of numbers, powers of two, or a clipped normal.

Each distribution knows how a search space writes it, which values it holds, how Optuna is asked for one, and how to draw
one without Optuna. It knows neither the parameter's key nor any condition. Problems are ValueErrors without a place.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from sweeps.errors import suggestions
from sweeps.grids import as_number, check_order, check_step, check_within, grid, nearest, on_grid, pair, steps
from sweeps.hydra_overrides import Scalar, value_text
from sweeps.located_yaml import describe

if TYPE_CHECKING:
    import optuna


class Distribution(ABC):
    """The values that a parameter may take. Two distributions are equal if they hold the same values the same way."""

    @property
    @abstractmethod
    def finite(self) -> bool:
        """Whether its values can be listed one by one, so that a condition may ask for one."""

    def values(self) -> list[Scalar]:
        """All of them, if they are `finite`.

        Raises:
            ValueError: they are not.
        """
        raise ValueError("a continuous range has no list of values: give it a step, or choose among a few")

    @abstractmethod
    def ends(self) -> list[Scalar]:
        """Every option of a choice, both ends of a range: what validation composes."""

    @abstractmethod
    def canonical(self, value: Any) -> Scalar:
        """`value` as the study holds it.

        Raises:
            ValueError: it is not among the values; the message says which are.
        """

    @abstractmethod
    def draw(self, rng: random.Random) -> Scalar:
        """One value at random."""

    @abstractmethod
    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        """What the study records of it."""

    @abstractmethod
    def as_yaml(self) -> dict[str, Any]:
        """As a search space writes it."""

    def to_config(self, value: Scalar) -> Scalar | list[Any]:
        """What the config gets for the study's `value`."""
        return value

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Scalar:
        """Ask `trial` for a value: always a builtin."""
        distribution = self.to_optuna()
        if hasattr(distribution, "choices"):
            return trial.suggest_categorical(name, distribution.choices)
        if isinstance(distribution.low, int):
            return trial.suggest_int(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)
        return trial.suggest_float(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


@dataclass(frozen=True)
class Choice(Distribution):
    """One of several options, in no order. An option that is a list is held in the study as its text, `[a,b]`."""

    options: tuple[Any, ...]

    @classmethod
    def parse(cls, value: Any) -> Choice:
        if not isinstance(value, list):
            raise ValueError(f"a list of options is expected, found {describe(value)}")
        for option in value:
            if isinstance(option, dict) or (isinstance(option, list) and any(isinstance(item, list | dict) for item in option)):
                raise ValueError(f"an option is a plain value or a list of plain values, found {describe(option)}")
            if isinstance(option, float) and not math.isfinite(option):
                raise ValueError(f"an option must be a finite number, found {option}")
        if len(value) < 2:
            raise ValueError(f"at least two options are expected, found {describe(value)}; what is fixed belongs under `trial`")
        held = [_held(option) for option in value]
        for index, option in enumerate(held):
            if option in held[:index]:
                first = value[held.index(option)]
                same = "is given twice" if type(first) is type(value[index]) else f"and {describe(first)} are one option"
                raise ValueError(f"the option {describe(value[index])} {same}")
        return cls(tuple(tuple(option) if isinstance(option, list) else option for option in value))

    @property
    def held(self) -> list[Scalar]:
        """The options as the study holds them."""
        return [_held(option) for option in self.options]

    @property
    def finite(self) -> bool:
        return True

    def values(self) -> list[Scalar]:
        return self.held

    def ends(self) -> list[Scalar]:
        return self.held

    def canonical(self, value: Any) -> Scalar:
        wanted = _held(value)
        for option in self.held:
            if option == wanted and isinstance(option, bool) == isinstance(wanted, bool):
                return option
        accepted = [value_text(option) for option in self.held]
        raise ValueError(f"{describe(value)} is not among the options. {suggestions(str(wanted), accepted)}")

    def draw(self, rng: random.Random) -> Scalar:
        return rng.choice(self.held)

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.held)

    def to_config(self, value: Scalar) -> Scalar | list[Any]:
        option = self.options[self.held.index(value)]
        return list(option) if isinstance(option, tuple) else option

    def as_yaml(self) -> dict[str, Any]:
        return {"choice": [list(option) if isinstance(option, tuple) else option for option in self.options]}


def _held(option: Any) -> Scalar:
    return value_text(list(option)) if isinstance(option, list | tuple) else option


@dataclass(frozen=True)
class Range(Distribution):
    """Numbers from `low` to `high`, both included: `uniform`, `log_uniform`, `int` or `log_int`."""

    kind: str
    low: float
    high: float
    step: float | None = None
    """The values are low, low + step, …, high. Only for `uniform` and `int`."""

    @classmethod
    def parse(cls, kind: str, value: Any, step: Any = None) -> Range:
        integer, log = kind.endswith("int"), kind.startswith("log")
        low, high = pair(value, "low, high", integer)
        check_order(low, high)
        if log and low <= (0 if not integer else 0.5):
            raise ValueError(
                f"the low end of a logarithmic range must be {'at least 1' if integer else 'above 0'}, found {low}"
            )
        if step is not None:
            if log:
                raise ValueError(f"a step goes with uniform and int, not with {kind}; list the values as a choice instead")
            step = check_step(low, high, step, integer)
        return cls(kind, low, high, step)

    @property
    def integer(self) -> bool:
        return self.kind.endswith("int")

    @property
    def log(self) -> bool:
        return self.kind.startswith("log")

    @property
    def finite(self) -> bool:
        return self.integer or self.step is not None

    def values(self) -> list[Scalar]:
        if self.integer:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        return steps(self.low, self.high, self.step) if self.step is not None else super().values()

    def ends(self) -> list[Scalar]:
        return [self.low, self.high if self.step is None else nearest(self.high, self.low, self.high, self.step)]

    def canonical(self, value: Any) -> Scalar:
        number = as_number(value, self.integer)
        check_within(number, self.low, self.high)
        return number if self.step is None else on_grid(number, self.low, self.high, self.step)

    def draw(self, rng: random.Random) -> Scalar:
        if self.log and self.integer:  # as Optuna draws them: every integer owns the half before and the half after it
            number = math.exp(rng.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5)))
            return min(max(round(number), int(self.low)), int(self.high))
        if self.integer:
            return rng.randrange(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.log:
            return min(max(math.exp(rng.uniform(math.log(self.low), math.log(self.high))), self.low), self.high)
        if self.step is not None:
            return grid(self.low, self.high, self.step, rng.randint(0, round((self.high - self.low) / self.step)))
        return rng.uniform(self.low, self.high)

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def as_yaml(self) -> dict[str, Any]:
        return {self.kind: [self.low, self.high]} | ({} if self.step is None else {"step": self.step})


@dataclass(frozen=True)
class PowerOfTwo(Distribution):
    """The powers of two from `low` to `high`. Optuna gets them as a choice: so the study holds the value itself and not its
    exponent, at the price that the sampler does not know their order; there are few of them."""

    low: int
    high: int

    @classmethod
    def parse(cls, value: Any) -> PowerOfTwo:
        low, high = pair(value, "low, high", integer=True)
        check_order(low, high)
        for end in (low, high):
            if end < 1 or end & (end - 1):
                near = sorted({2 ** max(0, math.floor(math.log2(max(end, 1)))), 2 ** math.ceil(math.log2(max(end, 1)))})
                raise ValueError(f"{end} is not a power of two; near ones: {', '.join(map(str, near))}")
        return cls(low, high)

    def values(self) -> list[Scalar]:
        return [2**exponent for exponent in range(self.low.bit_length() - 1, self.high.bit_length())]

    @property
    def finite(self) -> bool:
        return True

    def ends(self) -> list[Scalar]:
        return [self.low, self.high]

    def canonical(self, value: Any) -> Scalar:
        if as_number(value, integer=True) not in self.values():
            raise ValueError(f"{describe(value)} is not among the values. Accepted: {', '.join(map(str, self.values()))}.")
        return value

    def draw(self, rng: random.Random) -> Scalar:
        return rng.choice(self.values())

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values())

    def as_yaml(self) -> dict[str, Any]:
        return {"power_of_two": [self.low, self.high]}


@dataclass(frozen=True)
class Normal(Distribution):
    """A normal of `mean` and `std`, cut off at `low` and `high`. Optuna has none: the study records the range, and
    `sweeps.samplers.NormalPriors` draws from the normal wherever the sampler would draw evenly from that range."""

    mean: float
    std: float
    low: float
    high: float
    step: float | None = None

    @classmethod
    def parse(cls, value: Any, clip: Any, step: Any = None) -> Normal:
        mean, std = pair(value, "mean, std", integer=False)
        if std <= 0:
            raise ValueError(f"the standard deviation must be above 0, found {std}")
        if clip is None:
            low, high = mean - 3 * std, mean + 3 * std
        else:
            low, high = pair(clip, "low, high", integer=False, name="clip: ")
            check_order(low, high)
        inside = NormalDist(mean, std).cdf(high) - NormalDist(mean, std).cdf(low)
        if inside < 1e-6:
            raise ValueError(f"the clip [{low}, {high}] leaves nothing of a normal of mean {mean} and deviation {std}")
        return cls(mean, std, low, high, None if step is None else check_step(low, high, step, integer=False))

    @property
    def finite(self) -> bool:
        return self.step is not None

    def values(self) -> list[Scalar]:
        return steps(self.low, self.high, self.step) if self.step is not None else super().values()

    def ends(self) -> list[Scalar]:
        return [self.low, self.high if self.step is None else nearest(self.high, self.low, self.high, self.step)]

    def canonical(self, value: Any) -> Scalar:
        number = as_number(value, integer=False)
        check_within(number, self.low, self.high)
        return number if self.step is None else on_grid(number, self.low, self.high, self.step)

    def quantile(self, share: float) -> float:
        """The value below which `share` of the clipped normal lies (inverse of its distribution function), on the grid."""
        normal = NormalDist(self.mean, self.std)
        below, above = normal.cdf(self.low), normal.cdf(self.high)
        position = below + share * (above - below)
        number = normal.inv_cdf(position) if 0 < position < 1 else self.low if position <= 0 else self.high
        number = min(max(number, self.low), self.high)
        return number if self.step is None else nearest(number, self.low, self.high, self.step)

    def draw(self, rng: random.Random) -> Scalar:
        return self.quantile(rng.random())

    def from_even(self, number: float) -> float:
        """The value at the place in the normal that `number` has in the range: even draws become those of the normal."""
        if self.step is None:
            return self.quantile((number - self.low) / (self.high - self.low))
        steps = len(self.values())
        return self.quantile((round((number - self.low) / self.step) + 0.5) / steps)

    def to_optuna(self) -> optuna.distributions.BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, step=self.step)

    def as_yaml(self) -> dict[str, Any]:
        step = {} if self.step is None else {"step": self.step}
        return {"normal": [self.mean, self.std], "clip": [self.low, self.high]} | step


KINDS: dict[str, tuple[str, ...]] = {
    "choice": (),
    "uniform": ("step",),
    "log_uniform": ("step",),  # accepted here, so that Range.parse can say why there is none
    "int": ("step",),
    "log_int": ("step",),
    "power_of_two": (),
    "normal": ("clip", "step"),
}
"""The distributions by the name that a search space uses, and the options that each takes."""


def parse_distribution(entry: Mapping[str, Any], kind: str) -> Distribution:
    """The distribution `kind` that `entry` describes; unknown options have been refused.

    Raises:
        ValueError: its numbers make no distribution.
    """
    value, step = entry[kind], entry.get("step")
    match kind:
        case "choice":
            return Choice.parse(value)
        case "power_of_two":
            return PowerOfTwo.parse(value)
        case "normal":
            return Normal.parse(value, entry.get("clip"), step)
        case _:
            return Range.parse(kind, value, step)
