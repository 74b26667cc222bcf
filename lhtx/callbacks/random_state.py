"""Makes the random numbers of an epoch depend on the seed and the epoch alone, so that a resumed run repeats them."""

import random
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class RandomState(Callback):
    """Seeds Python's, NumPy's and torch's generators anew for each epoch.

    A run resumed from the end of an epoch then draws what the uninterrupted run drew, bit for bit on the CPU. Storing the
    generators' states would not do: setting up a resumed run draws numbers too, and in another order. The seed is kept in
    the checkpoint, and the checkpoint's wins. Of several processes each draws its own numbers.

    Args:
        seed: of the run; 0 or above.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """For what is drawn while the first batch is loaded and augmented."""
        self._reseed(trainer, stream=0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """For the rest: between the two hooks a new run makes a data iterator, a resumed one has made it before."""
        if batch_idx == 0:
            self._reseed(trainer, stream=1)

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seed = state_dict["seed"]

    def _reseed(self, trainer: Trainer, stream: int) -> None:
        entropy = [self.seed, trainer.current_epoch, stream, trainer.global_rank]
        python, numpy, pytorch = np.random.SeedSequence(entropy).generate_state(3, np.uint32).tolist()
        random.seed(python)
        np.random.seed(numpy)
        torch.manual_seed(pytorch)
