"""What the members of a group share: the data and the order of its batches, the device, the precision, the trainer's limits.

Lightning's own Trainer reads the config's `trainer` and is asked for these; it trains nothing. Knows no member.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import DictConfig, open_dict
from torch import Tensor

from lhtx.compose import build_datamodule
from lhtx.runs import build_trainer

Split = Literal["train", "val", "test"]
LIMITS = {"train": "limit_train_batches", "val": "limit_val_batches", "test": "limit_test_batches"}


class Setting:
    """Opens the dataset of a configured config, once for all members.

    Args:
        cfg: that of any member; `data.seed` names the orders of batches.
        constants: the datamodule's state in a checkpoint, to normalise inputs by; None measures it.
    """

    def __init__(self, cfg: DictConfig, constants: Mapping[str, Any] | None = None) -> None:
        bare = copy.deepcopy(cfg)
        with open_dict(bare):
            bare.callbacks, bare.logger, bare.data.first_order, bare.ckpt_path = {}, {}, 0, None
        self.trainer = build_trainer(bare)
        self.device = self.trainer.strategy.root_device
        self.precision = self.trainer.precision_plugin
        self.every_n_epochs = self.trainer.check_val_every_n_epoch or 1
        self.order_seed: int = cfg.data.seed
        self.datamodule = build_datamodule(bare)
        self.datamodule.trainer = self.trainer
        self.datamodule.prepare_data()
        if constants:
            self.datamodule.load_state_dict(dict(constants))
        self.datamodule.setup()
        self._loaders = {
            "train": self.datamodule.train_dataloader(),
            "val": self.datamodule.val_dataloader(),
            "test": self.datamodule.test_dataloader(),
        }

    def steps(self, split: Split) -> int:
        """How many batches of a split are used in an epoch, as Lightning counts them."""
        limit, there = getattr(self.trainer, LIMITS[split]), len(self._loaders[split])
        return min(there, limit) if isinstance(limit, int) else int(there * limit)

    def batches(self, split: Split, order: int = 0) -> Iterator[dict[str, Tensor]]:
        """The batches of an epoch, on the device, normalised; those of training are augmented, all by `order` alone."""
        self.trainer.training = split == "train"
        loader = self._loaders[split]
        if split == "train":
            loader.sampler.set_epoch(order)
            torch.manual_seed(int(np.random.SeedSequence([self.order_seed, order]).generate_state(1)[0]))
        for batch in islice(loader, self.steps(split)):
            batch = self.precision.convert_input(batch)
            batch = self.datamodule.transfer_batch_to_device(batch, self.device, 0)
            yield self.datamodule.on_after_batch_transfer(batch, 0)

    def computing(self) -> AbstractContextManager[None]:
        """Forward passes of the config's precision."""
        return self.precision.forward_context()
