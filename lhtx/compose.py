"""From overrides to a config, and from a config to its datamodule and task: the one place that configures a model's heads
from the dataset's own description, for training, evaluation and parameter counting alike. Trains nothing.
"""

import copy
import inspect
import os
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
import yaml
from hydra.errors import HydraException, InstantiationException
from lightning import LightningDataModule, LightningModule
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from lhtx.argument_types import check_choice, check_switches, check_types
from lhtx.composition import composed
from lhtx.config_errors import (
    call_refusal,
    check_known,
    missing_target,
    near,
    network_refusal,
    options,
    refusal,
    unread,
    unresolved,
)
from lhtx.errors import CheckpointError, ConfigError, DatasetError

CONFIGS = Path(__file__).resolve().parent / "configs"
BETTER = {"min": re.compile(r"(^|[/_])(loss|mae)(_best)?$"), "max": re.compile(r"(^|[/_])acc(_best)?$")}
"""Mode → the names of those metrics of which that end is the better one. Of others, either may be wanted."""


def project_root() -> str:
    """The directory that `paths.root_dir` defaults to.

    LHTX_ROOT where it is set; else the directory that holds this package, if it is a checkout (it has a pyproject.toml);
    else the current directory. So a command finds the same data from wherever it is run.
    """
    if root := os.environ.get("LHTX_ROOT"):
        return str(Path(root).expanduser().resolve())
    checkout = CONFIGS.parent.parent
    return str(checkout if (checkout / "pyproject.toml").is_file() else Path.cwd())


def groups_text() -> str:
    """The config groups and the options of each, for `python -m lhtx.train --help`."""
    return "\n\n".join(
        textwrap.fill(f"{group}: {', '.join(names)}", 120, subsequent_indent="  ", break_on_hyphens=False)
        for group, names in options(CONFIGS).items()
    )


OmegaConf.register_new_resolver("lhtx.root", project_root, replace=True)
OmegaConf.register_new_resolver("lhtx.groups", groups_text, replace=True)


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
        cfg = composed(overrides, config_name, CONFIGS)
        if config_name == "train":
            _check_local(overrides)
        check_switches({key: cfg[key] for key in ("train", "test")})
        check_switches(cfg.extras, "extras")
        if config_name == "train":
            check_choice(cfg.restore.hyperparameters, "restore.hyperparameters", ("checkpoint", "config"))
        OmegaConf.select(cfg, "paths.output_dir")  # from here on its time stands, in copies of the config too
        return cfg
    except (HydraException, TypeError) as error:  # Hydra trips with a TypeError over a group set to a list of numbers
        raise refusal(error, overrides, CONFIGS, lambda others: _compose_or_default(others, config_name)) from error
    except yaml.MarkedYAMLError as error:
        raise unread(error) from error
    except OmegaConfBaseException as error:
        raise unresolved(error, cfg, "paths.output_dir") from error


def _check_local(overrides: list[str]) -> None:
    """Refuses local settings that set what there is not: Hydra would add it, and nothing would read it."""
    file = CONFIGS / "local" / "default.yaml"
    others = [override for override in overrides if not override.startswith("local=")]
    if others != overrides or "~local" in overrides or not file.is_file():
        return
    settings = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    if settings and not re.match(r"\s*#\s*@package\s+_global_\s", file.read_text(encoding="utf-8")):
        raise ConfigError(f"{file}: the first line must be `# @package _global_`; without it, nothing reads what follows")
    chosen = {key.split()[-1].strip("/") for entry in settings.get("defaults", ()) if isinstance(entry, dict) for key in entry}
    given = {key: value for key, value in settings.items() if key not in {"defaults", "hydra"} | chosen}
    check_known(given, OmegaConf.to_container(composed([*others, "~local"], "train", CONFIGS), resolve=False), file)


def _compose_or_default(overrides: list[str], config_name: str) -> DictConfig:
    """The config without the override that was refused; without any, where a second one is at fault too."""
    try:
        return composed(overrides, config_name, CONFIGS)
    except HydraException:
        return composed([o for o in overrides if o.startswith("hydra.searchpath")], config_name, CONFIGS)


def configure(cfg: DictConfig, prepare: bool = True) -> DictConfig:
    """A copy of `cfg` whose `dataset` node describes the dataset that `data` names.

    Makes or fetches the dataset first if it is missing and `data` says how. `configure(configure(cfg)) == configure(cfg)`.

    Args:
        cfg: composed.
        prepare: False makes and fetches nothing: for datasets that can be described without their files.

    Raises:
        ConfigError: `data` cannot be instantiated.
        DatasetError: the dataset cannot be read or made.
    """
    datamodule = build_datamodule(cfg)
    if prepare:
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


def check_network(cfg: DictConfig, task: LightningModule) -> None:
    """Refuses a network that does not take the dataset's images and auxiliary features, by their shapes alone.

    It is called once as if its weights were on the meta device, where nothing is computed: a matter of milliseconds.

    Args:
        cfg: configured.
        task: built from it, on whatever device.

    Raises:
        ConfigError: with the dataset's shapes and what the network says to them.
    """
    net, data, features = task.net, cfg.dataset, cfg.dataset.auxiliary_size
    weights = {name: tensor.detach().to("meta") for name, tensor in (*net.named_parameters(), *net.named_buffers())}
    training = {module: module.training for module in net.modules()}
    try:
        with torch.device("meta"), torch.no_grad():
            inputs = [torch.empty(2, data.channels, data.height, data.width)]
            inputs += [torch.empty(2, features)] if features and net.auxiliary_input_size else []
            torch.func.functional_call(net.eval(), weights, tuple(inputs))
    except (ValueError, RuntimeError) as error:
        if "meta" in str(error).lower():  # it looks at numbers, or makes tensors elsewhere: only a real batch can tell
            return
        raise network_refusal(error, cfg) from error
    finally:
        for module, mode in training.items():
            module.training = mode


def instantiate(cfg: DictConfig, key: str, **arguments: Any) -> Any:
    """The object that the node `key` of `cfg` describes by `_target_`, with `arguments` added to the config's own.

    Raises:
        ConfigError: the key, the class and why it refused; where an argument is unknown, those that are accepted.
    """
    try:
        _check_types(cfg, key)
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
        if "Error locating target" in str(error):
            raise missing_target(full_key, target) from error
        raise call_refusal(cause, full_key, target, hydra.utils.get_object) from error
    except OmegaConfBaseException as error:
        raise unresolved(error, cfg, key) from error


def parts_of(cfg: DictConfig, group: str) -> list[str]:
    """The callbacks or the loggers of `cfg`, by name: what the mapping `group` holds but for null, which switches one off."""
    return [name for name, node in (cfg.get(group) or {}).items() if node is not None]


def _check_types(cfg: DictConfig, key: str) -> None:
    node = OmegaConf.select(cfg, key)
    check_types(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, key)


def target_class(cfg: DictConfig, key: str) -> Any:
    """The class (or function) that the node `key` of `cfg` names by `_target_`. Raises ConfigError where there is none."""
    node = OmegaConf.select(cfg, key)
    target = node.get("_target_") if OmegaConf.is_dict(node) else None
    if not isinstance(target, str):
        raise ConfigError(f"{key} is {node!r}; expected a mapping with a _target_, the path of a class")
    try:
        return hydra.utils.get_object(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise missing_target(key, target) from error


def resolved(cfg: DictConfig) -> DictConfig:
    """`cfg` with every interpolation replaced by its value, as it is saved beside a run. Raises ConfigError."""
    try:
        return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise unresolved(error, cfg, "the config") from error


@dataclass(frozen=True)
class Description:
    """What a config would train, without training it.

    Attributes:
        config: composed and configured.
        parameters: how many the network has, trainable or not.
        metrics: every name that a run logs, sorted. Those of `test/` come after the last epoch: they cannot be optimized.
        network: the network's class name.
    """

    config: DictConfig
    parameters: int
    metrics: tuple[str, ...]
    network: str


def describe(overrides: Sequence[str], prepare: bool = True) -> Description:
    """Composes and configures `overrides` and builds the task on the meta device, where no weight is allocated.

    Args:
        overrides: as for `compose`.
        prepare: as for `configure`.

    Raises:
        ConfigError: it does not compose, a class refuses its arguments, the network does not take the data (`check_network`),
            or what it monitors makes no sense (`check_monitored`).
        DatasetError: the dataset cannot be read or made.
    """
    cfg = configure(compose(overrides), prepare)
    epochs = cfg.trainer.get("max_epochs")
    if epochs is not None and (not isinstance(epochs, int) or (epochs < 1 and epochs != -1)):
        raise ConfigError(f"trainer.max_epochs is {epochs!r}; expected a whole number of 1 or more, or -1 for no limit")
    with torch.device("meta"):
        task = build_task(cfg)
    check_network(cfg, task)
    metrics = metric_names(cfg, task)
    check_monitored(cfg, metrics)
    parameters = sum(parameter.numel() for parameter in task.net.parameters())
    return Description(config=cfg, parameters=parameters, metrics=metrics, network=type(task.net).__name__)


def metric_names(cfg: DictConfig, task: LightningModule) -> tuple[str, ...]:
    """Every metric that a run of `cfg` with `task` logs at the end of an epoch: the task's and its callbacks'."""
    names = set(task.metric_names())
    for name in parts_of(cfg, "callbacks"):
        if hasattr(target_class(cfg, f"callbacks.{name}"), "metric_names"):
            names.update(instantiate(cfg, f"callbacks.{name}").metric_names())
    return tuple(sorted(names))


def check_monitored(cfg: DictConfig, metrics: Iterable[str]) -> None:
    """Refuses what `cfg` optimizes, or a callback monitors, if no epoch of it logs that, or if it is taken the wrong way round.

    Args:
        cfg: composed.
        metrics: every name that a run of it logs, as `metric_names` gives them. Those of the test come after the last epoch.

    Raises:
        ConfigError: a metric that is not among them; the highest of a loss or an error, or the lowest of an accuracy; or one of
            the validation, or a `ReduceLROnPlateau`, which needs it, where `cfg.trainer` never validates.
    """
    _check_types(cfg, "trainer")
    metrics = list(metrics)
    logged = [metric for metric in metrics if not metric.startswith("test/")]
    watched = [("optimized_metric", cfg.get("optimized_metric"), "optimized_mode", cfg.get("optimized_mode"))]
    for name in parts_of(cfg, "callbacks"):
        node = cfg.callbacks[name]
        if not OmegaConf.is_dict(node):
            target_class(cfg, f"callbacks.{name}")  # refuses it
        watched.append((f"callbacks.{name}.monitor", node.get("monitor"), f"callbacks.{name}.mode", _mode(cfg, name)))
    for key, metric, mode_key, mode in watched:
        if metric is None:
            continue
        if metric not in logged:
            why = "which this run logs after its last epoch only" if metric in metrics else "which this run never logs"
            raise ConfigError(f"{key} is {metric!r}, {why}. {near(metric, logged)}")
        better = next((end for end, names in BETTER.items() if names.search(metric)), None)
        if better and mode in BETTER and mode != better:
            raise ConfigError(
                f"{key} is {metric!r} and {mode_key} is {mode!r}, which would take the worst epoch for the best; "
                f"set {mode_key}={better}"
            )
        if metric.startswith("val/") and (why := _never_validates(cfg)):
            raise ConfigError(
                f"{key} is {metric!r}, and {why}, so that this run never validates. Change that, or take a metric of train/"
            )
    plateau = str(OmegaConf.select(cfg, "model.scheduler._target_")).endswith(".ReduceLROnPlateau")
    if plateau and (why := _never_validates(cfg, after_epochs=1)):
        raise ConfigError(f"model.scheduler is ReduceLROnPlateau, which needs val/loss after every epoch, and {why}")


def _mode(cfg: DictConfig, callback: str) -> str | None:
    """Whether a callback takes the highest or the lowest value: `mode` in its config, else its class's default."""
    if "mode" in cfg.callbacks[callback]:
        return cfg.callbacks[callback].mode
    mode = inspect.signature(target_class(cfg, f"callbacks.{callback}")).parameters.get("mode")
    return mode.default if mode else None


def _never_validates(cfg: DictConfig, after_epochs: int | None = None) -> str | None:
    """Why `cfg.trainer` does not validate within `after_epochs` epochs (None: in the whole run); None where it does or may."""
    trainer = cfg.trainer
    if not cfg.train or trainer.get("fast_dev_run"):  # a development run validates whatever is said here
        return None
    if trainer.get("limit_val_batches") == 0:
        return "trainer.limit_val_batches is 0"
    every = trainer.get("check_val_every_n_epoch")
    epochs = trainer.get("max_epochs") if after_epochs is None else after_epochs
    if every is None or epochs is None or not 0 < epochs < every:
        return None
    return f"trainer.check_val_every_n_epoch is {every}" + (
        f", more than the {epochs} of trainer.max_epochs" if after_epochs is None else ""
    )
