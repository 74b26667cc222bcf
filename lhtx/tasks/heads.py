"""What a task knows of its heads: their units, and how much each one weighs. Knows nothing of networks or batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from torch import Tensor

from lhtx.data.spec import HeadSpec
from lhtx.errors import ConfigError


@dataclass(frozen=True)
class Head:
    """A named head, and the arithmetic between its three scales, which are affine to each other.

    `unit`: 0 at the parameter's minimum, 1 at its maximum. `position`: in class steps, 0 at the first class. `value`: in
    parameter units. The classes stand at multiples of the step, so the first one need not be at the minimum.
    """

    name: str
    spec: HeadSpec

    @property
    def range(self) -> float:
        """max − min, in parameter units."""
        return self.spec.maximum - self.spec.minimum

    @property
    def class_step(self) -> float:
        """Parameter units between neighbouring classes; without a step, the classes divide the range evenly."""
        return self.spec.step if self.spec.step > 0 else self.range / (self.spec.classes - 1)

    @property
    def first_class(self) -> float:
        """The value at the centre of class 0."""
        return round(self.spec.minimum / self.spec.step) * self.spec.step if self.spec.step > 0 else self.spec.minimum

    def value_of_unit(self, unit: Tensor) -> Tensor:
        """[0, 1] → parameter units, any shape."""
        return self.spec.minimum + unit * self.range

    def value_of_position(self, position: Tensor) -> Tensor:
        """Class steps → parameter units, any shape."""
        return self.first_class + position * self.class_step

    def position_of_unit(self, unit: Tensor) -> Tensor:
        """[0, 1] → class steps, any shape. A parameter without a range has one position only: 0."""
        if self.range == 0:
            return unit * 0
        return unit * (self.range / self.class_step) + (self.spec.minimum - self.first_class) / self.class_step


def parse_heads(heads: Mapping[str, Mapping[str, Any]]) -> list[Head]:
    """Heads from a config: name → {classes, minimum, maximum, step}, in the order of a batch's columns.

    Raises:
        ConfigError: for no heads, or an entry with other keys or no numbers.
    """
    keys = [field.name for field in fields(HeadSpec)]
    if not heads:
        raise ConfigError(f"a task needs one head at least, and heads is empty; expected name -> {{{', '.join(keys)}}}")
    parsed = []
    for name, entry in heads.items():
        if name == "avg":
            raise ConfigError("a head cannot be named 'avg': avg_acc is the mean accuracy over the heads")
        if not isinstance(entry, Mapping) or set(entry) != set(keys):
            found = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else repr(entry)
            raise ConfigError(f"heads.{name} holds {found}; expected the keys {', '.join(keys)}")
        for key in keys:
            number = entry[key]
            if isinstance(number, bool) or not isinstance(number, int | float) or not isfinite(number):
                raise ConfigError(f"heads.{name}.{key} is {number!r}; expected a finite number")
        minimum, maximum, step = (float(entry[key]) for key in ("minimum", "maximum", "step"))
        if minimum > maximum:
            raise ConfigError(f"heads.{name} has minimum {minimum} above maximum {maximum}")
        parsed.append(Head(str(name), HeadSpec(int(entry["classes"]), minimum, maximum, step)))
    return parsed


def weigh(heads: Sequence[Head], given: Mapping[str, float] | None) -> list[float]:
    """The weight of each head's loss: what is given, else its number of just-noticeable steps over the largest such number.

    The number of steps is (max − min)/step; without a step it is one less than the number of classes.

    Raises:
        ConfigError: for a weight of an unknown head, or one that is negative or not finite, or all of them 0.
    """
    given = given or {}
    require_known_heads("head_weights", given, heads)
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not isfinite(weight) or weight < 0:
            raise ConfigError(f"head_weights.{name} is {weight!r}; expected a finite number, 0 or more")
    steps = [head.range / head.class_step if head.range > 0 else 0.0 for head in heads]
    largest = max(steps)
    weights = [
        float(given[head.name]) if head.name in given else (count / largest if largest > 0 else 0.0)
        for head, count in zip(heads, steps, strict=True)
    ]
    if not any(weights):
        found = ", ".join(f"{head.name}: {weight:g}" for head, weight in zip(heads, weights, strict=True))
        raise ConfigError(
            f"every head weighs 0 ({found}), so there is nothing to train; a head without a range weighs 0 unless "
            "head_weights gives it another weight"
        )
    return weights


def require_known_heads(key: str, mapping: Mapping[str, Any], heads: Sequence[Head]) -> None:
    """Raise a `ConfigError` that lists the heads where `mapping`, found at a config's `key`, names another one."""
    names = [head.name for head in heads]
    unknown = [str(name) for name in mapping if name not in names]
    if unknown:
        raise ConfigError(f"{key} names {', '.join(map(repr, unknown))}, which is no head. The heads are: {', '.join(names)}")
