"""GradientStatistics under a real Trainer: the values against the gradients themselves, the names, resuming."""

import csv
import math

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lhtx.callbacks import GradientStatistics
from lhtx.errors import ConfigError

BATCH = 8


class Regression(LightningModule):
    """Two layers, the second within a container, and one parameter that the loss never uses."""

    def __init__(self, lr: float = 0.05, poison: int | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.body = nn.Sequential(nn.Tanh(), nn.Linear(6, 1))
        self.unused = nn.Linear(2, 2)
        self.lr, self.poison = lr, poison

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = (self.body(self.first(x)) - y).square().mean()
        return loss * torch.nan if batch_idx == self.poison else loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Spy(Callback):
    """Keeps a copy of every gradient that the optimizer is about to see, by epoch."""

    def __init__(self) -> None:
        self.epochs: list[list[dict[str, np.ndarray]]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.named_parameters()
        self.epochs[-1].append({n: (torch.zeros_like(p) if p.grad is None else p.grad).double().numpy() for n, p in named})

    def on_train_epoch_end(self, trainer, pl_module):
        self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items()})


def loader(samples: int = 40) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 5, generator=generator)
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=BATCH)


def fit(callback, tmp_path, epochs=2, model=None, samples=40, logger=False, ckpt_path=None, **options):
    spy = Spy()
    seed_everything(1, verbose=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[callback, spy], logger=logger, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, **options,
    )  # fmt: skip
    trainer.fit(model or Regression(), loader(samples), ckpt_path=ckpt_path)
    return trainer, spy


def flat(step: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([g.ravel() for g in step.values()])


def test_epoch_values_match_the_gradients_that_the_optimizer_saw(tmp_path):
    callback = GradientStatistics()
    _, spy = fit(callback, tmp_path)
    assert len(spy.metrics) == 2
    means = []
    for steps, metrics in zip(spy.epochs, spy.metrics, strict=True):
        gradients = np.stack([flat(step) for step in steps])
        k, mean, trace = len(gradients), gradients.mean(0), gradients.var(0, ddof=1).sum()
        means.append(mean)
        norms = np.array([[np.linalg.norm(g) for g in step.values()] for step in steps])
        totals = np.linalg.norm(gradients, axis=1)
        signal = mean @ mean - trace / k
        assert signal > 0
        expected = {
            "norm_mean": norms.mean(),
            "norm_std": norms.std(axis=1).mean(),
            "norm_ratio": (norms.mean(1) / norms.std(1)).mean(),
            "norm_max": norms.max(),
            "norm_min": 0.0,  # the layer that the loss never uses
            "snr": mean @ mean / (trace / k),
            "evidence": 1 - k * mean @ mean / trace,
            "noise_scale": BATCH * trace / signal,
            "epoch_mean": totals.mean(),
            "epoch_std": totals.std(),
            "stability": totals.std() / totals.mean(),
            "finite": 1.0,
        }
        for name, value in expected.items():
            assert metrics[f"grad/{name}"] == pytest.approx(value, rel=1e-4), name
    assert math.isnan(spy.metrics[0]["grad/cosine"])
    cosine = means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1])
    assert spy.metrics[1]["grad/cosine"] == pytest.approx(cosine, rel=1e-5)


def test_every_kth_step_counts_from_the_first(tmp_path):
    _, spy = fit(GradientStatistics(every_k_steps=2), tmp_path, epochs=1)
    counted = np.stack([flat(step) for step in spy.epochs[0]])[::2]
    assert len(counted) == 3
    assert spy.metrics[0]["grad/epoch_mean"] == pytest.approx(np.linalg.norm(counted, axis=1).mean(), rel=1e-5)
    snr = 3 * counted.mean(0) @ counted.mean(0) / counted.var(0, ddof=1).sum()
    assert spy.metrics[0]["grad/snr"] == pytest.approx(snr, rel=1e-4)


def test_statistics_are_of_the_gradient_before_clipping_and_after_accumulation(tmp_path):
    _, clipped = fit(GradientStatistics(), tmp_path, epochs=1, gradient_clip_val=1e-4, accumulate_grad_batches=2)
    gradients = np.stack([flat(step) for step in clipped.epochs[0]])
    assert len(gradients) == 3  # 2 + 2 + 1 batches
    assert clipped.metrics[0]["grad/epoch_mean"] == pytest.approx(np.linalg.norm(gradients, axis=1).mean(), rel=1e-5)
    assert clipped.metrics[0]["grad/epoch_mean"] > 1e-2
    mean, trace = gradients.mean(0), gradients.var(0, ddof=1).sum()
    expected = 40 / 3 * trace / (mean @ mean - trace / 3)
    assert clipped.metrics[0]["grad/noise_scale"] == pytest.approx(expected, rel=1e-3)


def test_one_step_an_epoch_leaves_noise_statistics_undefined(tmp_path):
    _, spy = fit(GradientStatistics(), tmp_path, samples=BATCH)
    for metrics in spy.metrics:
        assert {n for n, v in metrics.items() if math.isnan(v)} >= {"grad/snr", "grad/evidence", "grad/stability"}
        assert metrics["grad/epoch_mean"] > 0
        assert metrics["grad/finite"] == 1.0
    assert spy.metrics[1]["grad/cosine"] > 0


def test_a_gradient_that_is_not_finite_shows_in_the_epoch_values(tmp_path):
    _, spy = fit(GradientStatistics(), tmp_path, epochs=1, model=Regression(poison=2))
    assert spy.metrics[0]["grad/finite"] == 0.0
    assert not math.isfinite(spy.metrics[0]["grad/norm_max"])
    assert not math.isfinite(spy.metrics[0]["grad/epoch_mean"])


def test_a_dead_network_has_norm_zero(tmp_path):
    model = Regression()
    nn.init.zeros_(model.body[1].weight)
    model.body[1].weight.requires_grad_(False)
    model.body[1].bias.requires_grad_(False)
    _, spy = fit(GradientStatistics(), tmp_path, epochs=1, model=model)
    assert spy.metrics[0]["grad/epoch_mean"] == 0.0
    assert spy.metrics[0]["grad/norm_max"] == 0.0
    assert spy.metrics[0]["grad/finite"] == 1.0


@pytest.mark.parametrize(("network", "steps"), [(True, True), (True, False), (False, True)])
def test_metric_names_are_those_that_are_logged(tmp_path, network, steps):
    callback = GradientStatistics(across_network=network, across_steps=steps)
    trainer, _ = fit(callback, tmp_path, epochs=1)
    assert set(callback.metric_names()) == set(trainer.callback_metrics)


def test_loggers_get_steps_and_layers(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    _, spy = fit(GradientStatistics(log_every_n_steps=2), tmp_path, epochs=1, logger=logger)
    with open(tmp_path / "metrics.csv", newline="") as file:
        cells = [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]
    rows = [row for row in cells if row]
    steps = {row["step"]: row["grad/norm_mean/body.1"] for row in rows if "grad/norm_mean/body.1" in row}
    assert sorted(steps) == [0, 2, 4]
    for step, value in steps.items():
        seen = [np.linalg.norm(g) for name, g in spy.epochs[0][int(step)].items() if name.startswith("body.1.")]
        assert value == pytest.approx(np.mean(seen), rel=1e-5)
    names = {name for row in rows for name in row}
    assert {"grad/snr", "grad/snr/first", "grad/evidence/body.1", "grad/norm_max", "grad/stability/unused"} <= names
    layer = np.stack([np.concatenate([s["first.weight"].ravel(), s["first.bias"]]) for s in spy.epochs[0]])
    snr = len(layer) * layer.mean(0) @ layer.mean(0) / layer.var(0, ddof=1).sum()
    logged = next(row["grad/snr/first"] for row in rows if "grad/snr/first" in row)
    assert logged == pytest.approx(snr, rel=1e-4)


def test_histograms_only_at_the_recorded_steps(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    seen = []
    logger.experiment.add_histogram = lambda tag, values, step: seen.append((step, tag, len(values)))
    fit(GradientStatistics(log_every_n_steps=3, histograms=True), tmp_path, epochs=1, logger=logger)
    layers = [("grad/first", 36), ("grad/body.1", 7), ("grad/unused", 6)]
    assert seen == [(step, *layer) for step in (0, 3) for layer in layers]


def test_cosine_survives_a_checkpoint(tmp_path):
    whole, _ = fit(GradientStatistics(), tmp_path, epochs=3)
    half, _ = fit(GradientStatistics(), tmp_path, epochs=2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    stored = torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]["GradientStatistics"]
    assert stored["previous"].keys() == dict(Regression().named_parameters()).keys()
    resumed, _ = fit(GradientStatistics(), tmp_path, epochs=3, ckpt_path=tmp_path / "half.ckpt")
    value = float(whole.callback_metrics["grad/cosine"])
    assert -1 <= value <= 1
    assert float(resumed.callback_metrics["grad/cosine"]) == value


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every_k_steps": 0}, "every_k_steps is 0, expected 1 or more"),
        ({"log_every_n_steps": -1}, "log_every_n_steps is -1"),
        ({"across_network": False, "across_steps": False}, "both off"),
    ],
)
def test_refuses_options_that_make_no_sense(options, words):
    with pytest.raises(ConfigError, match=words):
        GradientStatistics(**options)


def test_histograms_without_tensorboard_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a TensorBoard logger"):
        fit(GradientStatistics(histograms=True), tmp_path, epochs=1)
