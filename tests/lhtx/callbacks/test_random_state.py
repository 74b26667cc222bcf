"""RandomState: what an epoch draws depends on the seed and the epoch alone."""

import random

import numpy as np
import pytest
import torch

from lhtx.callbacks import RandomState


class FakeTrainer:
    def __init__(self, epoch: int, rank: int = 0) -> None:
        self.current_epoch, self.global_rank = epoch, rank


def draws(callback: RandomState, epoch: int, rank: int = 0) -> tuple[float, ...]:
    callback.on_train_epoch_start(FakeTrainer(epoch, rank), None)
    before = (random.random(), float(np.random.rand()), float(torch.rand(())))
    callback.on_train_batch_start(FakeTrainer(epoch, rank), None, None, 0)
    return (*before, random.random(), float(np.random.rand()), float(torch.rand(())))


def test_an_epoch_draws_the_same_whatever_was_drawn_before():
    first = draws(RandomState(3), epoch=4)
    torch.rand(17), random.random(), np.random.rand(5)
    assert draws(RandomState(3), epoch=4) == first
    assert len(set(first)) == 6


@pytest.mark.parametrize(("seed", "epoch", "rank"), [(3, 5, 0), (4, 4, 0), (3, 4, 1)])
def test_seed_epoch_and_process_each_change_every_draw(seed, epoch, rank):
    pairs = zip(draws(RandomState(3), 4), draws(RandomState(seed), epoch, rank), strict=True)
    assert all(a != b for a, b in pairs)


def test_later_batches_are_left_alone():
    callback = RandomState(3)
    callback.on_train_batch_start(FakeTrainer(0), None, None, 0)
    first = torch.rand(())
    callback.on_train_batch_start(FakeTrainer(0), None, None, 1)
    assert torch.rand(()) != first


def test_the_seed_of_a_checkpoint_wins():
    callback = RandomState(1)
    callback.load_state_dict(RandomState(9).state_dict())
    assert draws(callback, 0) == draws(RandomState(9), 0)
