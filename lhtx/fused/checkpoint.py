"""A member's checkpoint, in the form in which Lightning writes that of a run of its own at the same epoch.

So `lhtx.evaluate` and `lhtx.predict` read it, and `lhtx.train` goes on from it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lightning
from lightning import Trainer
from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """How far a member is.

    Attributes:
        epochs: trained.
        steps: optimizer steps of each epoch.
        validation: batches of a validation.
        schedule: how often its schedule was stepped, and how often in the last epoch.
    """

    epochs: int
    steps: int
    validation: int
    schedule: tuple[int, int]


def content(
    trainer: Trainer,
    progress: Progress,
    state: Mapping[str, Any],
    callbacks: Mapping[str, Any],
    optimizer: Mapping[str, Any],
    schedule: Mapping[str, Any] | None,
    datamodule: Mapping[str, Any],
) -> dict[str, Any]:
    """The checkpoint, with tensors of its own.

    Args:
        trainer: whose loops' states are filled in; it stays as it is.
        progress: of the member.
        state: its task's state dict; callbacks: state key → state; optimizer, schedule: their state dicts; datamodule: its
            class → its state.
    """
    content = {
        "epoch": progress.epochs - 1,
        "global_step": progress.epochs * progress.steps,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": state,
        "loops": _loops(trainer, progress),
        "callbacks": callbacks,
        "optimizer_states": [optimizer],
        "lr_schedulers": [] if schedule is None else [schedule],
        **datamodule,
    }
    return _owned(content)


def _loops(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """What Lightning's loops would keep when the callbacks of the end of an epoch are called."""
    loops = {
        "fit_loop": trainer.fit_loop,
        "validate_loop": trainer.validate_loop,
        "test_loop": trainer.test_loop,
        "predict_loop": trainer.predict_loop,
    }
    states = copy.deepcopy({name: loop.state_dict() for name, loop in loops.items()})
    fit, total = states["fit_loop"], progress.epochs * progress.steps
    _count(fit["epoch_progress"], progress.epochs, progress.epochs)
    for scope in ("current", "total"):
        fit["epoch_progress"][scope]["completed"] = progress.epochs - 1
    _count(fit["epoch_loop.batch_progress"], progress.steps, total)
    optimizer = fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    _count(optimizer["step"], progress.steps, total)
    _count(optimizer["zero_grad"], progress.steps, total)
    _count(fit["epoch_loop.scheduler_progress"], progress.schedule[1], progress.schedule[0])
    _count(fit["epoch_loop.val_loop.batch_progress"], progress.validation, progress.validation)
    fit["epoch_loop.batch_progress"]["is_last_batch"] = True
    fit["epoch_loop.val_loop.batch_progress"]["is_last_batch"] = progress.validation > 0
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] = total
    return states


def _count(counter: dict[str, Any], current: int, total: int) -> None:
    for scope, number in (("current", current), ("total", total)):
        counter[scope] = dict.fromkeys(counter[scope], number)


def _owned(value: Any) -> Any:
    """`value` with copies of all tensors: those of a member are rows of larger ones, which a file would hold whole."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return type(value)((key, _owned(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return type(value)(_owned(each) for each in value)
    return value
