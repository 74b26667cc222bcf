"""Measures a checkpoint again, on the data and the network of its run's own config: `python -m lhtx.evaluate ckpt_path=…`.

Trains nothing; composes through `lhtx.compose` like everything else.
"""

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lhtx.checkpoints import load_weights
from lhtx.compose import build_datamodule, build_task, compose, configure, resolved
from lhtx.errors import USER_ERRORS, CheckpointError, ConfigError
from lhtx.runs import (
    CONFIG_FILE,
    METRICS_FILE,
    build_trainer,
    fail,
    floats,
    prepare_run,
    quieten,
    table,
    write_metrics,
)

SPLITS = ("test", "val")
SAME_SAMPLES = ("train_val_test_split", "split_seed", "use_random_split", "coverage_mode")
"""Keys of `data` that decide which samples the network has trained on."""
SAME_INPUTS = ("heads", "channel_selection", "auxiliary_features", "standardise")
"""Keys of `data` that decide what the network reads and predicts."""


def compose_evaluation(overrides: Sequence[str]) -> DictConfig:
    """The config of an evaluation: that of the checkpoint's run, as `configs/evaluate.yaml` and `overrides` change it.

    Args:
        overrides: `ckpt_path=…`, and whatever is to differ from the run: `split=val`, `data.batch_size=512`, `trainer=gpu`.

    Raises:
        ConfigError: no `ckpt_path`, an override that does not compose, or one that divides or reads the run's own dataset in
            another way than the run did.
        CheckpointError: no config beside the checkpoint.
    """
    checkpoint = _checkpoint(overrides)
    places = (checkpoint.parent.parent, checkpoint.parent)
    run = next((place for place in places if (place / CONFIG_FILE).is_file()), None)
    if run is None:
        looked = " or ".join(str(place / CONFIG_FILE) for place in places)
        raise CheckpointError(f"the run's config does not lie beside the checkpoint {checkpoint}: no {looked}")
    quoted = str(run).replace("\\", "\\\\").replace("'", "\\'")
    cfg = compose([*overrides, f"hydra.searchpath=['file://{quoted}']"], "evaluate")
    if cfg.split not in SPLITS:
        raise ConfigError(f"split is {cfg.split!r}. Accepted: {', '.join(SPLITS)}")
    _check_data(resolved(cfg), OmegaConf.load(run / CONFIG_FILE))
    return cfg


def evaluate(cfg: DictConfig) -> dict[str, float]:
    """The metrics of `cfg.split` for the checkpoint `cfg.ckpt_path`; also written to `cfg.paths.output_dir/metrics.json`.

    Raises:
        CheckpointError: unreadable, made for another network (the first differing tensor is named) or for other data.
        ConfigError, DatasetError: what else the user can put right.
    """
    with warnings.catch_warnings():
        quieten(cfg)
        trained_on = cfg.dataset
        cfg = configure(cfg)
        for key in trained_on:
            if key != "name" and cfg.dataset.get(key) != trained_on[key]:
                raise CheckpointError(
                    f"the run of {cfg.ckpt_path} was trained with dataset.{key} = {trained_on[key]}, "
                    f"but {cfg.data.data_dir} as configured has {cfg.dataset.get(key)}"
                )
        output = prepare_run(cfg)
        datamodule, task = build_datamodule(cfg), build_task(cfg)
        load_weights(task, cfg.ckpt_path)
        trainer = build_trainer(cfg)
        measure = trainer.test if cfg.split == "test" else trainer.validate
        measure(task, datamodule=datamodule, verbose=False)
        # The best of a run's epochs is nothing that one pass could measure.
        metrics = {name: value for name, value in floats(trainer.callback_metrics).items() if not name.endswith("_best")}
        write_metrics(metrics, output / METRICS_FILE)
        return metrics


def _check_data(cfg: DictConfig, trained: DictConfig) -> None:
    """Refuses to measure on samples that the network has trained on, or on inputs that it has not learnt to read."""
    if "data_dir" not in cfg.data or Path(cfg.data.data_dir).resolve() != Path(trained.data.data_dir).resolve():
        return  # another dataset: none of its samples has been seen, and what it must have in common is compared later
    for keys, why in (
        (SAME_SAMPLES, "another split would measure on samples that it has trained on"),
        (SAME_INPUTS, "its network reads and predicts nothing else"),
    ):
        for key in keys:
            was, now = trained.data.get(key), cfg.data.get(key)
            if was != now:
                raise ConfigError(
                    f"data.{key} is {now}, and the run of {cfg.ckpt_path} was trained with {was} on the same data; {why}. "
                    f"Leave data.{key} out"
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
    print(f"\n{table(metrics)}\n\nmetrics and config: {cfg.paths.output_dir}")


if __name__ == "__main__":
    main()
