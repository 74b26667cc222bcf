"""Switches every kind of dropout off while a network trains: to see whether it can learn a few samples by heart."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

PROBABILITIES = ("p", "dropout", "dropout_rate")
"""The attributes by which torch's and this project's modules keep the probability of dropping something."""


class WithoutDropout(Callback):
    """Sets the dropout probabilities of all modules to 0, those of stochastic depth and attention included."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        switch_off(pl_module)


def switch_off(network: nn.Module) -> None:
    """Set the numbers that the modules of `network` keep under one of `PROBABILITIES` to 0."""
    for module in network.modules():
        for name in PROBABILITIES:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
