"""A run that goes on from a checkpoint with its own hyperparameters: pure laws, then real runs."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lhtx.checkpoints import load_checkpoint
from lhtx.compose import compose
from lhtx.errors import CheckpointError, ConfigError
from lhtx.restoring import as_start, check_optimizer, hyperparameters, use_own, use_own_schedule
from lhtx.schedules import warmup_cosine
from lhtx.tasks.optimization import remember_base
from lhtx.train import train


def sequential(optimizer):
    return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=3), CosineAnnealingLR(optimizer, 9)], [3])


SCHEDULES = {
    "step": partial(StepLR, step_size=2, gamma=0.5),
    "milestones": partial(MultiStepLR, milestones=[2, 5], gamma=0.3),
    "exponential": partial(ExponentialLR, gamma=0.9),
    "cosine": partial(CosineAnnealingLR, T_max=12),
    "restarts": partial(CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
    "warmup_cosine": partial(warmup_cosine, total_steps=12, warmup=0.2),
    "lambda": partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "constant": partial(ConstantLR, factor=0.5, total_iters=4),
    "sequential": sequential,
    "plateau": partial(ReduceLROnPlateau, patience=1, factor=0.5),
}


def build(lr: float, schedule=None, **options):
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))]
    groups = [{"params": weights[:1]}, {"params": weights[1:], "lr": 2 * lr, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, **options)
    scheduler = schedule(optimizer) if schedule else None
    remember_base(optimizer)
    return optimizer, scheduler


def run(optimizer, scheduler, steps: int) -> list[float]:
    """Some steps; the learning rate of the first group before each of them."""
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.full_like(weight, 0.1 * (step + 1))
        optimizer.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(1.0)
        elif scheduler:
            scheduler.step()
    return rates


def restored(own, donor) -> None:
    """Put the state of the `donor`'s optimizer and schedule into `own`, which then use their own hyperparameters."""
    optimizer, scheduler = own
    mine, state = hyperparameters(optimizer), copy.deepcopy(scheduler.state_dict()) if scheduler else None
    check_optimizer(donor[0].state_dict(), optimizer)
    optimizer.load_state_dict(copy.deepcopy(donor[0].state_dict()))
    if scheduler:
        scheduler.load_state_dict(copy.deepcopy(donor[1].state_dict()))
    use_own(optimizer, mine)
    if scheduler:
        use_own_schedule(scheduler, state)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_another_base_is_scheduled_as_if_it_had_been_there_from_the_beginning(schedule) -> None:
    donor, straight, own = build(0.1, schedule), build(0.03, schedule), build(0.03, schedule)
    run(*donor, 5)
    expected = run(*straight, 11)[5:]
    restored(own, donor)
    assert own[0].param_groups[1]["lr"] == pytest.approx(2 * own[0].param_groups[0]["lr"])
    assert run(*own, 6) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", [None, *SCHEDULES.values()], ids=["none", *SCHEDULES])
def test_the_same_hyperparameters_change_nothing_to_the_bit(schedule) -> None:
    donor, own = build(0.07, schedule), build(0.07, schedule)
    run(*donor, 5)
    restored(own, donor)
    for group, other in zip(own[0].param_groups, donor[0].param_groups, strict=True):
        assert {**group, "params": 0} == {**other, "params": 0}
    assert run(*own, 6) == run(*donor, 6)


def test_every_hyperparameter_is_the_configs_and_the_moments_are_the_checkpoints() -> None:
    donor, own = build(0.1, weight_decay=0.1, betas=(0.9, 0.99)), build(0.4, weight_decay=0.2, betas=(0.8, 0.95))
    run(*donor, 3)
    restored(own, donor)
    first, second = own[0].param_groups
    assert (first["lr"], first["weight_decay"], first["betas"]) == (0.4, 0.2, (0.8, 0.95))
    assert (second["lr"], second["weight_decay"]) == (0.8, 0.0)
    for index, state in own[0].state_dict()["state"].items():
        theirs = donor[0].state_dict()["state"][index]
        assert state["step"] == theirs["step"] == 3
        assert torch.equal(state["exp_avg"], theirs["exp_avg"])
        assert torch.equal(state["exp_avg_sq"], theirs["exp_avg_sq"])


def test_the_schedules_own_arguments_are_used() -> None:
    donor, own = build(0.1, partial(StepLR, step_size=2, gamma=0.5)), build(0.1, partial(StepLR, step_size=3, gamma=0.1))
    run(*donor, 4)  # stands at 0.025 after two of its drops
    restored(own, donor)
    assert run(*own, 4) == pytest.approx([0.025, 0.025, 0.0025, 0.0025])
    plateau = partial(ReduceLROnPlateau, patience=5, factor=0.1)
    donor, own = build(0.1, SCHEDULES["plateau"]), build(0.1, plateau)
    run(*donor, 2)
    restored(own, donor)
    assert (own[1].patience, own[1].factor, own[1].num_bad_epochs) == (5, 0.1, 1)


def test_a_one_cycle_keeps_its_momentum_and_its_share_of_the_steps() -> None:
    donor = build(0.1, partial(OneCycleLR, max_lr=0.1, total_steps=20))
    own = build(0.1, partial(OneCycleLR, max_lr=0.2, total_steps=40))
    run(*donor, 10)
    mine, state = hyperparameters(own[0]), copy.deepcopy(own[1].state_dict())
    momentum = donor[0].param_groups[0]["betas"]
    own[0].load_state_dict(copy.deepcopy(donor[0].state_dict()))
    own[1].load_state_dict(copy.deepcopy(donor[1].state_dict()))
    use_own(own[0], mine)
    use_own_schedule(own[1], state, epochs=5, of=10)  # with half the batch: 4 steps an epoch instead of 2
    assert own[1].last_epoch == 20
    assert own[0].param_groups[0]["betas"] == momentum
    assert own[0].param_groups[0]["lr"] == pytest.approx(2 * donor[0].param_groups[0]["lr"])
    run(*own, 19)  # one step more than the donor's schedule had left, and none too many for its own


def test_an_optimizer_of_another_kind_is_refused() -> None:
    optimizer, _ = build(0.1)
    weights = [group["params"] for group in optimizer.param_groups]
    sgd = torch.optim.SGD([{"params": part} for part in weights], lr=0.1)
    remember_base(sgd)
    with pytest.raises(
        CheckpointError, match=r"betas, .*, and the config's SGD has .*momentum.*: it must be the same optimizer"
    ):
        check_optimizer(optimizer.state_dict(), sgd)
    with pytest.raises(CheckpointError, match=r"groups of \[1, 1\] tensors, and the config's AdamW has \[2\]"):
        check_optimizer(optimizer.state_dict(), torch.optim.AdamW(weights[0] + weights[1]))
    old = optimizer.state_dict()
    del old["param_groups"][1]["initial_lr"]
    with pytest.raises(CheckpointError, match="does not say its initial_lr"):
        check_optimizer(old, optimizer)


def test_a_start_holds_nothing_of_what_was_best() -> None:
    written = {"state_dict": {}, "best_metrics": {"acc_best": 0.9}, "callbacks": {"ModelCheckpoint{'a': 1}": {}, "Other": {}}}
    assert as_start(written) == {"state_dict": {}, "best_metrics": {"acc_best": -float("inf")}, "callbacks": {"Other": {}}}


# Real runs


def run_of(directory: Path, quiet, *more: str) -> list[str]:
    return quiet(directory.name, "trainer.max_epochs=4", "test=false", *more)


@pytest.fixture
def half(quiet, tmp_path) -> Path:
    """The last checkpoint of a run that was stopped after two of its four epochs, its schedule stepped after every batch."""
    from lightning.pytorch.callbacks import Callback

    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    train(compose(run_of(tmp_path / "half", quiet, *SCHEDULED, "data.batch_size=32")), callbacks=[Stop()])
    return tmp_path / "half" / "checkpoints" / "last.ckpt"


SCHEDULED = (
    "model.scheduler={_target_:lhtx.schedules.warmup_cosine,_partial_:true}",
    "model.scheduler_interval=step",
)


def goes_on(half: Path, quiet, tmp_path, *more: str) -> list[dict]:
    """Go on; the optimizer's first group before the first step, and the last checkpoint's."""
    from lightning.pytorch.callbacks import Callback

    seen: list[dict] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            group = {name: value for name, value in trainer.optimizers[0].param_groups[0].items() if name != "params"}
            schedule = trainer.lr_scheduler_configs[0].scheduler
            seen.append({**group, "epoch": trainer.current_epoch, "at": schedule.last_epoch, "of": schedule.total_steps})

    train(compose(run_of(tmp_path / "on", quiet, f"ckpt_path={half}", *SCHEDULED, *more)), callbacks=[Look()])
    return seen


def test_a_run_trains_on_with_its_own_rate_decay_and_batch_size(half, quiet, tmp_path) -> None:
    there = load_checkpoint(half)
    group, steps = there["optimizer_states"][0]["param_groups"][0], there["global_step"]
    own = ("data.batch_size=16", f"model.optimizer.lr={3 * group['initial_lr']}", "model.optimizer.weight_decay=0.125")
    kept = goes_on(half, quiet, tmp_path, *own[1:], "data.batch_size=32")
    assert kept[0]["lr"] == group["lr"], "by default the checkpoint's hyperparameters hold"
    assert kept[0]["weight_decay"] == group["weight_decay"]
    seen = goes_on(half, quiet, tmp_path, *own, "restore.hyperparameters=config")
    first = seen[0]
    assert first["lr"] == pytest.approx(3 * group["lr"])
    assert first["weight_decay"] == 0.125
    a_batch = len(kept) // 2
    assert (kept[0]["epoch"], len(kept), steps) == (2, 2 * a_batch, 2 * a_batch)
    assert len(seen) in (4 * a_batch, 4 * a_batch - 2), "two epochs in batches of half the size"
    assert (first["at"], first["of"]) == (len(seen), 2 * len(seen)), "half of the schedule is done"
    assert seen[-1]["lr"] < 0.05 * first["initial_lr"], "it ends with the run"


def test_the_seed_of_what_is_drawn_is_the_configs(half, quiet, tmp_path) -> None:
    goes_on(half, quiet, tmp_path, "data.batch_size=32", "seed=7", "restore.hyperparameters=config")
    assert load_checkpoint(tmp_path / "on" / "checkpoints" / "last.ckpt")["callbacks"]["RandomState"] == {"seed": 7}


def test_another_optimizer_is_refused_before_it_trains(half, quiet, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="must be the same optimizer"):
        goes_on(
            half,
            quiet,
            tmp_path,
            "model.optimizer._target_=torch.optim.Adamax",
            "~model.optimizer.fused",
            "restore.hyperparameters=config",
        )


def test_hyperparameters_come_from_one_of_two_places() -> None:
    with pytest.raises(ConfigError, match=r"restore\.hyperparameters is 'mine'; expected checkpoint or config"):
        compose(["restore.hyperparameters=mine"])
