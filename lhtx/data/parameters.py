"""A synthesis parameter's range, and the arithmetic between its value, its stored byte and its class.

Pure functions over NumPy arrays; nothing here knows of files, images or networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from lhtx.errors import DatasetError

LEVELS = 255
"""The largest stored byte: a value is kept as one of 0 … 255."""


@dataclass(frozen=True)
class Parameter:
    """One entry of `parameter_mappings`: the range of a parameter in its own units.

    `step` is the distance between neighbouring classes; 0 means that none is given, and then there are 256 classes.
    """

    minimum: float
    maximum: float
    step: float = 0.0
    description: str = ""
    scale: str | None = None
    type: str | None = None

    @classmethod
    def parse(cls, name: str, entry: object, where: str) -> "Parameter":
        """Read one JSON entry (`min`, `max`, optional `step`, `description`, `scale`, `type`).

        `where` opens the message of the `DatasetError` that a missing or senseless number raises.
        """
        if not isinstance(entry, Mapping):
            raise DatasetError(f"{where}: {name!r} holds {entry!r}; expected an object with min, max and step")
        minimum = _number(name, entry, "min", where)
        maximum = _number(name, entry, "max", where)
        step = _number(name, entry, "step", where) if entry.get("step") is not None else 0.0
        if maximum < minimum:
            raise DatasetError(f"{where}: {name!r} has min {minimum} above max {maximum}")
        return cls(
            minimum,
            maximum,
            max(step, 0.0),
            str(entry.get("description", "")),
            entry.get("scale"),
            entry.get("type"),
        )

    def as_json(self) -> dict[str, Any]:
        """The entry that `parse` reads back."""
        entry: dict[str, Any] = {"min": self.minimum, "max": self.maximum, "step": self.step}
        entry["description"] = self.description
        entry |= {key: value for key, value in (("scale", self.scale), ("type", self.type)) if value is not None}
        return entry

    @property
    def classes(self) -> int:
        """The number of classes of this parameter's head."""
        return class_count(self.minimum, self.maximum, self.step)


def quantise(values: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
    """Values in parameter units → the bytes that store them, round(255·(v − min)/(max − min)), clamped to the range.

    Any shape; returns uint8 of the same shape. A range of no width stores 0.
    """
    if maximum == minimum:
        return np.zeros(np.shape(values), dtype=np.uint8)
    scaled = (np.asarray(values, dtype=np.float64) - minimum) / (maximum - minimum)
    return np.rint(LEVELS * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)


def dequantise(stored: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
    """Stored bytes → values in parameter units, min + q/255·(max − min); float64 of the same shape."""
    return minimum + np.asarray(stored, dtype=np.float64) / LEVELS * (maximum - minimum)


def class_count(minimum: float, maximum: float, step: float) -> int:
    """The number of classes: both ends moved to the nearest multiple of the step, and one class a step between them.

    Without a step (0 or below) every stored byte is a class of its own: 256.
    """
    if step <= 0:
        return LEVELS + 1
    low, high = round(minimum / step) * step, round(maximum / step) * step
    return round((high - low) / step) + 1


def class_index(values: np.ndarray, minimum: float, maximum: float, step: float) -> np.ndarray:
    """Values in parameter units → class index, int64 in [0, classes), the same shape.

    clamp(round((clamp(v) − min')/step)) with min' the multiple of the step nearest to min; without a step the class is
    the stored byte.
    """
    values = np.clip(np.asarray(values, dtype=np.float64), minimum, maximum)
    if step <= 0:
        return quantise(values, minimum, maximum).astype(np.int64)
    low = round(minimum / step) * step
    return np.clip(np.rint((values - low) / step), 0, class_count(minimum, maximum, step) - 1).astype(np.int64)


def normalise(values: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
    """Values in parameter units → the regression target (v − min)/(max − min), float64, in [0, 1] inside the range.

    A range of no width gives 0.
    """
    values = np.asarray(values, dtype=np.float64)
    return (values - minimum) / (maximum - minimum) if maximum > minimum else np.zeros_like(values)


def class_values(minimum: float, maximum: float, step: float) -> np.ndarray:
    """The value at the centre of every class, in parameter units: float64, (classes,)."""
    if step <= 0:
        return dequantise(np.arange(LEVELS + 1), minimum, maximum)
    return (round(minimum / step) + np.arange(class_count(minimum, maximum, step))) * step


def _number(name: str, entry: Mapping, key: str, where: str) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise DatasetError(f"{where}: {name!r} has {key} = {value!r}; expected a finite number")
    return float(value)
