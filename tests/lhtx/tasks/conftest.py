"""Batches as a datamodule gives them, made here, and a trainer that writes nothing."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

HEADS = {
    "note": {"classes": 12, "minimum": 48.0, "maximum": 59.0, "step": 1.0},
    "decay": {"classes": 256, "minimum": -1.5, "maximum": 1.0, "step": 0.0},
}


class Batches(IterableDataset):
    """Batches of 16, the last one smaller, in a seeded order that depends on the epoch alone."""

    def __init__(self, samples: dict[str, Tensor], shuffle: bool) -> None:
        self.samples, self.shuffle, self.epoch = samples, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        number = len(self.samples["index"])
        order = torch.arange(number)
        if self.shuffle:
            order = torch.randperm(number, generator=torch.Generator().manual_seed(self.epoch))
        for part in order.split(16):
            yield {name: tensor[part] for name, tensor in self.samples.items()}


@pytest.fixture
def heads() -> dict[str, dict[str, Any]]:
    return {name: dict(entry) for name, entry in HEADS.items()}


@pytest.fixture
def samples() -> Callable[..., dict[str, Tensor]]:
    """samples(number, heads, auxiliary=0, seed=0): 1×8×8 images whose brightness tells the parameters."""

    def make(number: int, heads: dict[str, dict[str, Any]], auxiliary: int = 0, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        value = torch.rand(number, len(heads), generator=generator)
        classes = torch.tensor([head["classes"] for head in heads.values()])
        image = torch.rand(number, 1, 8, 8, generator=generator) / 4
        image[:, 0, :4] += value[:, :1, None] / 2
        image[:, 0, 4:] += value[:, -1:, None] / 2
        made = {"image": image, "index": (value * (classes - 1)).round().long(), "value": value}
        if auxiliary:
            made["auxiliary"] = value[:, :1].expand(-1, auxiliary) + torch.randn(number, auxiliary, generator=generator)
        return made

    return make


@pytest.fixture
def loader() -> Callable[..., DataLoader]:
    """loader(samples, shuffle=False)."""
    return lambda samples, shuffle=False: DataLoader(Batches(samples, shuffle), batch_size=None)


@pytest.fixture
def trainer(tmp_path) -> Callable[..., Trainer]:
    """trainer(**options): one epoch on the CPU, quiet."""

    def make(**options: Any) -> Trainer:
        defaults = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0}
        # A checkpoint callback is given where one is wanted; without any, Lightning would make its own.
        defaults["enable_checkpointing"] = any(isinstance(each, Checkpoint) for each in options.get("callbacks", ()))
        quiet = {"enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(accelerator="cpu", default_root_dir=tmp_path, **(quiet | defaults | options))

    return make
