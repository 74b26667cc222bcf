"""An epoch's metrics are those of all its samples at once, however they were split into batches."""

import math

import numpy as np
import pytest
import torch

from lhtx.tasks.heads import parse_heads
from lhtx.tasks.metrics import SplitMetrics


@pytest.fixture
def parsed(heads):
    return parse_heads(heads)


def test_names_for_one_head_and_for_several(parsed):
    assert SplitMetrics(parsed, ["argmax", "argmax"]).names == ("loss", "note_acc", "decay_acc", "avg_acc")
    assert SplitMetrics(parsed, ["argmax", "expectation"]).names == (
        *("loss", "note_acc", "decay_acc", "decay_mae"),
        *("avg_acc", "avg_mae"),
    )
    assert SplitMetrics(parsed[:1], ["argmax"]).names == ("loss", "note_acc", "acc", "avg_acc")
    assert SplitMetrics(parsed[:1], ["expectation"]).names == (
        *("loss", "note_acc", "note_mae"),
        *("acc", "mae", "avg_acc", "avg_mae"),
    )


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_metrics_do_not_depend_on_how_samples_are_batched(parsed, batch_size):
    rng = np.random.default_rng(0)
    units = rng.random((100, 2))
    index = np.rint(units * [11, 255]).astype(int)
    guess = np.where(rng.random(100) < 0.4, index[:, 0], rng.integers(0, 12, 100))
    position = (units[:, 1] * 255 + rng.normal(0, 0.6, 100)).astype(np.float32)
    loss = rng.random(100)
    metrics = SplitMetrics(parsed, ["argmax", "expectation"])
    for start in range(0, 100, batch_size):
        rows = slice(start, start + batch_size)
        metrics.accumulate(
            torch.tensor(loss[rows].mean()),
            [torch.tensor(guess[rows]), torch.tensor(position[rows])],
            torch.tensor(index[rows]),
            torch.tensor(units[rows], dtype=torch.float32),
        )
    values = metrics.compute()
    note, decay = (guess == index[:, 0]).mean(), (np.rint(position).clip(0, 255) == index[:, 1]).mean()
    error = np.abs(position / 255 * 2.5 - units[:, 1] * 2.5).mean()
    assert tuple(values) == metrics.names
    assert values == pytest.approx(
        {
            "loss": loss.mean(),
            "note_acc": note,
            "decay_acc": decay,
            "decay_mae": error,
            "avg_acc": (note + decay) / 2,
            "avg_mae": error,
        },
        rel=1e-4,
    )
    assert 0.2 < note < 0.8
    assert 0.2 < decay < 0.8


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_loss_weighted_by_class_does_not_depend_on_the_batches(parsed, batch_size):
    rng = np.random.default_rng(1)
    plain, loss, weight = rng.random(100), rng.random(100), rng.choice([1.0, 20.0], 100)
    metrics, index = SplitMetrics(parsed, ["argmax", "argmax"], weighted=1), torch.zeros(100, 2).long()
    for start in range(0, 100, batch_size):
        rows = slice(start, start + batch_size)
        mean = torch.tensor((loss[rows] * weight[rows]).sum() / weight[rows].sum())
        weighted = [(mean, torch.tensor(weight[rows].sum()))]
        guess = index[rows, 0]
        metrics.accumulate(torch.tensor(plain[rows].mean()), [guess, guess], index[rows], index[rows].float(), weighted)
    expected = plain.mean() + (loss * weight).sum() / weight.sum()
    assert metrics.compute()["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics.compute() == {}


def test_an_epoch_forgets_the_one_before(parsed):
    metrics = SplitMetrics(parsed, ["argmax", "argmax"])
    right, wrong = torch.tensor([[3, 9]]), [torch.tensor([4]), torch.tensor([8])]
    metrics.accumulate(torch.tensor(5.0), wrong, right, right.float())
    assert metrics.compute() == {"loss": 5.0, "note_acc": 0.0, "decay_acc": 0.0, "avg_acc": 0.0}
    assert metrics.compute() == {}
    metrics.accumulate(torch.tensor(5.0), wrong, right, right.float())
    metrics.reset()
    metrics.accumulate(torch.tensor(1.0), [right[:, 0], right[:, 1]], right, right.float())
    assert metrics.compute() == {"loss": 1.0, "note_acc": 1.0, "decay_acc": 1.0, "avg_acc": 1.0}


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_reported_as_it_is(parsed, loss):
    metrics = SplitMetrics(parsed[1:], ["expectation"])
    for value in (1.0, loss):
        metrics.accumulate(torch.tensor(value), [torch.tensor([0.0, math.nan])], torch.tensor([[0], [0]]), torch.zeros(2, 1))
    values = metrics.compute()
    assert values["loss"] == pytest.approx(loss, nan_ok=True)
    assert values["decay_acc"] == 0.5  # a position that is no number is not the first class
    assert math.isnan(values["decay_mae"])


def test_steps_keep_no_graph(parsed):
    metrics = SplitMetrics(parsed, ["argmax", "expectation"])
    position = torch.rand(4, requires_grad=True)
    metrics.accumulate(position.sum(), [torch.zeros(4).long(), position], torch.zeros(4, 2).long(), torch.zeros(4, 2))
    assert not any(tensor.requires_grad for tensor in [metrics._loss_sum, *metrics._positions])
