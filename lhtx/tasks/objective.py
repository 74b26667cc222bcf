"""What one head is trained on: its loss, the target that the loss asks for, and the head's output in the target's unit."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lhtx.config_errors import near
from lhtx.errors import ConfigError
from lhtx.losses import LOSSES, Loss, expectation
from lhtx.nets.heads import HeadKind
from lhtx.targets import soft_targets
from lhtx.tasks.heads import Head, require_known_heads
from lhtx.tasks.readout import largest_class

LossFactory = Callable[..., Loss]
OUTPUT_OF_KIND: Mapping[HeadKind, str] = {"classification": "logits", "regression": "scalar"}


class Objective(nn.Module):
    """The loss of one head with its weight, and the prediction that goes with it.

    Soft targets are the rows of a table with one row a class, made once: a batch costs one look-up on its device.

    Args:
        head: the head's name and units.
        loss: its loss.
        weight: what the loss is multiplied by.
        target_width, target_shape: of soft targets, for losses that accept them; see `lhtx.targets.soft_targets`.
    """

    def __init__(self, head: Head, loss: Loss, weight: float, target_width: float, target_shape: str) -> None:
        super().__init__()
        self.head, self.loss, self.weight = head, loss, weight
        classes = head.spec.classes
        table = soft_targets(torch.arange(classes), classes, target_width, target_shape)
        soft = loss.target == "distribution" or (loss.accepts_soft and target_width > 0)
        self.register_buffer("soft_targets", table if soft else None, persistent=False)

    def forward(self, output: Tensor, index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted loss of a batch, and its predictions.

        Args:
            output: what the network's head gave: logits (B, classes), or (B, 1) in [0, 1].
            index: true class indices, int64 (B,).
            value: true units in [0, 1], float32 (B,).

        Returns:
            a scalar, and (B,) predictions: class indices (see `lhtx.tasks.readout`), or positions in class steps where the
            loss reads an expectation.
        """
        output = output.to(torch.promote_types(output.dtype, torch.float32))  # 255 classes are too fine for half precision
        if self.loss.output == "logits":
            prediction = largest_class(output) if self.loss.readout == "argmax" else expectation(output)
            target = index if self.soft_targets is None else self.soft_targets[index]
            return self.weight * self.loss(output, target), prediction
        unit = output[:, 0]
        position = self.head.position_of_unit(unit)
        if self.loss.target == "index":
            loss = self.loss(position, index)
        elif self.loss.target == "value":
            loss = self.loss(self.head.value_of_unit(unit), self.head.value_of_unit(value))
        else:
            loss = self.loss(unit, value)
        return self.weight * loss, position

    def sample_weights(self, index: Tensor) -> Tensor | None:
        """The weights (B,) of the samples of the true classes `index` in the loss's mean; None where all weigh the same."""
        return None if self.soft_targets is not None else self.loss.sample_weights(index)


def build_losses(loss: LossFactory | Mapping[str, LossFactory], heads: list[Head], kind: HeadKind) -> list[Loss]:
    """One loss a head, in the order of `heads`.

    Args:
        loss: builds a loss from `classes` and `parameter_range`; or a mapping from every head to such. Where a partial
            holds `class_weights` as a mapping, every head gets its own of it, and heads not named get none.
        heads: the heads.
        kind: what the network's heads give.

    Raises:
        ConfigError: for an unknown or a missing head, something that builds no loss, options that a loss refuses, or a loss
            of the other kind of head.
    """
    if isinstance(loss, Mapping):
        require_known_heads("loss", loss, heads)
        missing = [head.name for head in heads if head.name not in loss]
        if missing:
            raise ConfigError(f"loss has no entry for {', '.join(missing)}; give every head one, or one loss for all of them")
        factories = [loss[head.name] for head in heads]
    else:
        factories = [loss] * len(heads)
    losses = [_build_loss(factory, head, heads) for factory, head in zip(factories, heads, strict=True)]
    for head, built in zip(heads, losses, strict=True):
        if built.output != OUTPUT_OF_KIND[kind]:
            fitting = ", ".join(known.__name__ for known in LOSSES if known.output == OUTPUT_OF_KIND[kind])
            raise ConfigError(
                f"the loss of head {head.name!r}, {type(built).__name__}, needs {built.output} and the network has "
                f"head_kind={kind!r}, which gives {OUTPUT_OF_KIND[kind]}. Losses that fit: {fitting}; or set net.head_kind "
                f"to the other kind"
            )
    return losses


def require_soft_losses(losses: list[Loss], target_width: float) -> None:
    """Raise a `ConfigError` where a target width above 0 would change nothing, because no loss takes soft targets."""
    if target_width > 0 and not any(loss.accepts_soft for loss in losses):
        found = ", ".join(dict.fromkeys(type(loss).__name__ for loss in losses))
        accepting = ", ".join(loss.__name__ for loss in LOSSES if loss.accepts_soft)
        raise ConfigError(
            f"target_width is {target_width} and the loss is {found}, which takes no soft targets, so the width would change "
            f"nothing; set it to 0, or choose one of {accepting}"
        )


def _build_loss(factory: Any, head: Head, heads: list[Head]) -> Loss:
    where = f"the loss of head {head.name!r}"
    if factory is None:
        raise ConfigError(f"head {head.name!r} has no loss. Losses there are: {', '.join(known.__name__ for known in LOSSES)}")
    if isinstance(factory, nn.Module) or not callable(factory):
        name = type(factory).__name__
        raise ConfigError(
            f"{where} is a {name}, already built; expected a class of lhtx.losses or a partial of one, which the task builds "
            "with the head's classes and range (in a config: _partial_: true)"
        )
    target = factory.func if isinstance(factory, partial) else factory
    name = getattr(target, "__name__", str(target))
    options = dict(factory.keywords) if isinstance(factory, partial) else {}
    no_loss = f"no lhtx.losses.Loss. Losses there are: {', '.join(known.__name__ for known in LOSSES)}"
    if isinstance(target, type) and not issubclass(target, Loss):
        raise ConfigError(f"{where} is {name}, which is {no_loss}")
    accepted = inspect.signature(target).parameters
    unknown = [option for option in options if option not in accepted]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        own = [option for option in accepted if option not in ("classes", "parameter_range")]
        raise ConfigError(f"{where}, {name}, has no option {unknown[0]!r}. {near(unknown[0], own)}")
    if isinstance(by_head := options.get("class_weights"), Mapping):
        require_known_heads("loss.class_weights", by_head, heads)
        factory = partial(factory, class_weights=by_head.get(head.name))
    try:
        loss = factory(classes=head.spec.classes, parameter_range=head.range)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(loss, Loss):
        raise ConfigError(f"{where} comes from {name!r}, which built a {type(loss).__name__} and {no_loss}")
    return loss
