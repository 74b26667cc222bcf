"""From overrides to a config, and from a config to its datamodule and task: the one place that configures a model's heads
from the dataset's own description, for training, evaluation and parameter counting alike. Trains nothing.
"""

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import HydraException, InstantiationException
from lightning import LightningDataModule, LightningModule
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lhtx.config_errors import call_refusal, near, refusal
from lhtx.errors import CheckpointError, ConfigError, DatasetError

CONFIGS = Path(__file__).resolve().parent / "configs"


def project_root() -> str:
    """The directory that `paths.root_dir` defaults to.

    LHTX_ROOT where it is set; else the directory that holds this package, if it is a checkout (it has a pyproject.toml);
    else the current directory. So a command finds the same data from wherever it is run.
    """
    if root := os.environ.get("LHTX_ROOT"):
        return str(Path(root).expanduser().resolve())
    checkout = CONFIGS.parent.parent
    return str(checkout if (checkout / "pyproject.toml").is_file() else Path.cwd())


OmegaConf.register_new_resolver("lhtx.root", project_root, replace=True)


def compose(overrides: Sequence[str], config_name: str = "train") -> DictConfig:
    """The config that `overrides` make of `configs/<config_name>.yaml`.

    Args:
        overrides: what would stand on the command line: `model=vimh_cnn`, `data.target_width=1.0`, `+new.key=1`.
        config_name: the primary config, `train` or `evaluate`.

    Raises:
        ConfigError: an override that does not compose, by name, with the near and the accepted keys or options.

    >>> compose(["model=vimh_mlp", "seed=7"]).model.net._target_
    'lhtx.nets.SimpleMLP'
    """
    overrides = list(overrides)
    try:
        cfg = _compose(overrides, config_name)
        OmegaConf.select(cfg, "paths.output_dir")  # from here on its time stands, in copies of the config too
        return cfg
    except (HydraException, TypeError) as error:  # Hydra trips with a TypeError over a group set to a list of numbers
        raise refusal(error, overrides, CONFIGS, lambda others: _compose_or_default(others, config_name)) from error


def _compose(overrides: list[str], config_name: str) -> DictConfig:
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(config_name, overrides=overrides)


def _compose_or_default(overrides: list[str], config_name: str) -> DictConfig:
    """The config without the override that was refused; without any, where a second one is at fault too."""
    try:
        return _compose(overrides, config_name)
    except HydraException:
        return _compose([o for o in overrides if o.startswith("hydra.searchpath")], config_name)


def configure(cfg: DictConfig) -> DictConfig:
    """A copy of `cfg` whose `dataset` node describes the dataset that `data` names.

    Makes the dataset first if it is missing and `data.generate` says how. `configure(configure(cfg)) == configure(cfg)`.

    Raises:
        ConfigError: `data` cannot be instantiated.
        DatasetError: the dataset cannot be read or made.
    """
    datamodule = build_datamodule(cfg)
    datamodule.prepare_data()
    configured = copy.deepcopy(cfg)
    with open_dict(configured):
        configured.dataset = datamodule.spec.as_config()
    return configured


def build_datamodule(cfg: DictConfig) -> LightningDataModule:
    """The datamodule of `cfg.data`; reads no data yet. Raises ConfigError with the key and the class."""
    return instantiate(cfg, "data")


def build_task(cfg: DictConfig) -> LightningModule:
    """The task of `cfg.model` with its network, for a config that `configure` has been over.

    Raises:
        ConfigError: `model` or its optimizer cannot be instantiated, or `cfg` was not configured.
    """
    if cfg.get("dataset") is None:
        raise ConfigError("the config says nothing of the dataset; pass it through lhtx.compose.configure first")
    task = instantiate(cfg, "model")
    try:
        task.configure_optimizers()  # once for the errors: here they can name the key, and nothing has run yet
    except (TypeError, ValueError) as error:
        for key in ("model.optimizer", "model.scheduler"):
            target = OmegaConf.select(cfg, f"{key}._target_")
            if target and target.rpartition(".")[2] in str(error):
                raise call_refusal(error, key, target, hydra.utils.get_object) from error
        raise ConfigError(f"model.optimizer or model.scheduler: {error}") from error
    return task


def instantiate(cfg: DictConfig, key: str, **arguments: Any) -> Any:
    """The object that the node `key` of `cfg` describes by `_target_`, with `arguments` added to the config's own.

    Raises:
        ConfigError: the key, the class and why it refused; where an argument is unknown, those that are accepted.
    """
    try:
        return hydra.utils.instantiate(OmegaConf.select(cfg, key), _convert_="all", **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ConfigError | DatasetError | CheckpointError):
            raise cause from error
        if cause is None:
            raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error
        full_key = next((line[10:] for line in str(error).splitlines() if line.startswith("full_key: ")), key)
        node = OmegaConf.select(cfg, full_key)
        target = node.get("_target_", full_key) if OmegaConf.is_dict(node) else full_key
        raise call_refusal(cause, full_key, target, hydra.utils.get_object) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {' '.join(str(error).split())}") from error


def resolved(cfg: DictConfig) -> DictConfig:
    """`cfg` with every interpolation replaced by its value, as it is saved beside a run. Raises ConfigError."""
    try:
        return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise ConfigError(f"the config cannot be resolved: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Description:
    """What a config would train, without training it.

    Attributes:
        config: composed and configured.
        parameters: how many the network has, trainable or not.
        metrics: every name that can be monitored or optimized, sorted.
        network: the network's class name.
    """

    config: DictConfig
    parameters: int
    metrics: tuple[str, ...]
    network: str


def describe(overrides: Sequence[str]) -> Description:
    """Composes and configures `overrides` and builds the task on the meta device, where no weight is allocated.

    Raises:
        ConfigError: it does not compose, a class refuses its arguments, or a monitored metric is never logged.
        DatasetError: the dataset cannot be read or made.
    """
    cfg = configure(compose(overrides))
    with torch.device("meta"):
        task = build_task(cfg)
    metrics = metric_names(cfg, task)
    check_monitored(cfg, metrics)
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    return Description(config=cfg, parameters=parameters, metrics=metrics, network=type(task.net).__name__)


def metric_names(cfg: DictConfig, task: LightningModule) -> tuple[str, ...]:
    """Every metric that a run of `cfg` with `task` logs at the end of an epoch: the task's and its callbacks'."""
    names = set(task.metric_names())
    for name, node in (cfg.get("callbacks") or {}).items():
        if hasattr(hydra.utils.get_class(node._target_), "metric_names"):
            names.update(instantiate(cfg, f"callbacks.{name}").metric_names())
    return tuple(sorted(names))


def check_monitored(cfg: DictConfig, metrics: Iterable[str]) -> None:
    """Raises ConfigError for a metric that `cfg` optimizes or that a callback monitors, but no run of it logs."""
    metrics = set(metrics)
    monitored = {"optimized_metric": cfg.get("optimized_metric")}
    for name, node in (cfg.get("callbacks") or {}).items():
        monitored[f"callbacks.{name}.monitor"] = node.get("monitor")
    for key, metric in monitored.items():
        if metric is not None and metric not in metrics:
            raise ConfigError(f"{key} is {metric!r}, which this run never logs. {near(metric, metrics)}")
