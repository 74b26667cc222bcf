"""A callback that notes when a training begins, takes its first step, and ends: a line of JSON each, appended to one file."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class Stamp(Callback):
    """Each line: `event` (begin, step, end), `pid`, `time` (the system's monotonic clock), `cpu` (the process's); in s."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._stepped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note("begin")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._stepped:
            self._stepped = True
            self._note("step")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note("end")

    def _note(self, event: str) -> None:
        line = {"event": event, "pid": os.getpid(), "time": time.monotonic(), "cpu": time.process_time()}
        with open(self._file, "a") as file:
            file.write(json.dumps(line) + "\n")  # one write: lines of several processes do not mix
