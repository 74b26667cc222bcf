"""The task on a head of named classes, as of digits: one head, trained in every way that a config offers."""

from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything

from lhtx.losses import CrossEntropy, DirectRegression, NormalizedRegression, Ordinal, QuantizedRegression
from lhtx.nets import SimpleCNN
from lhtx.tasks import MultiheadTask

DIGIT = {"digit": {"classes": 10, "minimum": 0.0, "maximum": 9.0, "step": 1.0}}


@pytest.fixture
def fit(samples, loader, trainer):
    """fit(head_kind, trainer options, **task options): an epoch of 8 batches on 8×8 images; the task and its metrics."""

    def run(kind="classification", options=None, **task_options):
        seed_everything(0, verbose=False)
        net = SimpleCNN(1, 4, 8, 16, input_size=8, heads={"digit": 10}, head_kind=kind)
        task = MultiheadTask(net, DIGIT, optimizer=partial(torch.optim.AdamW, lr=1e-2), **task_options)
        fitted = trainer(**(options or {}))
        fitted.fit(task, loader(samples(128, DIGIT), shuffle=True), loader(samples(50, DIGIT, seed=1)))
        assert all(torch.isfinite(value) for value in fitted.callback_metrics.values())
        return task, {name: float(value) for name, value in fitted.callback_metrics.items()}

    return run


def test_one_head_has_its_accuracy_by_both_names(fit):
    _, metrics = fit()
    accuracies = {"val/acc", "val/digit_acc", "val/avg_acc", "val/acc_best"}
    assert {metrics[name] for name in accuracies} == {metrics["val/acc"]}
    assert set(metrics) == {"train/loss", "train/acc", "train/digit_acc", "train/avg_acc", "val/loss", *accuracies}


@pytest.mark.parametrize("loss", [NormalizedRegression, QuantizedRegression, DirectRegression])
def test_a_number_can_be_predicted_where_classes_are_nominal(fit, loss):
    _, metrics = fit("regression", loss=loss)
    assert metrics["val/mae"] == metrics["val/digit_mae"] == metrics["val/mae_best"]
    assert 0 < metrics["val/mae"] < 9
    assert 0 <= metrics["val/acc"] <= 1


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("loss", [partial(CrossEntropy, class_weights=range(1, 11), label_smoothing=0.1), Ordinal])
def test_mixed_precision_accumulation_and_memory_format_go_together(fit, loss, channels_last):
    options = {"precision": "bf16-mixed", "accumulate_grad_batches": 3}
    task, mixed = fit(options=options, loss=loss, channels_last=channels_last)
    assert {parameter.dtype for parameter in task.parameters()} == {torch.float32}
    _, single = fit(options={"accumulate_grad_batches": 3}, loss=loss, channels_last=channels_last)
    assert mixed["train/loss"] != single["train/loss"]
    assert mixed["train/loss"] == pytest.approx(single["train/loss"], rel=0.02)


def test_accumulated_batches_step_as_the_large_batch_that_they_make(samples, trainer):
    states = []
    for batches, accumulate in ((4, 4), (1, 1)):
        seed_everything(0, verbose=False)
        net = SimpleCNN(1, 4, 8, 16, input_size=8, heads={"digit": 10}, dropout=0.0)
        net.norm1, net.norm2 = torch.nn.Identity(), torch.nn.Identity()  # they would see the batches one by one
        task = MultiheadTask(net, DIGIT, optimizer=partial(torch.optim.SGD, lr=0.5))
        data = samples(64, DIGIT)
        parts = [{name: tensor[rows] for name, tensor in data.items()} for rows in torch.arange(64).split(64 // batches)]
        trainer(accumulate_grad_batches=accumulate).fit(task, torch.utils.data.DataLoader(parts, batch_size=None))
        states.append(task.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, msg=name)


def test_only_training_keeps_a_graph(fit, samples, loader, trainer, monkeypatch):
    seen = {}
    step = MultiheadTask._step

    def watched(self, batch, metrics):
        seen[self.trainer.state.stage.value] = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        return step(self, batch, metrics)

    monkeypatch.setattr(MultiheadTask, "_step", watched)
    task, _ = fit()
    trainer().test(task, loader(samples(20, DIGIT)), verbose=False)
    # Lightning validates within a fit without inference mode, as tensors made in it could not be trained on afterwards.
    assert seen == {"train": (True, False), "validate": (False, False), "test": (False, True)}
