"""One member of a group: its task, optimizer and schedule as `lhtx.train` would build them, its metrics, its files.

It knows nothing of the others: whoever trains it hands over what an epoch brought.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import DictConfig, open_dict
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lhtx.callbacks import GradientStatistics, LoggedMetrics, PlateauState
from lhtx.callbacks.logged_metrics import KEY as LOGGED_METRICS
from lhtx.checkpoints import AtomicCheckpointIO, check_weights, load_checkpoint, load_weights
from lhtx.compose import (
    build_datamodule,
    build_task,
    check_monitored,
    check_network,
    instantiate,
    metric_names,
    parts_of,
    resolved,
)
from lhtx.epoch_report import EpochReport
from lhtx.files import replacing
from lhtx.fused.checkpoint import Progress, content
from lhtx.fused.gradient_statistics import Means
from lhtx.fused.optimizers import Update
from lhtx.fused.setting import Setting
from lhtx.loggers import CSVLogger
from lhtx.runs import METRICS_FILE, log_hyperparameters, make_directory, seed, write_metrics
from lhtx.trained import check_data, trained_config

PLATEAU = "plateau_values"


class _RunLength:
    """What a task asks its trainer for when it builds a schedule."""

    max_steps = -1

    def __init__(self, epochs: int, steps: int) -> None:
        self.max_epochs, self.estimated_stepping_batches = epochs, epochs * steps


class Member:
    """A network in training.

    Args:
        number: by which reports name it.
        cfg: configured. Its weights come from `seed` as they would in a run of its own; `paths.output_dir` gets its files;
            with `ckpt_path` it goes on from that checkpoint.
        setting: what it shares.
        hooks: callbacks that change a checkpoint, after it is read and before it is written.

    Raises:
        ConfigError, CheckpointError: what the user can put right.
    """

    def __init__(self, number: int, cfg: DictConfig, setting: Setting, hooks: Sequence[Callback] = ()) -> None:
        start = time.monotonic()
        self.number, self.cfg, self._setting, self._hooks = number, cfg, setting, hooks
        self.directory = Path(cfg.paths.output_dir)
        self.max_epochs: int = cfg.trainer.max_epochs
        seed(cfg)
        build_datamodule(cfg)  # may draw numbers, as it may in a run of its own
        task = build_task(cfg)
        check_network(cfg, task)
        check_monitored(cfg, metric_names(cfg, task))
        self._length = _RunLength(self.max_epochs, setting.steps("train"))
        task.trainer = self._length
        self.task = setting.precision.convert_module(task).to(setting.device)
        built = self.task.configure_optimizers()
        scheduled = built if isinstance(built, dict) else {"optimizer": built}
        self.optimizer = scheduled["optimizer"]
        self._schedule = scheduled.get("lr_scheduler", {})
        self.scheduler = self._schedule.get("scheduler")
        self.epochs = 0
        self.first_order: int = cfg.data.first_order
        self.metrics: dict[str, float] = {}
        self.means: Means | None = None
        self._stepped = (0, 0)
        self._validation = 0
        self.callbacks: list[Callback] = [instantiate(cfg, f"callbacks.{name}") for name in parts_of(cfg, "callbacks")]
        writes = cfg.trainer.get("enable_checkpointing", True)
        self._savers = [each for each in self.callbacks if isinstance(each, ModelCheckpoint) and writes]
        self.callbacks = [each for each in self.callbacks if not isinstance(each, ModelCheckpoint) or writes]
        self.loggers = [instantiate(cfg, f"logger.{name}") for name in parts_of(cfg, "logger")]
        if cfg.ckpt_path:
            self._resume()
        self.resumed = bool(cfg.ckpt_path)
        self.update = Update(self.optimizer, [each for each in self.task.parameters() if each.requires_grad])
        make_directory(cfg)
        log_hyperparameters(cfg, self.task, self.loggers)
        self.seconds = time.monotonic() - start
        """Since its (last) start, its share of what is done for several at once."""

    @property
    def order(self) -> int:
        """The number of the order of batches of its next epoch."""
        return self.first_order + self.epochs

    @property
    def steps(self) -> int:
        """Optimizer steps so far."""
        return self.epochs * self._setting.steps("train")

    @property
    def done(self) -> bool:
        return self.epochs >= self.max_epochs

    @property
    def parameters(self) -> int:
        return sum(each.numel() for each in self.task.parameters())

    @property
    def entropy(self) -> list[int]:
        """What its dropout draws by in its next epoch: its seed and the epoch."""
        return [self.cfg.seed, self.epochs]

    def report(self, repeated: bool) -> EpochReport:
        """Of its last epoch. Args: repeated: it goes on after this epoch, which was reported before."""
        seconds = 0.0 if repeated else self.seconds
        return EpochReport(self.epochs, self.max_epochs, self.parameters, seconds, dict(self.metrics), repeated)

    def step_schedule(self, interval: str) -> None:
        """After a `step` of the optimizer, or an `epoch` of them."""
        if self.scheduler is None or isinstance(self.scheduler, ReduceLROnPlateau):
            return
        if self._schedule["interval"] == interval:
            self.scheduler.step()
            self._stepped = (self._stepped[0] + 1, self._stepped[1] + 1)

    def begin_epoch(self) -> None:
        self._stepped = (self._stepped[0], 0)

    def end_epoch(
        self, train: Mapping[str, float], validation: Mapping[str, float] | None, gradients: Mapping[str, float]
    ) -> None:
        """Take over what an epoch brought; `validation` is None where there was none."""
        self.epochs += 1
        found = {f"train/{name}": value for name, value in train.items()}
        if validation is not None:
            self._validation = self._setting.steps("val")
            found |= {f"val/{name}": value for name, value in self.task.with_best(validation).items()}
        self._log({**found, **gradients}, self.steps - 1)

    def save(self) -> None:
        """Write what the epoch leaves: the best checkpoint, if it is the best one, and the last."""
        written: Path | None = None
        for saver in sorted(self._savers, key=lambda saver: saver.monitor is None):
            path = Path(str(saver.dirpath)) / f"{saver.filename}{saver.FILE_EXTENSION}"
            if not self._note(saver, path):
                continue
            if written is None or not _linked(written, path):
                AtomicCheckpointIO().save_checkpoint(self.checkpoint(), path)
            written = path

        # As in a run of its own, a schedule that follows a metric takes its step after the checkpoint is written.
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(self.metrics["val/loss"])
            self._stepped = (self._stepped[0] + 1, self._stepped[1] + 1)

    def test(self, found: Mapping[str, float] | None) -> dict[str, float]:
        """Its final metrics, the test's `found` among them, which it also writes."""
        if found is not None:
            self._log({f"test/{name}": value for name, value in found.items()}, self.steps)
        for logger in self.loggers:
            logger.finalize("success")
        write_metrics(self.metrics, self.directory / METRICS_FILE)
        return dict(self.metrics)

    def load_best(self) -> None:
        """Put the weights of the best checkpoint in place, where one was kept."""
        for saver in self._savers:
            if saver.monitor == self.cfg.optimized_metric and saver.best_model_path:
                load_weights(self.task, saver.best_model_path)

    def checkpoint(self) -> dict[str, Any]:
        """What `last.ckpt` holds."""
        states = {}
        for callback in self.callbacks:
            if isinstance(callback, GradientStatistics):
                callback.load_state_dict({"previous": self.means})
            if state := callback.state_dict():
                states[callback.state_key] = state
        progress = Progress(self.epochs, self._setting.steps("train"), self._validation, self._stepped)
        datamodule = self._setting.datamodule
        found = content(
            self._setting.trainer,
            progress,
            self.task.state_dict(),
            states,
            self.optimizer.state_dict(),
            self.scheduler.state_dict() if self.scheduler else None,
            {type(datamodule).__qualname__: state} if (state := datamodule.state_dict()) else {},
        )
        if any(isinstance(each, PlateauState) for each in self.callbacks):
            pending = isinstance(self.scheduler, ReduceLROnPlateau) and "val/loss" in self.metrics
            found[PLATEAU] = {0: self.metrics["val/loss"]} if pending else {}
        if any(isinstance(each, LoggedMetrics) for each in self.callbacks):
            found[LOGGED_METRICS] = dict(self.metrics)
        self.task.on_save_checkpoint(found)
        for hook in self._hooks:
            hook.on_save_checkpoint(self._setting.trainer, self.task, found)
        return found

    def _resume(self) -> None:
        path = self.cfg.ckpt_path
        checkpoint = load_checkpoint(path, map_location=self._setting.device)
        check_weights(checkpoint["state_dict"], self.task, path)
        self.task.load_state_dict(checkpoint["state_dict"])
        self.task.on_load_checkpoint(checkpoint)
        for hook in self._hooks:
            hook.on_load_checkpoint(self._setting.trainer, self.task, checkpoint)
        self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        self.epochs = checkpoint["epoch"] + 1
        self.metrics = dict(checkpoint.get(LOGGED_METRICS, {}))
        for callback in self.callbacks:
            if state := checkpoint["callbacks"].get(callback.state_key):
                callback.load_state_dict(state)
                if isinstance(callback, GradientStatistics):
                    self.means = state["previous"]
        loops = checkpoint["loops"]["fit_loop"]
        self._stepped = (loops["epoch_loop.scheduler_progress"]["total"]["completed"], 0)
        self._validation = loops["epoch_loop.val_loop.batch_progress"]["current"]["completed"]
        if self.scheduler is not None:
            self.scheduler.load_state_dict(checkpoint["lr_schedulers"][0])
            for value in checkpoint.get(PLATEAU, {}).values():
                self.scheduler.step(value)
                self._stepped = (self._stepped[0] + 1, 0)
        for logger in self.loggers:
            if isinstance(logger, CSVLogger):
                logger.resume_from(checkpoint["global_step"])

    def _log(self, values: Mapping[str, float], step: int) -> None:
        values = {name: float(np.float32(value)) for name, value in values.items()}  # as Lightning keeps them
        self.metrics |= values
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.epochs - 1}, step=step)
            logger.save()

    def _note(self, saver: ModelCheckpoint, path: Path) -> bool:
        """Whether `saver` keeps this epoch; if so it remembers that, as it would after saving."""
        if saver.monitor is None:
            saver.best_model_path = str(path)
            return True
        if saver.monitor not in self.metrics:
            return False
        score = torch.tensor(self.metrics[saver.monitor])
        if saver.best_k_models and not saver.check_monitor_top_k(self._setting.trainer, score):
            return False
        if score.isnan():
            score = torch.tensor(torch.inf if saver.mode == "min" else -torch.inf)
        saver.load_state_dict(
            {
                **saver.state_dict(),
                "best_model_score": score,
                "best_model_path": str(path),
                "best_k_models": {str(path): score},
                "kth_best_model_path": str(path),
                "kth_value": score,
            }
        )
        saver.current_score = score
        return True


def prepared(cfg: DictConfig) -> DictConfig:
    """`cfg`, configured; of one that goes on, with the order of batches of its run. Raises ConfigError, CheckpointError."""
    if cfg.ckpt_path:
        trained = trained_config(Path(cfg.ckpt_path).absolute())
        check_data(resolved(cfg), trained)
        with open_dict(cfg):
            cfg.data.seed, cfg.data.first_order = trained.data.seed, trained.data.get("first_order", 0)
    return cfg


def _linked(source: Path, target: Path) -> bool:
    """Make `target` the same file as `source`; False where the file system has no links."""
    try:
        with replacing(target) as temporary:
            os.link(source, temporary)
    except OSError:
        return False
    return True
