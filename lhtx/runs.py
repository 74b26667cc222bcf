"""What a training and an evaluation have in common: the run's directory, seeds, trainer, loggers, and how its result is
written and printed. Knows neither overrides nor what is done with the trainer.
"""

import json
import logging
import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from lhtx.checkpoints import AtomicCheckpointIO
from lhtx.compose import instantiate, resolved
from lhtx.errors import ConfigError
from lhtx.files import write_atomically

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"


def prepare_run(cfg: DictConfig) -> Path:
    """Seeds every generator, sets the threads, saves the resolved config; returns the output directory, made."""
    output = Path(cfg.paths.output_dir)
    text = OmegaConf.to_yaml(resolved(cfg))
    if cfg.extras.print_config:
        print(text)
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / CONFIG_FILE, text)
    if cfg.threads is not None:
        if not isinstance(cfg.threads, int) or cfg.threads < 1:
            raise ConfigError(f"threads is {cfg.threads!r}, expected 1 or more, or null for torch's own choice")
        torch.set_num_threads(cfg.threads)
    # Filling fresh memory would cost time and only guards against reading what was never written.
    torch.utils.deterministic.fill_uninitialized_memory = False
    seed_everything(cfg.seed, workers=True, verbose=False)
    return output


def build_trainer(cfg: DictConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """The trainer of `cfg` with its loggers; `callbacks` stand before the config's own. It writes no checkpoint but theirs."""
    own = [instantiate(cfg, f"callbacks.{name}") for name in cfg.callbacks or {}]
    loggers = [instantiate(cfg, f"logger.{name}") for name in cfg.logger or {}]
    if not cfg.trainer.enable_checkpointing:
        own = [callback for callback in own if not isinstance(callback, ModelCheckpoint)]
    # Callbacks that log come first, so that those which monitor find every metric of the epoch.
    ordered = [c for c in own if not isinstance(c, ModelCheckpoint)] + [*callbacks]
    ordered += [c for c in own if isinstance(c, ModelCheckpoint)]
    # Lightning would add a checkpoint of its own where there is none, and refuses any where they are switched off.
    checkpointing = any(isinstance(callback, Checkpoint) for callback in ordered)
    return instantiate(
        cfg,
        "trainer",
        callbacks=ordered,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        enable_checkpointing=checkpointing,
    )


def floats(metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Metrics as numbers on the host."""
    return {name: float(value) for name, value in metrics.items()}


def quieten(cfg: DictConfig) -> None:
    """Hides every warning where `extras.ignore_warnings` says so; always Lightning's tips, and advice that does not fit."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A dataset in memory is indexed by whole batches: worker processes would only slow it down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Nothing here is logged by Lightning's steps.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    if cfg.extras.ignore_warnings:
        warnings.simplefilter("ignore")


def log_hyperparameters(cfg: DictConfig, task: LightningModule, loggers: Iterable[Logger]) -> None:
    """Gives every logger the parts of the config that describe the run, and the network's size."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    described = {key: config[key] for key in ("task_name", "tags", "seed", "data", "dataset", "model", "trainer")}
    described["parameters"] = sum(parameter.numel() for parameter in task.net.parameters())
    for logger in loggers:
        logger.log_hyperparams(described)


def write_metrics(metrics: Mapping[str, float], file: Path) -> None:
    """Writes `metrics` as strict JSON, a value that is not finite as null."""
    plain = {name: value if math.isfinite(value) else None for name, value in sorted(metrics.items())}
    write_atomically(file, json.dumps(plain, indent=2, allow_nan=False) + "\n")


def table(metrics: Mapping[str, float]) -> str:
    """The metrics as lines of name and value, the splits apart, test first."""
    width = max((len(name) for name in metrics), default=0)
    order = {"test": 0, "val": 1, "train": 2}
    groups: dict[str, list[str]] = {}
    for name in sorted(metrics):
        groups.setdefault(name.split("/")[0], []).append(f"  {name:<{width}}  {metrics[name]:.6g}")
    return "\n\n".join("\n".join(groups[split]) for split in sorted(groups, key=lambda s: (order.get(s, 3), s)))


def fail(error: Exception) -> NoReturn:
    """Prints what the user can put right, without a stack trace, and exits with status 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from error
