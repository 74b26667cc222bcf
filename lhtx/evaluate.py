"""Measures a checkpoint again, on the data and the network of its run's own config: `python -m lhtx.evaluate ckpt_path=…`.

Trains nothing; composes through `lhtx.compose` like everything else.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from lightning import LightningDataModule, LightningModule
from omegaconf import DictConfig

from lhtx.callbacks.logged_metrics import logged
from lhtx.checkpoints import load_weights
from lhtx.compose import CONFIGS, build_datamodule, build_task, compose, configure, resolved
from lhtx.config_errors import options
from lhtx.errors import USER_ERRORS, ConfigError
from lhtx.extras import quieten
from lhtx.runs import (
    METRICS_FILE,
    build_trainer,
    closing,
    fail,
    is_main_process,
    prepare_run,
    table,
    write_metrics,
)
from lhtx.trained import check_data, check_dataset, run_directory, trained_config

SPLITS = ("test", "val")
GROUPS = ("trainer", "callbacks", "logger", "paths", "hydra")
"""The config groups that an evaluation chooses from; all else is the run's."""


def compose_evaluation(overrides: Sequence[str], config_name: str = "evaluate") -> DictConfig:
    """The config of an evaluation: that of the checkpoint's run, as `configs/<config_name>.yaml` and `overrides` change it.

    Args:
        overrides: `ckpt_path=…`, and whatever is to differ from the run: `split=val`, `data.batch_size=512`, `trainer=gpu`.
        config_name: the primary config, `evaluate` or one that builds on it.

    Raises:
        ConfigError: no `ckpt_path`, or an override that does not compose.
        CheckpointError: no such checkpoint, or no config beside it.
    """
    run = run_directory(_checkpoint(overrides))
    _check_groups(overrides)
    place = QuotedString(f"file://{run}", Quote.single).with_quotes()
    cfg = compose([*overrides, f"hydra.searchpath=[{place}]"], config_name)
    if cfg.split not in SPLITS:
        raise ConfigError(f"split is {cfg.split!r}. Accepted: {', '.join(SPLITS)}")
    return cfg


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """The metrics of `cfg.split` for the checkpoint `cfg.ckpt_path`; also written to `cfg.paths.output_dir/metrics.json`.

    Raises:
        CheckpointError: unreadable, made for another network (the first differing tensor is named) or for other data.
        ConfigError, DatasetError: what else the user can put right.
    """
    with warnings.catch_warnings():
        quieten(cfg)
        cfg, datamodule, task = restore(cfg)
        trainer = build_trainer(cfg)
        measure = trainer.test if cfg.split == "test" else trainer.validate
        with closing(trainer.loggers):
            measure(task, datamodule=datamodule, verbose=False)
        # The best of a run's epochs is nothing that one pass could measure.
        metrics = {name: value for name, value in logged(trainer).items() if not name.endswith("_best")}
        write_metrics(metrics, Path(cfg.paths.output_dir) / METRICS_FILE)
        return metrics


def restore(cfg: DictConfig) -> tuple[DictConfig, LightningDataModule, LightningModule]:
    """Makes the output directory, and what a config of `compose_evaluation` evaluates: its datamodule, and its task with the
    checkpoint's weights; before them `cfg`, configured. The datamodule normalises by the checkpoint's constants.

    Raises:
        CheckpointError: unreadable, made for another network (the first differing tensor is named) or for other data.
        ConfigError: the run's own dataset, divided or read in another way than the run did.
        ConfigError, DatasetError: what else the user can put right.
    """
    trained, cfg = trained_config(Path(cfg.ckpt_path).expanduser().absolute()), configure(cfg)
    check_data(resolved(cfg), trained)
    check_dataset(cfg, trained)
    prepare_run(cfg)
    datamodule, task = build_datamodule(cfg), build_task(cfg)
    load_weights(task, cfg.ckpt_path, datamodule)
    return cfg, datamodule, task


def _check_groups(overrides: Sequence[str]) -> None:
    """Refuses an option of a group that the run's own config decides."""
    for text in overrides:
        try:
            group = OverridesParser.create().parse_override(text).key_or_group.lstrip("/")
        except HydraException:
            continue  # `compose` refuses it by name
        if group in options(CONFIGS) and group not in GROUPS:
            raise ConfigError(
                f"the override {text!r} was refused: the network and the data are those of the checkpoint's run. Change single "
                f"keys, such as data.batch_size=512, or take other options of the groups {', '.join(GROUPS)}"
            )


def _checkpoint(overrides: Sequence[str]) -> Path:
    """The path that the override `ckpt_path` gives."""
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            continue  # `compose` refuses it by name
        if override.key_or_group == "ckpt_path" and override.value():
            return Path(str(override.value())).expanduser().absolute()
    raise ConfigError("which checkpoint? Expected ckpt_path=<run>/checkpoints/best.ckpt among the overrides")


def main() -> None:
    """The command line. Exit status 0: measured; 2: something for the user to put right."""
    overrides = sys.argv[1:]
    if not overrides or any(argument in ("-h", "--help") for argument in overrides):
        print("usage: python -m lhtx.evaluate ckpt_path=<run>/checkpoints/best.ckpt [split=test|val] [key=value …]")
        raise SystemExit(0 if overrides else 2)
    try:
        cfg = compose_evaluation(overrides)
        metrics = evaluate(cfg)
    except USER_ERRORS as error:
        fail(error)
    if is_main_process():
        print(f"\n{table(metrics)}\n\nmetrics and config: {cfg.paths.output_dir}")


if __name__ == "__main__":
    main()
