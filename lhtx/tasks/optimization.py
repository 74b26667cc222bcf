"""How parameters reach an optimizer, and an optimizer its learning-rate schedule. Knows no trainer, network or loss."""

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lhtx.errors import ConfigError

Interval = Literal["epoch", "step"]
OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]


def build_optimizer(factory: OptimizerFactory, module: nn.Module, decay_vectors: bool) -> Optimizer:
    """The optimizer over the parameters of `module`.

    Args:
        factory: builds it from parameters or parameter groups.
        module: whose parameters.
        decay_vectors: whether weight decay reaches the parameters of one dimension too: biases, scales of normalisations,
            tokens. If not, they form a group of their own, `vectors`, beside the `matrices`.

    Raises:
        ConfigError: an optimizer without weight decay, where some are to be left out of it.
    """
    if decay_vectors:
        return factory(module.parameters())
    vectors = {id(parameter) for parameter in _vectors(module)}
    groups = [
        {"name": "matrices", "params": [p for p in module.parameters() if id(p) not in vectors]},
        {"name": "vectors", "params": [p for p in module.parameters() if id(p) in vectors], "weight_decay": 0.0},
    ]
    optimizer = factory([group for group in groups if group["params"]])
    if "weight_decay" not in optimizer.defaults:
        raise ConfigError(
            f"decay_vectors is false and {type(optimizer).__name__} has no weight decay to leave them out of; set it to true"
        )
    return optimizer


def remember_base(optimizer: Optimizer) -> None:
    """Note in each group of `optimizer`, so that checkpoints hold it, from which learning rate its schedule begins. (Most of
    torch's schedules do.)"""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])


def _vectors(module: nn.Module) -> Iterable[nn.Parameter]:
    """Parameters with one dimension above size 1 at most, but for the weights of linear maps and convolutions."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            weighs = name == "weight" and isinstance(part, nn.Linear | _ConvNd)
            if not weighs and sum(size > 1 for size in parameter.shape) <= 1:
                yield parameter


def check_interval(interval: str) -> None:
    """Raise a `ConfigError` for an interval that is none."""
    if interval not in get_args(Interval):
        raise ConfigError(f"scheduler_interval is {interval!r}. Accepted: {', '.join(get_args(Interval))}")


def wants_total_steps(factory: SchedulerFactory) -> bool:
    """Whether a schedule takes `total_steps` and its config gives neither that nor what it follows from (`epochs`)."""
    given = factory.keywords if isinstance(factory, partial) else {}
    return "total_steps" in inspect.signature(factory).parameters and given.get("total_steps", given.get("epochs")) is None


def build_schedule(
    factory: SchedulerFactory, optimizer: Optimizer, interval: Interval, total_steps: Callable[[], int]
) -> dict[str, Any]:
    """A schedule as Lightning takes it: stepped once an `interval`, on `val/loss` where it asks for a metric.

    Args:
        factory: builds it from the optimizer, and from `total_steps` if it `wants_total_steps`.
        optimizer: what it schedules.
        interval: `epoch` or `step`, an optimizer step.
        total_steps: tells how many of these the whole run has; asked only where it is wanted.

    Raises:
        ConfigError: for a `ReduceLROnPlateau` stepped more often than there is a `val/loss`.
    """
    options = {"total_steps": total_steps()} if wants_total_steps(factory) else {}
    scheduler = factory(optimizer, **options)
    if options:
        scheduler.total_steps = options["total_steps"]  # a checkpoint holds what it knows of itself
    if interval != "epoch" and isinstance(scheduler, ReduceLROnPlateau):
        raise ConfigError("ReduceLROnPlateau follows val/loss, which is there once an epoch; set scheduler_interval: epoch")
    return {"scheduler": scheduler, "interval": interval, "monitor": "val/loss"}
