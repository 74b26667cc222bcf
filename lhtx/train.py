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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from omegaconf import DictConfig

from lhtx.callbacks.logged_metrics import KEY as LOGGED_METRICS
from lhtx.callbacks.logged_metrics import logged
from lhtx.checkpoints import check_weights, load_checkpoint, load_input_constants, load_weights, require_checkpoint
from lhtx.compose import (
    CONFIGS,
    build_datamodule,
    build_task,
    check_monitored,
    check_network,
    compose,
    configure,
    metric_names,
    resolved,
)
from lhtx.config_errors import near
from lhtx.errors import USER_ERRORS, CheckpointError, ConfigError
from lhtx.extras import enforce_tags, quieten
from lhtx.files import check_directory
from lhtx.loggers import CSVLogger
from lhtx.runs import (
    METRICS_FILE,
    build_trainer,
    closing,
    fail,
    is_main_process,
    log_hyperparameters,
    make_directory,
    seed,
    table,
    write_metrics,
)
from lhtx.trained import check_data, check_dataset, trained_config


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
        if is_main_process():
            enforce_tags(cfg)
        cfg = configure(cfg)
        if cfg.ckpt_path:
            _check_trained(cfg)
        seed(cfg)
        datamodule, task = build_datamodule(cfg), build_task(cfg)
        check_network(cfg, task)
        check_monitored(cfg, metric_names(cfg, task))
        output = make_directory(cfg)  # now that there is something to train
        trainer = build_trainer(cfg, callbacks)
        # Lightning would do so after it has read a checkpoint, whose weights it so rounds to single precision.
        task = trainer.precision_plugin.convert_module(task)
        metrics: dict[str, float] = {}
        if cfg.ckpt_path:
            checkpoint = load_checkpoint(cfg.ckpt_path)
            check_weights(checkpoint["state_dict"], task, cfg.ckpt_path)
            load_input_constants(datamodule, checkpoint, cfg.ckpt_path)
            if cfg.train:  # there may be no epoch left to log them again
                metrics.update(checkpoint.get(LOGGED_METRICS, {}))
                for logger in trainer.loggers:
                    if isinstance(logger, CSVLogger):
                        logger.resume_from(checkpoint["global_step"])
        with closing(trainer.loggers):
            log_hyperparameters(cfg, task, trainer.loggers)
            weights = cfg.ckpt_path
            if cfg.train:
                _fit(trainer, task, datamodule, cfg.ckpt_path)
                metrics.update(logged(trainer))
                _check_optimized(cfg, metrics, trainer)
                weights = _best(trainer, cfg.optimized_metric)
            if cfg.test:
                if weights is not None:
                    load_weights(task, weights, datamodule)
                trainer.test(task, datamodule=datamodule, verbose=False)
                metrics.update(logged(trainer))
        write_metrics(metrics, output / METRICS_FILE)
        return metrics


def _check_trained(cfg: DictConfig) -> None:
    """Refuses a checkpoint whose run divided or read the same data in another way than `cfg`, which is configured.

    A checkpoint that is trained on may have lost its run's config, as one that was sent to somebody has, with a warning; one
    that is only measured may not.
    """
    require_checkpoint(cfg.ckpt_path)
    try:
        trained = trained_config(Path(cfg.ckpt_path).absolute())
    except CheckpointError as error:
        if not cfg.train:
            raise
        rank_zero_warn(
            f"{error}. So nobody can tell whether data.split_seed, data.train_val_test_split and the like are its run's: "
            "if they are not, validation and test see samples that it has trained on. Put that config.yaml beside the "
            "checkpoint to have it checked"
        )
        return
    check_data(resolved(cfg), trained)
    if not cfg.train:
        check_dataset(cfg, trained)


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


def _run(cfg: DictConfig) -> float | None:
    """One run of the command line; the value of the optimized metric, for the sweepers of Hydra."""
    # Every job of a multirun has a directory of its own, and the processes of one run share one.
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
    if is_main_process():
        print(f"\n{table(metrics)}\n\nconfig, checkpoints, metrics and logs: {cfg.paths.output_dir}")
    return metrics.get(cfg.optimized_metric)


def check_arguments(arguments: Sequence[str]) -> None:
    """Composes what the command line asks for, each of a multirun's alternatives once, and looks at the output directory.

    Hydra's own refusal names neither near keys nor options, and exits with status 1.

    Raises:
        ConfigError: an override that does not compose, or an output directory that cannot be made.
    """
    multirun = any(a in ("-m", "--multirun") or a.startswith(("hparams_search=", "hydra.mode=")) for a in arguments)
    flags = [argument for argument in arguments if argument.startswith("-") and argument not in ("-m", "--multirun")]
    if flags:
        return  # such as --help and --cfg, whose own arguments are no overrides
    alternatives = [_alternatives(a) if multirun else [a] for a in arguments if not a.startswith("-")]
    first = [values[0] for values in alternatives]
    check_directory(compose(first).paths.output_dir, "paths.output_dir")
    for place, values in enumerate(alternatives):
        for value in values[1:]:
            compose([*first[:place], value, *first[place + 1 :]])


def _alternatives(text: str) -> list[str]:
    """The overrides that `text` stands for in a multirun: one for each of its values."""
    try:
        override = OverridesParser.create().parse_override(text)
        if not override.is_sweep_override():
            return [text]
        return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    except (HydraException, ValueError):
        return [text]  # `compose` refuses it by name


def main() -> None:
    """The command line. Exit status 0: trained; 2: something for the user to put right; 130: interrupted."""
    try:
        check_arguments(sys.argv[1:])
    except ConfigError as error:
        fail(error)
    hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")(_run)()


if __name__ == "__main__":
    main()
