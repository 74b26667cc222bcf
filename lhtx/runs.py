"""What a training and an evaluation have in common: the run's directory, seeds, trainer, loggers, and how its result is
written and printed. Knows neither overrides nor what is done with the trainer.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint, ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lhtx.accelerators import choose
from lhtx.callbacks import OwnHyperparameters, SpawnedSteps
from lhtx.checkpoints import AtomicCheckpointIO
from lhtx.compose import instantiate, parts_of, resolved
from lhtx.errors import ConfigError
from lhtx.extras import QuietProcesses, print_config
from lhtx.files import ensure_directory, write_atomically
from lhtx.trained import CONFIG_FILE

METRICS_FILE = "metrics.json"
NEEDS = {
    "WandbLogger": "It needs WANDB_API_KEY in the environment, or a `wandb login`, or logger.wandb.offline=true",
    "MLFlowLogger": "MLFLOW_TRACKING_URI, or logger.mlflow.tracking_uri, must name a server that answers, or a database",
}
"""Class of a logger → what it needs to reach its service."""


def is_main_process() -> bool:
    """Whether this process prints and writes: the only one of a run, or the first of those that share it."""
    return (rank_zero_only.rank or 0) == 0


def seed(cfg: DictConfig) -> None:
    """Sets the threads and seeds every generator. Raises ConfigError."""
    if cfg.threads is not None:
        if not isinstance(cfg.threads, int) or cfg.threads < 1:
            raise ConfigError(f"threads is {cfg.threads!r}, expected 1 or more, or null for torch's own choice")
        torch.set_num_threads(cfg.threads)
    # Filling fresh memory would cost time and only guards against reading what was never written.
    torch.utils.deterministic.fill_uninitialized_memory = False
    seed_everything(cfg.seed, workers=True, verbose=False)


def make_directory(cfg: DictConfig) -> Path:
    """Makes the output directory, saves (and prints) the resolved config there; returns it. Raises ConfigError."""
    output = Path(cfg.paths.output_dir)
    whole = resolved(cfg)
    if is_main_process():
        ensure_directory(output, "paths.output_dir")
        write_atomically(output / CONFIG_FILE, OmegaConf.to_yaml(whole))
        if cfg.extras.print_config:
            print_config(whole, output)
    return output


def prepare_run(cfg: DictConfig) -> Path:
    """`seed` and `make_directory`, for what has nothing to refuse in between."""
    seed(cfg)
    return make_directory(cfg)


def build_trainer(cfg: DictConfig, callbacks: Sequence[Callback] = ()) -> Trainer:
    """The trainer of `cfg` with its loggers; `callbacks` stand before the config's own.

    It writes no checkpoint and shows no progress and no summary but by the config's callbacks, and none of those that
    `trainer.enable_checkpointing`, `enable_progress_bar` or `enable_model_summary` switches off.

    Raises:
        ConfigError: a callback, a logger or the trainer cannot be instantiated; or `trainer.overfit_batches`.
    """
    if cfg.trainer.get("overfit_batches"):
        raise ConfigError(
            "trainer.overfit_batches puts single samples in the place of batches, and here a sampler's item is a whole batch; "
            "use debug=overfit, or trainer.limit_train_batches"
        )
    own = [instantiate(cfg, f"callbacks.{name}") for name in parts_of(cfg, "callbacks")]
    loggers = [instantiate(cfg, f"logger.{name}") for name in parts_of(cfg, "logger")]
    switches = {
        "enable_checkpointing": ModelCheckpoint,
        "enable_progress_bar": ProgressBar,
        "enable_model_summary": ModelSummary,
    }
    for switch, kind in switches.items():
        if not cfg.trainer.get(switch, True):
            own = [callback for callback in own if not isinstance(callback, kind)]
    # Callbacks that log come first, so that those which monitor find every metric of the epoch.
    ordered = [c for c in own if not isinstance(c, ModelCheckpoint)] + [*callbacks]
    if "spawn" in str(cfg.trainer.get("strategy")):
        ordered += [QuietProcesses(cfg), SpawnedSteps()]
    ordered += [c for c in own if isinstance(c, ModelCheckpoint)]
    if cfg.get("train") and cfg.get("ckpt_path") and cfg.restore.hyperparameters == "config":
        ordered.insert(0, OwnHyperparameters())
    for callback in ordered:
        _spare_hooks(callback)
    # Lightning would add one of its own where there is none, and refuses any where they are switched off.
    kinds = switches | {"enable_checkpointing": Checkpoint}
    settings: dict[str, Any] = {
        switch: any(isinstance(callback, kind) for callback in ordered) for switch, kind in kinds.items()
    }
    if cfg.trainer.get("profiler") is None:
        settings["profiler"] = _NoProfiler()
    return instantiate(
        cfg,
        "trainer",
        accelerator=choose(cfg.trainer.accelerator),
        callbacks=ordered,
        logger=loggers,
        plugins=[AtomicCheckpointIO()],
        **settings,
    )


BATCH_HOOKS = (
    *(f"on_{stage}_batch_{moment}" for stage in ("train", "validation", "test") for moment in ("start", "end")),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
"""The hooks of a callback that Lightning calls for every batch."""


def _spare_hooks(callback: Callback) -> None:
    """Takes from a callback the hooks of a batch that it leaves empty: Lightning passes over what cannot be called.

    It calls the empty ones too, and with ten callbacks that is a tenth of a small network's step.
    """
    for hook in BATCH_HOOKS:
        if getattr(type(callback), hook) is getattr(Callback, hook):
            setattr(callback, hook, None)


class _NoProfiler(PassThroughProfiler):
    """Lightning's default makes a generator for every hook of every callback, seventy a step; this makes nothing."""

    _nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:
        return self._nothing


@contextmanager
def closing(loggers: Iterable[Logger]) -> Iterator[None]:
    """Ends the run that a `WandbLogger` began in this process, however the block ends: else the next run would join it."""
    try:
        yield
    finally:
        if is_main_process() and any(isinstance(logger, WandbLogger) for logger in loggers):
            import wandb

            wandb.finish()


def _connect(cfg: DictConfig, logger: Logger) -> None:
    """Begins the logger's run, which it would do at the first thing logged; raises ConfigError where it cannot."""
    try:
        _ = logger.experiment
    except Exception as error:  # the client of each service has kinds of its own
        kind = type(logger).__name__
        named = {str(cfg.logger[name].get("_target_")).rpartition(".")[2]: name for name in parts_of(cfg, "logger")}
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigError(f"logger={named.get(kind, kind)} cannot begin: {said}. {NEEDS.get(kind, '')}".rstrip()) from error


def log_hyperparameters(cfg: DictConfig, task: LightningModule, loggers: Iterable[Logger]) -> None:
    """Gives every logger the parts of the config that describe the run, and the network's size.

    Raises:
        ConfigError: a logger that cannot begin its run, as its service is out of reach.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    described = {key: config[key] for key in ("task_name", "tags", "seed", "data", "dataset", "model", "trainer")}
    # Where a run and its data lie describes neither, and is another place on another machine; which data it was does.
    described["trainer"] = {key: value for key, value in config["trainer"].items() if key != "default_root_dir"}
    if directory := config["data"].get("data_dir"):
        described["data"] = {**config["data"], "data_dir": Path(directory).name}
    described["parameters"] = sum(parameter.numel() for parameter in task.net.parameters())
    for logger in loggers:
        _connect(cfg, logger)
        logger.log_hyperparams(described)


def write_metrics(metrics: Mapping[str, float], file: Path) -> None:
    """Writes `metrics` as strict JSON, a value that is not finite as null. The first process of a run alone does."""
    if not is_main_process():
        return
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
