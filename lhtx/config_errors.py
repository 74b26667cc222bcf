"""Turns Hydra's refusal of an override into one that names the override, the near keys or options and the accepted ones.

Only messages are made here; composing is the business of `lhtx.compose`.
"""

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lhtx.errors import ConfigError

MAX_LISTED = 40
EXTRAS = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}
"""Class → the optional part of the project that installs what it needs."""


def near(word: str, accepted: Iterable[str]) -> str:
    """A sentence that names the values of `accepted` near to `word`, and all of them when they are few or none is near.

    >>> near("vimh_cn", ["vimh_cnn", "vimh_mlp"])
    'Did you mean vimh_cnn? Accepted: vimh_cnn, vimh_mlp.'
    """
    accepted = sorted(set(accepted))
    matches = difflib.get_close_matches(word, accepted, n=3, cutoff=0.6)
    sentences = []
    if matches:
        sentences.append(f"Did you mean {' or '.join(matches)}?")
    if len(accepted) <= (MAX_LISTED if matches else 2 * MAX_LISTED):
        sentences.append(f"Accepted: {', '.join(accepted) or 'nothing'}.")
    return " ".join(sentences)


def options(configs: Path) -> dict[str, list[str]]:
    """The config groups below the directory `configs` and the options of each, by file name."""
    groups: dict[str, list[str]] = {}
    for file in sorted(configs.glob("*/**/*.yaml")):
        if not file.stem.startswith("_"):  # what options have in common, and no option itself
            groups.setdefault(file.parent.relative_to(configs).as_posix(), []).append(file.stem)
    return groups


def refusal(error: Exception, overrides: Sequence[str], configs: Path, base: Callable[[list[str]], DictConfig]) -> ConfigError:
    """The `ConfigError` that says which of `overrides` Hydra refused with `error`, and what it would have accepted.

    Args:
        error: what Hydra raised.
        overrides: what it was given.
        configs: the directory of the config groups.
        base: composes a config from the overrides that were not to blame; its keys are the accepted ones.
    """
    text = str(error) or str(error.__cause__)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"the override {error.override!r} cannot be read: {error.message.splitlines()[0]}. "
            "Expected key=value, +key=value to add a key, or ~key to delete one; quote a value that holds any of ,={}[]"
        )
    groups = options(configs)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        culprit = next((o for o in overrides if o.lstrip("+") in (f"{group}={option}", f"/{group}={option}")), None)
        where = f"the override {culprit!r}" if culprit else "a config"
        return ConfigError(f"{where} asks for {group}={option}, which there is not. {near(option, groups.get(group, []))}")
    for override in overrides:
        key = _key(override)
        if key is None or not re.search(rf"['\s=+]{re.escape(key)}(?=['\s=]|$)", text):
            continue
        others = [other for other in overrides if other != override]
        unknown = None if key in groups else _unknown(override, key, base(others), groups)
        return ConfigError(f"the override {override!r} was refused: {unknown or ' '.join(text.split())}")
    return ConfigError(f"the config does not compose with {list(overrides)}: {' '.join(text.split())}")


def _key(override: str) -> str | None:
    """The key an override sets, without package or sign; None where it cannot be parsed."""
    try:
        return OverridesParser.create().parse_override(override).key_or_group
    except HydraException:
        return None


def _unknown_key(key: str, config: DictConfig, groups: Mapping[str, list[str]]) -> str | None:
    """Says where along the dotted `key` the config has no such entry, with the entries there; None if it has them all."""
    tree: Any = OmegaConf.to_container(config, resolve=False)
    node, path = tree, ""
    for part in key.split("."):
        if not isinstance(node, dict):
            return f"{path} holds the value {node!r}, so it has no key {part!r}."
        if part not in node:
            place = f"in {path}" if path else "at the top level or among the groups"
            accepted = [*node, *([] if path else groups)]
            message = f"there is no key {part!r} {place}. {near(part, accepted)}"
            if elsewhere := [known for known, _ in _values(tree) if known.endswith(f".{key.rpartition('.')[2]}")]:
                message += f" The same name stands at {', '.join(elsewhere)}."
            return f"{message} A new key is added with a leading +."
        node, path = node[part], f"{path}.{part}".lstrip(".")
    return None


def _unknown(override: str, key: str, config: DictConfig, groups: Mapping[str, list[str]]) -> str | None:
    """Says which key of `override`, which sets `key`, or of the mapping that it gives the config does not have; None: none."""
    given = OverridesParser.create().parse_override(override).value()
    message, whole = _unknown_key(key, config, groups), key.rpartition(".")[0]
    if message is None:
        message, whole = _unknown_inner_key(key, given, config), key
    if message and whole and whole not in groups and isinstance(given, dict):
        message += f" To put another mapping in the place of {whole}, delete it first: ~{whole} '+{whole}={{…}}'."
    return message


def unread(error: yaml.MarkedYAMLError) -> ConfigError:
    """The `ConfigError` for a config file that is no YAML: the file, the line and what is wrong with it."""
    mark = error.problem_mark or error.context_mark
    where = f"{mark.name}:{mark.line + 1}:{mark.column + 1}" if mark else "a config file"
    return ConfigError(f"{where}: no YAML: {error.problem or error.context}")


def check_known(given: Mapping[str, Any], known: Any, file: Path, prefix: str = "") -> None:
    """Refuses keys that a config file sets and the config has not got without it; below an empty mapping there may be any.

    Args:
        given: what the file holds.
        known: the config without the file, as plain containers.
        file: for the message.
        prefix: of the keys, where `given` and `known` stand below one.

    Raises:
        ConfigError: the first such key, with the near ones.
    """
    for key, value in given.items():
        if key not in known:
            where = f"in {prefix.rstrip('.')}" if prefix else "at the top level"
            raise ConfigError(f"{file}: there is no key {str(key)!r} {where}. {near(str(key), map(str, known))}")
        if isinstance(value, Mapping) and isinstance(known[key], Mapping) and known[key]:
            check_known(value, known[key], file, f"{prefix}{key}.")


def _unknown_inner_key(key: str, given: Any, config: DictConfig) -> str | None:
    """Says which key of the mapping `given` for `key` the config does not have there; None where it has them all."""
    while isinstance(given, dict):
        node = OmegaConf.select(config, key)
        if not OmegaConf.is_dict(node):
            return None
        for name in given:
            if name not in node:
                return f"there is no key {str(name)!r} in {key}. {near(str(name), map(str, node))}"
        name, given = next(((name, value) for name, value in given.items() if isinstance(value, dict)), (None, None))
        key = f"{key}.{name}"
    return None


def _values(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Every dotted key of a config given as plain containers, leaves and inner nodes, and what stands there."""
    values: list[tuple[str, Any]] = []
    for name, node in tree.items():
        values.append((f"{prefix}{name}", node))
        if isinstance(node, dict):
            values += _values(node, f"{prefix}{name}.")
    return values


def missing_target(key: str, target: str) -> ConfigError:
    """The `ConfigError` for a `_target_` at the config key `key` that names nothing; with what there is where it looks."""
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:length])
        try:
            place: Any = importlib.import_module(path)
        except ImportError:
            continue
        if length < len(parts) - 1 and inspect.isclass(getattr(place, parts[length], None)):
            place, path, length = getattr(place, parts[length]), f"{path}.{parts[length]}", length + 1
        known = getattr(place, "__all__", None) or _own_names(place, path)
        if "loss" in key.split("."):
            known = [name for name in known if _is_loss(getattr(place, name, None))] or known
        return ConfigError(
            f"{key}._target_ is {target!r}, and there is no {parts[length]!r} in {path}. {near(parts[length], known)}"
        )
    return ConfigError(
        f"{key}._target_ is {target!r}, and there is no module {parts[0]!r}; expected a class, such as lhtx.nets.SimpleCNN"
    )


def _is_loss(value: Any) -> bool:
    from lhtx.losses import Loss  # here, as messages alone have no use for torch

    return inspect.isclass(value) and issubclass(value, Loss) and value is not Loss


def _own_names(place: Any, path: str) -> list[str]:
    """The public names that the module or class `place` defines itself, its submodules included; all, where it defines none."""
    public = {name: value for name, value in vars(place).items() if not name.startswith("_")}
    own = [
        name
        for name, value in public.items()
        if getattr(value, "__module__", None) == path or str(getattr(value, "__name__", "")).startswith(f"{path}.")
    ]
    return own or list(public)


def call_refusal(error: Exception, key: str, target: str, locate: Callable[[str], Any]) -> ConfigError:
    """The `ConfigError` for a class named in a config that could not be found or called.

    Args:
        error: what the class raised, or what finding it raised.
        key: the dotted config key, such as `model.net`.
        target: the dotted path of the class or function.
        locate: finds the class by its path (to list what its constructor accepts).
    """
    if isinstance(error, ImportError) and (extra := EXTRAS.get(target.rpartition(".")[2])):
        return ConfigError(f"{key}: {target} needs a package that is not installed: pip install 'lhtx-sweeps[{extra}]'")
    message = f"{key}: {target} refused its configuration: {type(error).__name__}: {error}."
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if unexpected:
        message += f" {near(unexpected[1], _arguments(locate(target)))}"
    return ConfigError(message)


def network_refusal(error: Exception, cfg: DictConfig) -> ConfigError:
    """The `ConfigError` for a network that raised `error` when it was handed the shapes of the dataset of `cfg`."""
    data, net = cfg.dataset, cfg.model.net
    given = f"images of {data.channels}×{data.height}×{data.width} (channels, height, width)"
    if data.auxiliary_size:
        given += f" and {data.auxiliary_size} auxiliary features"
    reason = str(error).removesuffix(".")
    return ConfigError(
        f"model.net: {net._target_} does not take what the dataset {data.name} gives, {given}: {reason}. Choose a model that "
        "is made for such data, or leave the sizes under model.net to its config, which reads them from the dataset"
    )


def _arguments(call: Any) -> list[str]:
    """What `call` accepts by name; a class that hands further options on to its base class accepts those too."""
    names: list[str] = []
    for function in [base.__init__ for base in call.__mro__ if "__init__" in vars(base)] if inspect.isclass(call) else [call]:
        parameters = inspect.signature(function).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def unresolved(error: OmegaConfBaseException, cfg: DictConfig, where: str) -> ConfigError:
    """The `ConfigError` for a value of `cfg` that refers to another one which is not there; `where` is what was being read."""
    reason = _reason(error)
    culprits = []
    for key, value in _values(OmegaConf.to_container(cfg, resolve=False)):
        try:
            OmegaConf.select(cfg, key)
        except OmegaConfBaseException as other:
            if _reason(other) == reason:
                first_hand = any(reference in reason for reference in re.findall(r"\$\{\.*([^}:]+)\}", str(value)))
                culprits.append((not first_hand, key, value))  # others fail because they refer to that one
    if not culprits:
        return ConfigError(f"{where}: {reason}")
    _, key, value = min(culprits, key=lambda culprit: culprit[0])
    return ConfigError(f"{key} is {value!r}, which cannot be resolved: {reason}. Set {key}, or what it refers to")


def _reason(error: OmegaConfBaseException) -> str:
    return str(error).split("\n    full_key:")[0]
