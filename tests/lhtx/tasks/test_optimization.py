"""Which parameters decay, and schedules that step after every epoch or every optimizer step, resumed ones too."""

from functools import partial

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from lhtx.compose import build_task, compose, configure
from lhtx.data.batches import Batches, BatchOrder, batch_loader
from lhtx.errors import ConfigError
from lhtx.nets import SimpleMLP
from lhtx.schedules import warmup_cosine
from lhtx.tasks import MultiheadTask
from lhtx.tasks.optimization import build_optimizer


class Rates(Callback):
    """Keeps the learning rate of every optimizer step, and stops the run after an epoch if told so."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.rates, self.stop_after = [], stop_after

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.should_stop or trainer.current_epoch + 1 == self.stop_after


@pytest.fixture
def fit(heads, samples, trainer):
    """fit(epochs, callbacks=(), ckpt_path=None, trainer options, **task options): 5 batches an epoch; task and rates."""
    data = Batches(samples(80, heads))
    train, val = (batch_loader(data, BatchOrder(torch.arange(80), 16, seed)) for seed in (0, None))

    def run(epochs=3, callbacks=(), stop_after=None, ckpt_path=None, options=None, **task_options):
        seed_everything(3, verbose=False)
        rates = Rates(stop_after)
        net = SimpleMLP(64, 16, 16, 16, heads={name: head["classes"] for name, head in heads.items()}, dropout=0.0)
        task = MultiheadTask(net, heads, optimizer=partial(torch.optim.SGD, lr=0.1), **task_options)
        fitted = trainer(max_epochs=epochs, callbacks=[rates, *callbacks], **(options or {}))
        fitted.fit(task, train, val, ckpt_path=ckpt_path, weights_only=True)
        return task, rates.rates

    return run


def expected(schedule, steps, repeat=1):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler, rates = schedule(optimizer), []
    for _ in range(steps):
        rates += repeat * [optimizer.param_groups[0]["lr"]]
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", [partial(warmup_cosine, warmup=0.2), partial(OneCycleLR, max_lr=0.3)])
def test_a_step_schedule_spans_the_run_and_steps_with_the_optimizer(fit, schedule):
    _, rates = fit(scheduler=schedule, scheduler_interval="step")
    assert rates == expected(partial(schedule, total_steps=15), 15)
    _, rates = fit(scheduler=schedule, scheduler_interval="step", options={"accumulate_grad_batches": 2})
    assert rates == expected(partial(schedule, total_steps=9), 9)
    _, rates = fit(scheduler=schedule, scheduler_interval="step", options={"max_steps": 7})
    assert rates == expected(partial(schedule, total_steps=7), 7)


def test_an_epoch_schedule_spans_the_epochs(fit):
    _, rates = fit(scheduler=partial(warmup_cosine, warmup=0.4))
    assert rates == expected(partial(warmup_cosine, total_steps=3, warmup=0.4), 3, repeat=5)


def test_a_length_that_is_given_wins(fit):
    for given in ({"total_steps": 100}, {"epochs": 10, "steps_per_epoch": 10}):
        _, rates = fit(epochs=1, scheduler=partial(OneCycleLR, max_lr=0.3, **given), scheduler_interval="step")
        assert rates == expected(partial(OneCycleLR, max_lr=0.3, total_steps=100), 5)


@pytest.mark.parametrize("schedule", [partial(warmup_cosine, warmup=0.5), partial(OneCycleLR, max_lr=0.3)])
def test_a_run_resumed_with_a_step_schedule_equals_the_uninterrupted_one(fit, tmp_path, schedule):
    options = {"scheduler": schedule, "scheduler_interval": "step"}
    whole, rates = fit(4, **options)
    last = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    _, first = fit(4, [last], stop_after=2, **options)
    resumed, rest = fit(4, ckpt_path=str(tmp_path / "last.ckpt"), **options)
    assert len(first) == len(rest) == 10
    assert first + rest == rates
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_run_without_an_end_needs_the_length_in_the_config(fit):
    with pytest.raises(ConfigError, match="max_epochs=-1, max_steps=-1 does not say how many epochs there will be; give the"):
        fit(-1, scheduler=warmup_cosine)
    with pytest.raises(ConfigError, match="does not say how many steps there will be"):
        fit(-1, scheduler=warmup_cosine, scheduler_interval="step")


def test_plateaus_and_unknown_intervals_are_refused(fit, heads):
    with pytest.raises(ConfigError, match="ReduceLROnPlateau follows val/loss, which is there once an epoch; set scheduler_in"):
        fit(scheduler=ReduceLROnPlateau, scheduler_interval="step")
    with pytest.raises(ConfigError, match=r"scheduler_interval is 'batch'\. Accepted: epoch, step"):
        fit(scheduler=StepLR, scheduler_interval="batch")


class Mixed(nn.Module):
    """One parameter of each sort."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.readout = nn.Conv2d(1, 4, 1), nn.LayerNorm(4), nn.Linear(4, 1)
        self.token, self.positions = nn.Parameter(torch.ones(1, 1, 4)), nn.Parameter(torch.ones(1, 3, 4))


def test_vectors_are_left_out_of_weight_decay():
    module = Mixed()
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    factory = partial(torch.optim.AdamW, weight_decay=0.3)
    groups = build_optimizer(factory, module, decay_vectors=False).param_groups
    found = {group["name"]: (group["weight_decay"], sorted(names[id(p)] for p in group["params"])) for group in groups}
    assert found == {
        "matrices": (0.3, ["conv.weight", "positions", "readout.weight"]),
        "vectors": (0.0, ["conv.bias", "norm.bias", "norm.weight", "readout.bias", "token"]),
    }
    (everything,) = build_optimizer(factory, module, decay_vectors=True).param_groups
    assert [names[id(p)] for p in everything["params"]] == list(names.values())


def test_leaving_vectors_out_needs_an_optimizer_with_weight_decay():
    with pytest.raises(ConfigError, match="decay_vectors is false and Rprop has no weight decay to leave them out of"):
        build_optimizer(torch.optim.Rprop, Mixed(), decay_vectors=False)


def test_a_config_names_losses_schedules_and_what_decays(vimh_dataset):
    options = (
        "+model.loss.class_weights={note_number: [1, 2, 2, 1]}",
        "+model.loss.label_smoothing=0.1",
        "model.scheduler={_target_: lhtx.schedules.warmup_cosine, _partial_: true, warmup: 0.25}",
        "model.scheduler_interval=step",
        "model.decay_vectors=false",
    )
    task = build_task(configure(compose([f"data.data_dir={vimh_dataset}", "data.generate=null", *options])))
    losses = [objective.loss for objective in task.objectives]
    assert losses[0].class_weights.tolist() == [1, 2, 2, 1]
    assert losses[1].class_weights is None
    assert {loss.label_smoothing for loss in losses} == {0.1}
    configured = task.configure_optimizers()
    assert configured["lr_scheduler"]["interval"] == "step"
    assert [group["name"] for group in configured["optimizer"].param_groups] == ["matrices", "vectors"]
    for override, words in (
        ("+model.loss.class_weights=[1, 2]", "class_weights has 2 numbers and the head has 4 classes"),
        (
            "model.scheduler={_target_: lhtx.schedules.warmup_cosine, _partial_: true, warmup: 2}",
            "warmup is 2; expected a share",
        ),
        ("model.scheduler_interval=batch", "scheduler_interval is 'batch'"),
    ):
        with pytest.raises(ConfigError, match=words):
            build_task(configure(compose([f"data.data_dir={vimh_dataset}", "data.generate=null", override])))
