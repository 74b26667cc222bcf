"""A callback that holds trials in mid-course, so that a fault meets them there on a machine of any speed."""

from __future__ import annotations

import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class Gate(Callback):
    """While `file` is there, the trials from the number on that it holds stand still before epoch `epoch`, counted from 0."""

    def __init__(self, file: str, epoch: int) -> None:
        self._file, self._epoch = Path(file), epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        while trainer.current_epoch >= self._epoch and self._holds(trainer):
            time.sleep(0.05)

    def _holds(self, trainer: Trainer) -> bool:
        number = Path(trainer.default_root_dir).name.partition("-")[0]  # on a node the name of an attempt follows
        try:
            return int(number) >= int(self._file.read_text())
        except FileNotFoundError:
            return False
