"""One training run: a config in, metrics, checkpoints and a record of the config out. `python -m lhtx.train [overrides]`.

Knows nothing of sweeps: whoever wants to watch or stop a run passes callbacks.
"""

import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from omegaconf import DictConfig

from lhtx.callbacks.logged_metrics import KEY as LOGGED_METRICS
from lhtx.checkpoints import check_weights, load_checkpoint, load_weights
from lhtx.compose import CONFIGS, build_datamodule, build_task, check_monitored, compose, configure, metric_names
from lhtx.config_errors import near
from lhtx.errors import USER_ERRORS, ConfigError
from lhtx.runs import (
    METRICS_FILE,
    build_trainer,
    fail,
    floats,
    log_hyperparameters,
    prepare_run,
    quieten,
    table,
    write_metrics,
)


def train(cfg: DictConfig, callbacks: Sequence[Callback] = ()) -> dict[str, float]:
    """Trains, and tests the best checkpoint, as `cfg` says. Two runs of one config on the CPU give the same bits.

    Writes into `cfg.paths.output_dir`: `config.yaml` (resolved), `metrics.json`, `checkpoints/{best,last}.ckpt` and what
    the loggers write. With `cfg.ckpt_path` it continues from that checkpoint, to the same bits as a run never interrupted.

    Args:
        cfg: a composed config, such as `lhtx.compose.compose(["model=vimh_cnn"])` gives.
        callbacks: run besides the config's own, before its checkpoints: at `on_train_epoch_end` a
            `lightning.pytorch.callbacks.Checkpoint` among them finds every metric of the epoch in
            `trainer.callback_metrics`, and `last.ckpt` not yet written.

    Returns:
        The last value of every metric logged, `test/…` of the best checkpoint included.

    Raises:
        ConfigError, DatasetError, CheckpointError: what the user can put right.
        Exception: whatever the training itself raises.
    """
    with warnings.catch_warnings():
        quieten(cfg)
        if not cfg.train and not (cfg.test and cfg.ckpt_path):
            raise ConfigError("train=false leaves nothing to do: expected test=true and ckpt_path=<the checkpoint to test>")
        cfg = configure(cfg)
        output = prepare_run(cfg)
        datamodule, task = build_datamodule(cfg), build_task(cfg)
        check_monitored(cfg, metric_names(cfg, task))
        trainer = build_trainer(cfg, callbacks)
        metrics: dict[str, float] = {}
        if cfg.ckpt_path:
            checkpoint = load_checkpoint(cfg.ckpt_path)
            check_weights(checkpoint["state_dict"], task, cfg.ckpt_path)
            if cfg.train:  # there may be no epoch left to log them again
                metrics.update(checkpoint.get(LOGGED_METRICS, {}))
        log_hyperparameters(cfg, task, trainer.loggers)
        weights = cfg.ckpt_path
        if cfg.train:
            _fit(trainer, task, datamodule, cfg.ckpt_path)
            metrics.update(floats(trainer.callback_metrics))
            _check_optimized(cfg, metrics, trainer)
            weights = _best(trainer, cfg.optimized_metric)
        if cfg.test:
            if weights:
                load_weights(task, weights)
            trainer.test(task, datamodule=datamodule, verbose=False)
            metrics.update(floats(trainer.callback_metrics))
        write_metrics(metrics, output / METRICS_FILE)
        return metrics


def _fit(trainer: Trainer, task: LightningModule, datamodule: LightningDataModule, ckpt_path: str | None) -> None:
    """`trainer.fit`, except that Ctrl-C stays a KeyboardInterrupt, which Lightning makes a SystemExit."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(task, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


def _best(trainer: Trainer, metric: str | None) -> str | None:
    """The checkpoint that is best by `metric`; None where none was kept."""
    for callback in trainer.callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor == metric and callback.best_model_path:
            return callback.best_model_path
    return None


def _check_optimized(cfg: DictConfig, metrics: Mapping[str, float], trainer: Trainer) -> None:
    """Raises ConfigError if epochs were trained and the optimized metric was never logged (validation switched off)."""
    if cfg.optimized_metric and metrics and cfg.optimized_metric not in metrics and not trainer.fast_dev_run:
        raise ConfigError(
            f"optimized_metric is {cfg.optimized_metric!r}, which this run did not log. {near(cfg.optimized_metric, metrics)}"
        )


def _run(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # every job has a directory of its own
        cfg.paths.output_dir = HydraConfig.get().runtime.output_dir
    try:
        metrics = train(cfg)
    except USER_ERRORS as error:
        fail(error)
    except KeyboardInterrupt:
        last = Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt"
        resume = f"paths.output_dir={cfg.paths.output_dir} ckpt_path={last}"
        print("\ninterrupted." + (f" Continue with the same overrides and {resume}" if last.exists() else ""))
        raise SystemExit(130) from None
    print(f"\n{table(metrics)}\n\nconfig, checkpoints, metrics and logs: {cfg.paths.output_dir}")


def main() -> None:
    """The command line. Exit status 0: trained; 2: something for the user to put right; 130: interrupted."""
    arguments = sys.argv[1:]
    if not any(argument.startswith("-") for argument in arguments):
        try:
            compose(arguments)  # Hydra's own refusal names neither near keys nor options, and exits with status 1
        except ConfigError as error:
            fail(error)
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(_run)()


if __name__ == "__main__":
    main()
