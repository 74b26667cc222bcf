"""Soft classification targets, made on the device for a whole batch from its class indices.

Pure functions of tensors: they know nothing of datasets, heads or losses. The width is measured in class steps. It may be
swept, because nothing of a target is stored with a sample.
"""

from collections.abc import Callable
from math import isfinite

import torch
from torch import Tensor

from lhtx.errors import ConfigError

_NARROWEST = 1e-6
"""A Gaussian of this width in class steps is already exactly one-hot, and still divides without overflow."""


def gaussian_targets(index: Tensor, classes: int, width: float, support: int | None = None) -> Tensor:
    """Distributions p_j ∝ exp(−(j − c)²/(2σ²)) around each class index c, normalised over the classes that exist.

    Args:
        index: class indices c, int64 (B,).
        classes: number of classes.
        width: the standard deviation σ in class steps; 0 gives one-hot rows.
        support: p_j = 0 where |j − c| is above it; None for no cut.

    Returns:
        float32 (B, classes), each row summing to 1.
    """
    offset = _offset(index, classes, width)
    exponent = -0.5 * (offset / max(width, _NARROWEST)).square()
    if support is not None:
        exponent = exponent.masked_fill(offset.abs() > support, -torch.inf)
    return exponent.softmax(dim=1)


def triangular_targets(index: Tensor, classes: int, width: float) -> Tensor:
    """Distributions p_j ∝ w + 1 − |j − c| where |j − c| ≤ w, else 0: shapes as `gaussian_targets`, w = `width`."""
    distance = _offset(index, classes, width).abs()
    weight = (width + 1 - distance) * (distance <= width)
    return weight / weight.sum(dim=1, keepdim=True)


def log_triangular_targets(index: Tensor, classes: int, width: float) -> Tensor:
    """Distributions p_j ∝ exp(−|j − c|) where |j − c| ≤ w, else 0: shapes as `gaussian_targets`, w = `width`."""
    distance = _offset(index, classes, width).abs()
    return (-distance).masked_fill(distance > width, -torch.inf).softmax(dim=1)


SHAPES: dict[str, Callable[[Tensor, int, float], Tensor]] = {
    "gaussian": gaussian_targets,
    "triangular": triangular_targets,
    "log_triangular": log_triangular_targets,
}
"""The shapes that a config can name; every one is one-hot at width 0."""


def soft_targets(index: Tensor, classes: int, width: float, shape: str = "gaussian") -> Tensor:
    """The distributions of a named shape (see `SHAPES`): index int64 (B,) → float32 (B, classes).

    Raises:
        ConfigError: for an unknown shape, or a width that is negative or not finite.
    """
    if shape not in SHAPES:
        raise ConfigError(f"unknown target shape {shape!r}. Accepted: {', '.join(SHAPES)}")
    return SHAPES[shape](index, classes, width)


def _offset(index: Tensor, classes: int, width: float) -> Tensor:
    """j − c in class steps, float32 (B, classes)."""
    if not isfinite(width) or width < 0:
        raise ConfigError(f"the target width is {width}; expected a finite number of class steps, 0 or more")
    return (torch.arange(classes, device=index.device) - index[:, None]).float()
