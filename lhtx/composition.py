"""Hydra's composition of config files, kept from one call to the next. It knows nothing of what a config means.

Which files a config is merged of depends on the overrides of config groups alone; overrides of values are set afterwards, in
the merged config. So one merge serves all configs that differ in values only, as the trials of a sweep do.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

_KEPT = 64
_Key = tuple[str, tuple[str, ...], tuple[tuple[str, int, int], ...]]
_merged: dict[_Key, bytes] = {}


def composed(overrides: list[str], config_name: str, directory: Path) -> DictConfig:
    """What Hydra composes of `overrides` on `<directory>/<config_name>.yaml`.

    Raises: what `hydra.compose` raises.
    """
    with hydra.initialize_config_dir(str(directory), version_base="1.3"):
        divided = _divided(overrides)
        if divided is None:
            return hydra.compose(config_name, overrides=overrides)
        groups, values = divided
        cfg = _merge(groups, config_name, directory)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except HydraException:
            return hydra.compose(config_name, overrides=overrides)  # to be refused as by Hydra alone
        return cfg


def merge(overrides: list[str], config_name: str, directory: Path) -> None:
    """Does what `composed` would begin with, for configs that differ from this one in values only to find it done.

    Raises: what `hydra.compose` raises.
    """
    with hydra.initialize_config_dir(str(directory), version_base="1.3"):
        if divided := _divided(overrides):
            _merge(divided[0], config_name, directory)


def _divided(overrides: list[str]) -> tuple[list[str], list[Override]] | None:
    """Those of groups and those of values; None where they cannot be told apart from here, or Hydra refuses one."""
    exists = GlobalHydra.instance().config_loader().repository.group_exists
    groups: list[str] = []
    values: list[Override] = []
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException:
        return None
    for text, override in zip(overrides, parsed, strict=True):
        key = override.key_or_group
        if key.startswith("hydra") or override.is_sweep_override():
            return None  # they may name further sources of groups
        if not exists(key):
            values.append(override)
        elif isinstance(override.value(), dict):
            return None  # sets values of the group, in its turn among all others
        else:
            groups.append(text)
    return groups, values


def _merge(groups: list[str], config_name: str, directory: Path) -> DictConfig:
    """The config of the files alone: of these, nothing is resolved yet."""
    key = (config_name, tuple(groups), _state(directory))
    if key not in _merged:
        while len(_merged) >= _KEPT:
            del _merged[next(iter(_merged))]
        _merged[key] = pickle.dumps(hydra.compose(config_name, overrides=groups))
    return pickle.loads(_merged[key])  # noqa: S301  its own: a copy, five times faster than a deep one


def _state(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Each config file with when it was changed last: a run reads them as they are when it begins."""
    files = (os.path.join(path, name) for path, _, names in os.walk(directory) for name in names)
    return tuple(sorted((file, (state := os.stat(file)).st_mtime_ns, state.st_size) for file in files))
