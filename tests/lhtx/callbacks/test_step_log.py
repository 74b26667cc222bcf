"""What StepLog writes: losses and learning rates of single steps, at their own step, and nothing that a monitor would see."""

import csv

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lhtx.callbacks import StepLog
from lhtx.errors import ConfigError


class Regression(LightningModule):
    def __init__(self, optimizer=None) -> None:
        super().__init__()
        self.body, self.optimizer = nn.Linear(5, 1), optimizer
        self.losses: list[float] = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self.body(x) - y).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        optimizer = self.optimizer(self) if self.optimizer else torch.optim.SGD(self.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Memory(Logger):
    """Keeps what is logged, with its step, and when: before the end of the epoch or after."""

    name, version = "memory", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics, step=None):
        if any(name.startswith(("train/loss_step", "lr")) for name in metrics):
            self.rows[step] = dict(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def fit(logger, model=None, epochs=2, callbacks=(), **options) -> tuple[Regression, Trainer]:
    seed_everything(1, verbose=False)
    x = torch.randn(40, 5)
    model = model or Regression()
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[StepLog(), *callbacks], logger=logger, enable_model_summary=False,
        enable_progress_bar=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8))
    return model, trainer


def test_losses_and_rates_stand_at_their_own_steps():
    memory = Memory()
    model, trainer = fit(memory, log_every_n_steps=3)
    assert sorted(memory.rows) == [0, 3, 6, 9]  # 5 steps an epoch
    for step, row in memory.rows.items():
        assert row == {"train/loss_step": pytest.approx(model.losses[step]), "lr": pytest.approx(0.05 * 0.5**step)}
    assert trainer.callback_metrics == {}
    assert trainer.logged_metrics == {}


def test_the_loss_of_a_step_is_the_mean_of_its_batches():
    memory = Memory()
    model, _ = fit(memory, epochs=1, log_every_n_steps=1, accumulate_grad_batches=2)
    means = [sum(model.losses[k : k + 2]) / len(model.losses[k : k + 2]) for k in (0, 2, 4)]  # the last one has one batch
    assert [memory.rows[step]["train/loss_step"] for step in range(3)] == pytest.approx(means)
    memory = Memory()
    model, _ = fit(memory, epochs=1, log_every_n_steps=2, accumulate_grad_batches=2)
    assert {step: row["train/loss_step"] for step, row in memory.rows.items()} == pytest.approx({0: means[0], 2: means[2]})


def test_groups_have_rates_of_their_own():
    def optimizer(model):
        groups = [{"params": [model.body.weight], "name": "matrices"}, {"params": [model.body.bias], "lr": 0.4}]
        return torch.optim.SGD(groups, lr=0.1)

    memory = Memory()
    fit(memory, Regression(optimizer), epochs=1, log_every_n_steps=5)
    assert {name: value for name, value in memory.rows[0].items() if name != "train/loss_step"} == {
        "lr/matrices": 0.1,
        "lr/1": 0.4,
    }


def test_nothing_is_written_before_the_epoch_ends():
    memory, seen = Memory(), []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(len(memory.rows))

    fit(memory, epochs=1, callbacks=[Watch()], log_every_n_steps=1)
    assert seen == [0] * 5
    assert len(memory.rows) == 5


def test_a_csv_logger_gets_them(tmp_path):
    model, _ = fit(CSVLogger(tmp_path, name="", version=""), epochs=1, log_every_n_steps=2)
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = {int(row["step"]): float(row["train/loss_step"]) for row in csv.DictReader(file)}
    assert rows == pytest.approx({step: model.losses[step] for step in (0, 2, 4)})


def test_it_goes_without_a_logger_and_refuses_a_senseless_interval():
    fit(False)
    with pytest.raises(ConfigError, match=r"trainer\.log_every_n_steps is 0, expected 1 or more"):
        fit(Memory(), log_every_n_steps=0)
