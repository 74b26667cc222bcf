"""Notes when a training begins, takes its first step, and ends: a line of JSON each, appended to one file.

A callback, and a logger for networks that train as one, which have no callbacks of their own and no first step.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger


class Stamp(Callback):
    """Each line: `event` (begin, step, end), `pid`, `time` (the system's monotonic clock), `cpu` (the process's); in s."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._stepped = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        note(self._file, "begin")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._stepped:
            self._stepped = True
            note(self._file, "step")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        note(self._file, "end")


class StampLogger(DummyLogger):
    """The same of a network that trains with others: from when it is made to its final metrics."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self._file = file

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        note(self._file, "begin")

    def finalize(self, status: str) -> None:
        note(self._file, "end")


def note(file: str, event: str) -> None:
    line = {"event": event, "pid": os.getpid(), "time": time.monotonic(), "cpu": time.process_time()}
    with open(file, "a") as lines:
        lines.write(json.dumps(line) + "\n")  # one write: lines of several processes do not mix
