"""Tells the processes that test how far those that trained have come, where a trainer spawns new ones for either.

Their own trainers are copies that stand at step 0, and what they log would stand there too.
"""

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class SpawnedSteps(Callback):
    """Keeps step and epoch in memory that all processes share. For trainers whose strategy spawns processes."""

    def __init__(self) -> None:
        self._reached = torch.zeros(2, dtype=torch.int64).share_memory_()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._reached[0] = trainer.fit_loop.epoch_loop._batches_that_stepped  # what Lightning logs by
            self._reached[1] = trainer.current_epoch

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = int(self._reached[0])
        trainer.fit_loop.epoch_progress.current.completed = int(self._reached[1])
