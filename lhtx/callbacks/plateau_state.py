"""Makes a resumed run catch up on the learning-rate step that a checkpoint of the epoch's end does not yet contain."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class PlateauState(Callback):
    """Keeps the values that `ReduceLROnPlateau` schedules see after the checkpoint of an epoch's end has been written.

    Lightning steps such schedules after `on_train_epoch_end`, so that a run resumed from there would miss one step. This
    stores the monitored values in the checkpoint and steps the schedules with them when the run goes on.
    """

    def __init__(self) -> None:
        self._pending: dict[int, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = trainer.fit_loop.epoch_progress.current
        if progress.processed == progress.completed:
            return  # in mid-epoch: the step comes when the epoch ends
        checkpoint["plateau_values"] = {
            position: float(trainer.callback_metrics[config.monitor])
            for position, config in enumerate(trainer.lr_scheduler_configs)
            if config.reduce_on_plateau
            and config.interval == "epoch"
            and (trainer.current_epoch + 1) % config.frequency == 0
            and config.monitor in trainer.callback_metrics
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._pending = checkpoint.get("plateau_values", {})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for position, value in self._pending.items():
            pl_module.lr_scheduler_step(trainer.lr_scheduler_configs[position].scheduler, value)
        self._pending = {}
