"""The work that every alternative to the platform is given: the same trials, through `lhtx.train`, noted in the same way.

It knows neither Ray nor Optuna: environments that hold neither import it too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

SEARCHED, LOW, HIGH = "model.optimizer.lr", 1e-4, 1e-2
METRIC = "val/avg_acc"


@dataclass(frozen=True)
class Workload:
    """What one alternative is to run, in a directory of its own.

    Attributes:
        trials: how many in all.
        concurrent: how many at a time.
        overrides: of every trial, the searched parameter and the directory excepted.
        directory: absolute; for all that the trials write.
    """

    trials: int
    concurrent: int
    overrides: tuple[str, ...]
    directory: str

    @classmethod
    def read(cls, file: str | Path) -> Workload:
        """The workload that `write` wrote."""
        fields = json.loads(Path(file).read_text())
        return cls(**{**fields, "overrides": tuple(fields["overrides"])})

    def write(self) -> Path:
        """Makes the directory and writes the workload into it; the file."""
        file = Path(self.directory) / "workload.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(asdict(self)))
        return file

    @property
    def stamps(self) -> Path:
        """Where the trials note their times."""
        return Path(self.directory) / "stamps.jsonl"

    def trial_overrides(self, fused: bool = False) -> list[str]:
        """The overrides that every trial has, those that note its times included. Args: fused: it trains with others as one."""
        stamp, name = ("logger.stamp", "StampLogger") if fused else ("callbacks.stamp", "Stamp")
        return [
            *self.overrides,
            f"+{stamp}._target_=benchmarks.alternatives.stamp.{name}",
            f"+{stamp}.file={self.stamps}",
        ]

    def train(self, lr: float, callbacks: Sequence[Callback] = ()) -> float:
        """Train one trial in this process; the objective's last value."""
        from lhtx.compose import compose
        from lhtx.train import train

        directory = Path(self.directory) / "trials" / f"{os.getpid()}-{time.monotonic_ns()}"
        own = [f"{SEARCHED}={lr}", f"paths.output_dir={directory}"]
        return train(compose([*self.trial_overrides(), *own]), callbacks)[METRIC]


def reporting(report: Callable[[float], None]) -> Callback:
    """A callback that hands the objective to `report` after each epoch, for those that have none of their own."""
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback

    class Report(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if not trainer.sanity_checking:
                report(float(trainer.callback_metrics[METRIC]))

    return Report()
