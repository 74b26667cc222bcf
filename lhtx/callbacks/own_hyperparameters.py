"""Lets a run that goes on from a checkpoint train with its own config's hyperparameters instead of the checkpoint's."""

import copy
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lhtx.restoring import check_optimizer, hyperparameters, use_own, use_own_schedule


class OwnHyperparameters(Callback):
    """`restore.hyperparameters: config`.

    Learning rate, weight decay, momenta and all other arguments of optimizer and schedule, and the seed of what is drawn while
    training, are the config's; weights, moments, steps and the position in the schedule are the checkpoint's
    (`lhtx.restoring`). It stands before every callback that steps a schedule.

    Raises:
        CheckpointError: the checkpoint's optimizer is not the config's.
    """

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._states = checkpoint["optimizer_states"]
        checkpoint.get("callbacks", {}).pop("RandomState", None)  # its seed would win over the config's

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimizers and schedules are as the config has made them, and not restored yet."""
        for state, optimizer in zip(self._states, trainer.optimizers, strict=True):
            check_optimizer(state, optimizer)
        del self._states
        self._own = [hyperparameters(optimizer) for optimizer in trainer.optimizers]
        self._schedules = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer, own in zip(trainer.optimizers, self._own, strict=True):
            use_own(optimizer, own)
        for config, state in zip(trainer.lr_scheduler_configs, self._schedules, strict=True):
            epochs = trainer.current_epoch if config.interval == "step" else None
            use_own_schedule(config.scheduler, state, epochs, trainer.max_epochs or 0)
