"""What happened at single optimizer steps, for the loggers: which steps they get, and how their numbers are written.

Callbacks keep the numbers of these steps as tensors on their device and write them when the epoch ends, each at its own step.
Nothing of it is a metric: what monitors or reports a run never sees it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from lhtx.errors import ConfigError


def recorded(trainer: Trainer, every_n_steps: int) -> bool:
    """Whether the optimizer step about to be taken is one for the loggers: every n-th of the run, the first one included."""
    return trainer.global_step % every_n_steps == 0


def write(trainer: Trainer, values: Mapping[str, float], step: int) -> None:
    """Hands `values` to every logger as those of the optimizer step `step`, counted from 0."""
    for logger in trainer.loggers:
        logger.log_metrics(dict(values), step=step)


class StepLog(Callback):
    """Logs the training loss and the learning rate of every n-th optimizer step, n = `trainer.log_every_n_steps`.

    `train/loss_step` is the mean loss of the batches behind the step, over all processes; `lr` the learning rate that the step
    takes, or `lr/{group}` for each of several parameter groups, by its `name` or position.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.log_every_n_steps < 1:
            raise ConfigError(f"trainer.log_every_n_steps is {trainer.log_every_n_steps}, expected 1 or more")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rates: dict[int, dict[str, float]] = {}  # by step
        self._losses: list[Tensor] = []  # of the same steps
        self._batches: list[Tensor] = []  # the losses of the batches since the last step
        self._due: bool | None = None  # None: the batch takes no step

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        self._due = recorded(trainer, trainer.log_every_n_steps)
        if self._due:
            self._rates[trainer.global_step] = learning_rates(optimizer)

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._batches.append(outputs["loss"])
        if self._due is None:
            return
        if self._due:
            # Lightning has divided each by the number of batches that a whole step accumulates.
            mean = self._batches[0] if len(self._batches) == 1 else torch.stack(self._batches).mean()
            self._losses.append(mean * trainer.accumulate_grad_batches)
        self._batches, self._due = [], None

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._losses:
            return
        losses = trainer.strategy.reduce(torch.stack(self._losses), reduce_op="mean").tolist()
        for (step, rates), loss in zip(self._rates.items(), losses, strict=True):
            write(trainer, {"train/loss_step": loss, **rates}, step)
        self._rates, self._losses = {}, []


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The learning rate of each parameter group of an optimizer, by name: `lr`, or `lr/{group}` where there are several."""
    groups = optimizer.param_groups
    if len(groups) == 1:
        return {"lr": float(groups[0]["lr"])}
    return {f"lr/{group.get('name', position)}": float(group["lr"]) for position, group in enumerate(groups)}
