"""Keeps the last value of every logged metric in the checkpoint, so that a run resumed after its last epoch still has them."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

KEY = "logged_metrics"
"""Where in a checkpoint they stand: metric name → float."""


def logged(trainer: Trainer) -> dict[str, float]:
    """Every metric that `trainer` has, its last value, as numbers on the host."""
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


class LoggedMetrics(Callback):
    """Stores `trainer.callback_metrics` with every checkpoint; `lhtx.train` begins with those of the one that it resumes."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = logged(trainer)
