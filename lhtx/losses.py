"""Losses of one head: pure functions of tensors, and thin modules that pair each with the target and output it needs.

Nothing here knows of networks, datasets or training: the task reads the declarations and hands over what they ask for.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lhtx.errors import ConfigError

Target = Literal["index", "distribution", "unit", "value"]
Output = Literal["logits", "scalar"]
Readout = Literal["argmax", "expectation"]
Distance = Literal["l1", "l2", "huber"]
DISTANCES: tuple[str, ...] = ("l1", "l2", "huber")


def elementwise_distance(output: Tensor, target: Tensor, distance: Distance = "l1", huber_delta: float = 1.0) -> Tensor:
    """|e|, e² or Huber's function of e = output − target, of any one shape: ½e² where |e| ≤ δ, else δ(|e| − δ/2).

    Raises:
        ConfigError: for a distance that is none of `DISTANCES`.
    """
    if distance == "l1":
        return F.l1_loss(output, target, reduction="none")
    if distance == "l2":
        return F.mse_loss(output, target, reduction="none")
    if distance == "huber":
        return F.huber_loss(output, target, reduction="none", delta=huber_delta)
    raise ConfigError(f"unknown distance {distance!r}. Accepted: {', '.join(DISTANCES)}")


def expectation(logits: Tensor) -> Tensor:
    """The mean class index under softmax(logits): (B, C) → (B,), in class steps, 0 … C − 1."""
    return (logits.softmax(dim=1) * torch.arange(logits.shape[1], device=logits.device)).sum(dim=1)


def cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Mean of −Σ_j w_j p_j log softmax(logits)_j, as `torch.nn.functional.cross_entropy` takes it.

    Args:
        logits: (B, C).
        target: class indices int64 (B,), or distributions p, floating point (B, C).
        class_weights: w, (C,); 1 without. With indices the mean is the weighted one, divided by the sum of the samples'
            weights; with distributions it is divided by B.
        label_smoothing: ε in [0, 1]: p becomes (1 − ε)·p + ε/C.
    """
    weights = None if class_weights is None else class_weights.to(logits.dtype)
    return F.cross_entropy(logits, target, weight=weights, label_smoothing=label_smoothing)


def soft_target(logits: Tensor, distribution: Tensor) -> Tensor:
    """KL(p ‖ softmax(logits)), summed over classes, mean over the batch; logits and p are (B, C).

    Its gradient is that of `cross_entropy`; its value is lower by the entropy of p, so that a perfect fit is 0.
    """
    return F.kl_div(logits.log_softmax(dim=1), distribution, reduction="batchmean")


def ordinal(
    logits: Tensor,
    index: Tensor,
    parameter_range: float,
    alpha: float = 0.1,
    distance: Distance = "l1",
    huber_delta: float = 1.0,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Distance from the expected class to the true one, × range/(C − 1), + α · cross-entropy.

    The cross-entropy keeps the distribution narrow: the distance alone is blind to its spread.

    Args:
        logits: (B, C).
        index: class indices, int64 (B,).
        parameter_range: max − min in parameter units.
        alpha: weight of the cross-entropy.
        distance, huber_delta: see `elementwise_distance`, in class steps.
        class_weights: (C,), of the samples by their true class: both terms become weighted means.
        label_smoothing: of the cross-entropy alone.
    """
    expected = expectation(logits)
    steps = elementwise_distance(expected, index.to(expected.dtype), distance, huber_delta)
    steps = _mean_by_class(steps, index, class_weights) * (parameter_range / (logits.shape[1] - 1))
    return steps + alpha * cross_entropy(logits, index, class_weights, label_smoothing)


def weighted_cross_entropy(
    logits: Tensor, index: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy + Σ over the wrong classes j of (1 + (j − c)²)·softmax(logits)_j, mean over the batch.

    Args:
        logits: (B, C).
        index: class indices c, int64 (B,).
        class_weights: (C,), of the samples by their true class: both terms become weighted means.
        label_smoothing: of the cross-entropy alone.
    """
    offset = torch.arange(logits.shape[1], device=logits.device) - index[:, None]
    penalty = ((1 + offset.square()) * (offset != 0) * logits.softmax(dim=1)).sum(dim=1)
    return cross_entropy(logits, index, class_weights, label_smoothing) + _mean_by_class(penalty, index, class_weights)


def quantized_regression(
    output: Tensor,
    index: Tensor,
    classes: int,
    parameter_range: float,
    distance: Distance = "l1",
    huber_delta: float = 1.0,
) -> Tensor:
    """Distance from the output, clamped to [0, C − 1], to the class index, × range/(C − 1).

    Args:
        output: (B,) in class steps. Outside [0, C − 1] it has no gradient.
        index: class indices, int64 (B,).
        classes: the number of classes C.
        parameter_range: max − min in parameter units.
        distance, huber_delta: see `elementwise_distance`, in class steps.
    """
    steps = elementwise_distance(output.clamp(0, classes - 1), index.to(output.dtype), distance, huber_delta).mean()
    return steps * (parameter_range / (classes - 1))


def normalized_regression(
    output: Tensor, unit: Tensor, parameter_range: float, distance: Distance = "l2", huber_delta: float = 0.1
) -> Tensor:
    """Mean distance of output and target, both (B,) in [0, 1], × range (max − min in parameter units)."""
    return elementwise_distance(output, unit, distance, huber_delta).mean() * parameter_range


def direct_regression(output: Tensor, value: Tensor, distance: Distance = "l1", huber_delta: float = 1.0) -> Tensor:
    """Mean distance of output and target, both (B,) in parameter units."""
    return elementwise_distance(output, value, distance, huber_delta).mean()


def index_regression(output: Tensor, unit: Tensor, distance: Distance = "l1", huber_delta: float = 1.0) -> Tensor:
    """Distance summed over the P parameters of a sample, mean over samples; both (B, P) in [0, 1].

    It is the sum of the P losses of the single parameters, which is how a task of several heads computes it.
    """
    return elementwise_distance(output, unit, distance, huber_delta).sum(dim=1).mean()


def _mean_by_class(values: Tensor, index: Tensor, class_weights: Tensor | None) -> Tensor:
    """The mean of `values`, (B,), weighted by the weights of the classes `index`, (B,), where there are any."""
    if class_weights is None:
        return values.mean()
    weights = class_weights[index].to(values.dtype)
    return (weights * values).sum() / weights.sum()


class Loss(nn.Module):
    """A loss of one head, built by the task from the head's classes and range. Called with (output, target).

    `target` is what the task hands it for a batch: `index` int64 (B,), `distribution` (B, C), `unit` (B,) in [0, 1] or
    `value` (B,) in parameter units. `output` is what the head must give: `logits` (B, C), or a `scalar` in [0, 1], which
    the task brings to the unit of the target: class steps for an index, parameter units for a value. `accepts_soft`:
    a distribution may come in place of the index. `readout` tells how the metrics read a prediction off the output.

    Args:
        classes: number of classes of the head, 2 or more.
        parameter_range: max − min of the parameter, in its units.
    """

    target: ClassVar[Target]
    output: ClassVar[Output]
    readout: ClassVar[Readout]
    accepts_soft: ClassVar[bool] = False

    def __init__(self, classes: int, parameter_range: float) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"{type(self).__name__} needs 2 classes or more, and the head has {classes}")
        self.classes = classes
        self.parameter_range = parameter_range

    def sample_weights(self, index: Tensor) -> Tensor | None:
        """The weights (B,) by which the mean over a batch of the true classes `index`, int64 (B,), is a weighted one.

        None where every sample weighs the same. Metrics need it to take the mean over an epoch.
        """
        return None

    def extra_repr(self) -> str:
        return f"classes={self.classes}, parameter_range={self.parameter_range:g}"


class _DistanceLoss(Loss):
    """A loss with a choice of distance: `l1`, `l2` or `huber` (whose δ is `huber_delta`)."""

    def __init__(self, classes: int, parameter_range: float, distance: Distance = "l1", huber_delta: float = 1.0) -> None:
        super().__init__(classes, parameter_range)
        _check_distance(self, distance, huber_delta)
        self.distance = distance
        self.huber_delta = huber_delta


class _ClassLoss(Loss):
    """A loss with a cross-entropy in it.

    Class weights are a buffer: they follow the module to its device and precision, and into the checkpoint.

    Args:
        class_weights: one number above 0 a class, None for 1 each.
        label_smoothing: of the cross-entropy, in [0, 1].
    """

    def __init__(
        self,
        classes: int,
        parameter_range: float,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(classes, parameter_range)
        if not _is_number(label_smoothing) or not 0 <= label_smoothing <= 1:
            raise ConfigError(f"{type(self).__name__}: label_smoothing is {label_smoothing!r}; expected a number from 0 to 1")
        self.label_smoothing = float(label_smoothing)
        weights = None if class_weights is None else torch.tensor(_class_weights(self, class_weights))
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", weights)

    def sample_weights(self, index: Tensor) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights[index]


class CrossEntropy(_ClassLoss):
    """`cross_entropy` on the class index, or on a soft distribution where the target width is above 0."""

    target, output, readout, accepts_soft = "index", "logits", "argmax", True

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target, self.class_weights, self.label_smoothing)


class SoftTarget(Loss):
    """`soft_target`: Kullback-Leibler divergence from a soft distribution."""

    target, output, readout, accepts_soft = "distribution", "logits", "argmax", True

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return soft_target(output, target)


class WeightedCrossEntropy(_ClassLoss):
    """`weighted_cross_entropy`: far classes cost more than near ones."""

    target, output, readout = "index", "logits", "argmax"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return weighted_cross_entropy(output, target, self.class_weights, self.label_smoothing)


class Ordinal(_ClassLoss):
    """`ordinal`: distance of the expected class in parameter units, plus `alpha` times the cross-entropy."""

    target, output, readout = "index", "logits", "expectation"

    def __init__(
        self,
        classes: int,
        parameter_range: float,
        distance: Distance = "l1",
        huber_delta: float = 1.0,
        alpha: float = 0.1,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(classes, parameter_range, class_weights, label_smoothing)
        _check_distance(self, distance, huber_delta)
        if not alpha >= 0:
            raise ConfigError(f"Ordinal: alpha is {alpha}; expected 0 or more")
        self.distance = distance
        self.huber_delta = huber_delta
        self.alpha = alpha

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        options = (self.distance, self.huber_delta, self.class_weights, self.label_smoothing)
        return ordinal(output, target, self.parameter_range, self.alpha, *options)


class QuantizedRegression(_DistanceLoss):
    """`quantized_regression`: distance to the class index, in parameter units."""

    target, output, readout = "index", "scalar", "expectation"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return quantized_regression(output, target, self.classes, self.parameter_range, self.distance, self.huber_delta)


class NormalizedRegression(_DistanceLoss):
    """`normalized_regression`: mean squared error in [0, 1] by default, × the parameter's range."""

    target, output, readout = "unit", "scalar", "expectation"

    def __init__(self, classes: int, parameter_range: float, distance: Distance = "l2", huber_delta: float = 0.1) -> None:
        super().__init__(classes, parameter_range, distance, huber_delta)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return normalized_regression(output, target, self.parameter_range, self.distance, self.huber_delta)


class DirectRegression(_DistanceLoss):
    """`direct_regression`: distance in parameter units."""

    target, output, readout = "value", "scalar", "expectation"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return direct_regression(output, target, self.distance, self.huber_delta)


class IndexRegression(_DistanceLoss):
    """`index_regression` of one parameter; the task's sum over heads of weight 1 is that of the whole vector."""

    target, output, readout = "unit", "scalar", "expectation"

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return index_regression(output[:, None], target[:, None], self.distance, self.huber_delta)


LOSSES: tuple[type[Loss], ...] = (
    CrossEntropy,
    SoftTarget,
    WeightedCrossEntropy,
    Ordinal,
    QuantizedRegression,
    NormalizedRegression,
    DirectRegression,
    IndexRegression,
)
"""Every loss that a config can name."""


def _check_distance(loss: Loss, distance: str, huber_delta: float) -> None:
    if distance not in DISTANCES:
        raise ConfigError(f"{type(loss).__name__}: unknown distance {distance!r}. Accepted: {', '.join(DISTANCES)}")
    if not huber_delta > 0:
        raise ConfigError(f"{type(loss).__name__}: huber_delta is {huber_delta}; expected a number above 0")


def _class_weights(loss: Loss, given: Sequence[float]) -> list[float]:
    """`given` as floats; refused where it is not one number above 0 a class."""
    name = type(loss).__name__
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ConfigError(f"{name}: class_weights is {given!r}; expected a list of {loss.classes} numbers, one a class")
    if len(given) != loss.classes:
        raise ConfigError(f"{name}: class_weights has {len(given)} numbers and the head has {loss.classes} classes")
    for position, weight in enumerate(given):
        # 0 is refused too: a batch of such samples alone would have a loss of 0/0
        if not _is_number(weight) or not weight > 0:
            raise ConfigError(f"{name}: class_weights[{position}] is {weight!r}; expected a finite number above 0")
    return [float(weight) for weight in given]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
