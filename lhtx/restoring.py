"""Training on from a checkpoint with other hyperparameters than those that it was written with.

A checkpoint holds the learning rate, the weight decay and all else that its run's optimizer and schedule were built with, and
restoring it brings these back. Here is what puts the config's own in their place and keeps what training has come to: weights,
moments, steps, and the position in the schedule. Knows optimizers, schedules and checkpoints, no config and no trainer.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lhtx.errors import CheckpointError
from lhtx.tasks.multihead import BEST

_CYCLED = ("momentum", "betas")
"""What a schedule that cycles the momentum changes besides the learning rate."""
_DERIVED = frozenset(
    ("base_lrs", "max_lrs", "min_lrs", "total_size", "step_ratio", "total_steps", "_schedule_phases", "_anneal_func_type")
)
"""What a schedule makes of its constructor's arguments and keeps under other names."""

Groups = list[dict[str, Any]]


def hyperparameters(optimizer: Optimizer) -> Groups:
    """Those of each parameter group: all that it holds but the parameters themselves."""
    return [
        copy.deepcopy({name: value for name, value in group.items() if name != "params"}) for group in optimizer.param_groups
    ]


def check_optimizer(state: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuses the `state` of an optimizer that `optimizer` cannot train on with.

    Raises:
        CheckpointError: another number of groups or parameters, or an optimizer with other hyperparameters; or a checkpoint
            that does not say from which learning rate its schedule began.
    """
    theirs, own = state["param_groups"], optimizer.param_groups
    sizes = [[len(group["params"]) for group in groups] for groups in (theirs, own)]
    kind = type(optimizer).__name__
    if sizes[0] != sizes[1]:
        raise CheckpointError(
            f"the checkpoint's optimizer has parameter groups of {sizes[0]} tensors, and the config's {kind} has {sizes[1]}: "
            "model.decay_vectors and what is trained must be as they were"
        )
    for there, here in zip(theirs, own, strict=True):
        if unknown := {"lr", "initial_lr"} - there.keys():
            raise CheckpointError(
                f"the checkpoint does not say its {' or '.join(sorted(unknown))} (an older version wrote it), so that nobody "
                "can tell where in its schedule it stands: train on with restore.hyperparameters=checkpoint"
            )
        cycled = ("min_lr", "max_lr", "base_momentum", "max_momentum")
        names = [set(group) - {"params", *cycled} for group in (there, here)]
        if names[0] != names[1]:
            raise CheckpointError(
                f"the checkpoint's optimizer has {', '.join(sorted(names[0]))}, and the config's {kind} has "
                f"{', '.join(sorted(names[1]))}: it must be the same optimizer"
            )


def use_own(optimizer: Optimizer, own: Groups) -> None:
    """Give a restored optimizer its `own` hyperparameters, as it had them before it was restored.

    The learning rate becomes own base · (restored rate / restored base): the same place in the schedule. Where the base is as
    it was, the rate is too, to the bit. A momentum that the schedule cycles is left to it.
    """
    for group, mine in zip(optimizer.param_groups, own, strict=True):
        rate, base = group["lr"], group["initial_lr"]
        cycled = _CYCLED if "max_momentum" in group else ()
        group.update(copy.deepcopy({name: value for name, value in mine.items() if name not in ("lr", *cycled)}))
        if mine["initial_lr"] != base:
            group["lr"] = mine["initial_lr"] * (rate / base) if base else mine["lr"]


def use_own_schedule(schedule: LRScheduler, own: Mapping[str, Any], epochs: int | None = None, of: int = 0) -> None:
    """Give a restored schedule, whose optimizer has its own hyperparameters, its `own` arguments; it keeps its position.

    A schedule that is laid over the whole run in optimizer steps keeps the share of it that is done: with another batch size an
    epoch has another number of steps.

    Args:
        own: its state before it was restored.
        epochs: how many are done, if the schedule is stepped after every optimizer step; None otherwise.
        of: the epochs of the whole run.
    """
    total = own.get("total_steps")
    if epochs is not None and of > 0 and total:
        first = round(epochs * total / of)
        if not first <= schedule.last_epoch <= round((epochs + 1) * total / of):
            schedule.last_epoch = first
    _take_over(schedule, own)


def _take_over(schedule: LRScheduler, own: Mapping[str, Any]) -> None:
    arguments = inspect.signature(type(schedule).__init__).parameters.keys() - {"self", "optimizer", "last_epoch"}
    for name, value in own.items():
        if name == "_schedulers":
            for part, state in zip(schedule._schedulers, value, strict=True):  # type: ignore[attr-defined]
                _take_over(part, state)
        elif name in _DERIVED or name.lstrip("_") in arguments:
            setattr(schedule, name, copy.deepcopy(value))
        elif name == "lr_lambdas":  # of plain functions there is no state: they are the config's own
            for function, state in zip(schedule.lr_lambdas, value, strict=True):  # type: ignore[attr-defined]
                vars(function).update(state or {})
    if hasattr(schedule, "_last_lr"):
        schedule._last_lr = [group["lr"] for group in schedule.optimizer.param_groups]


def as_start(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """`checkpoint` as another run can start from it: without what its own run's best was, and where that lies."""
    callbacks = {name: state for name, state in checkpoint.get("callbacks", {}).items() if not _keeps_best(name)}
    start = {**checkpoint, "callbacks": callbacks}
    if "best_metrics" in checkpoint:
        start["best_metrics"] = {name: BEST[name][2] for name in checkpoint["best_metrics"]}
    return start


def _keeps_best(callback: str) -> bool:
    return callback.startswith("ModelCheckpoint")
