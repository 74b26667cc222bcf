"""The conveniences of the config node `extras`: which warnings are hidden, whether a run needs tags, the config as a tree."""

import io
import logging
import os
import sys
import warnings
from pathlib import Path

import rich
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.syntax import Syntax
from rich.tree import Tree

from lhtx.errors import ConfigError
from lhtx.files import write_atomically
from lhtx.terminal import printable

TREE_FILE = "config_tree.txt"
TREE_ORDER = ("task_name", "tags", "seed", "data", "dataset", "model", "trainer", "callbacks", "logger", "paths", "extras")
"""These stand first in the printed config; what it has besides follows."""
DATALOADER_ADVICE = (
    ".*does not have many workers.*",  # a dataset in memory is indexed by whole batches: processes would only slow it down
    ".*create .* worker processes in total.*",
    ".*'pin_memory' argument is set as true.*",
    ".*Consider setting `persistent_workers=True`.*",
)


def quieten(cfg: DictConfig) -> None:
    """Hides the warnings that `extras` says, in the present `warnings.catch_warnings` block; always Lightning's tips.

    `ignore_dataloader_warnings` hides advice on worker processes and pinned memory, `ignore_warnings` every warning.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # Nothing here is logged by Lightning's steps.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    if cfg.extras.ignore_dataloader_warnings:
        for message in DATALOADER_ADVICE:
            warnings.filterwarnings("ignore", message=message)
    if cfg.extras.ignore_warnings:
        warnings.simplefilter("ignore")


class QuietProcesses(Callback):
    """Repeats `quieten` in the processes that a trainer spawns, which begin with Python's own filters."""

    def __init__(self, cfg: DictConfig) -> None:
        self._cfg = cfg
        self._process = os.getpid()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if os.getpid() != self._process:
            quieten(self._cfg)


def enforce_tags(cfg: DictConfig) -> None:
    """Asks for `tags` if there are none and `extras.enforce_tags` is set, and writes them into `cfg`.

    Raises:
        ConfigError: there is nobody to ask: no terminal, or one of several runs of a multirun; or `tags` is no list of words.
    """
    tags = cfg.get("tags")
    if tags and not (OmegaConf.is_list(tags) and all(isinstance(tag, str) for tag in tags)):
        raise ConfigError(f"tags is {tags!r}; expected a list of words, such as tags=[vimh,dev]")
    if tags or not cfg.extras.enforce_tags:
        return
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    if multirun or not sys.stdin.isatty():
        raise ConfigError(
            "tags is empty, and extras.enforce_tags wants some; set tags=[…], words that tell this run from others, or "
            "extras.enforce_tags=false"
        )
    answer = input("tags of this run, separated by commas (dev): ")
    cfg.tags = [tag.strip() for tag in answer.split(",") if tag.strip()] or ["dev"]


def print_config(cfg: DictConfig, output: Path) -> None:
    """Prints `cfg`, which is resolved, as a tree, and writes the same text to `output`."""
    rich.get_console().print(_tree(cfg, rich.get_console()))
    page = Console(file=io.StringIO(), width=128, color_system=None, force_terminal=False)
    page.print(_tree(cfg, page))
    lines = [text.rstrip() for text in page.file.getvalue().splitlines()]
    write_atomically(output / TREE_FILE, "\n".join(lines) + "\n")


def _tree(cfg: DictConfig, console: Console) -> Tree:
    tree = Tree("config")
    for key in sorted(cfg, key=lambda key: TREE_ORDER.index(key) if key in TREE_ORDER else len(TREE_ORDER)):
        value = cfg[key]
        plain = not OmegaConf.is_config(value) or not len(value)
        text = OmegaConf.to_yaml({key: value}) if plain else OmegaConf.to_yaml(value)
        branch = tree if plain else tree.add(printable(str(key), console))
        branch.add(Syntax(printable(text.rstrip(), console), "yaml", background_color="default", word_wrap=True))
    return tree
