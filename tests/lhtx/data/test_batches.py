"""Whole batches by index: the same from memory and from disk, each sample once, in an order that seed and epoch decide."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhtx.data.batches import Batches, BatchOrder, StreamedImages, batch_loader
from lhtx.errors import ConfigError


@given(st.integers(1, 200), st.integers(1, 40), st.one_of(st.none(), st.integers(0, 99)))
def test_an_epoch_has_every_sample_once(samples: int, batch_size: int, seed: int | None) -> None:
    chosen = torch.arange(samples) * 3
    order = BatchOrder(chosen, batch_size, seed)
    batches = list(order)
    assert len(batches) == len(order)
    assert sorted(torch.cat(batches).tolist()) == chosen.tolist()
    assert max(len(batch) for batch in batches) <= batch_size + 1
    if seed is None:
        assert torch.equal(torch.cat(batches), chosen)
        assert len(batches) == -(-samples // batch_size)
    elif samples > 1 < batch_size:
        assert min(len(batch) for batch in batches) > 1  # batch normalisation can train on every one


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        order = BatchOrder(torch.arange(50), 8, seed)
        list(order)  # what was drawn before does not matter
        order.set_epoch(number)
        return torch.cat(list(order)).tolist()

    assert epoch(1, 3) == epoch(1, 3)
    assert len({tuple(epoch(seed, number)) for seed in (1, 2) for number in (0, 1, 2)}) == 6


processes = st.integers(1, 5).flatmap(lambda world: st.tuples(st.just(world), st.integers(world, 120)))


@given(processes, st.integers(1, 20))
def test_processes_measure_every_sample_once_in_the_same_number_of_batches(split: tuple[int, int], batch_size: int) -> None:
    world, samples = split
    chosen = torch.arange(samples) * 3
    parts = [list(BatchOrder(chosen, batch_size, rank=rank, world_size=world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(parts[0])}
    assert torch.equal(torch.cat([batch for part in parts for batch in part]), chosen)
    sizes = [len(batch) for part in parts for batch in part]
    assert 1 <= min(sizes) <= max(sizes) <= batch_size + 1


@given(processes, st.integers(1, 20), st.integers(0, 5))
def test_processes_train_together_on_the_batches_of_one(split: tuple[int, int], batch_size: int, epoch: int) -> None:
    world, samples = split
    orders = [BatchOrder(torch.arange(samples), batch_size, 7, rank, world) for rank in range(world)]
    for order in orders:
        order.set_epoch(epoch)
    steps = list(zip(*orders, strict=True))
    assert {len(order) for order in orders} == {len(steps)}
    assert all(len({len(batch) for batch in step}) == 1 for step in steps)
    trained = torch.cat([batch for step in steps for batch in step]).tolist()
    assert len(set(trained)) == len(trained) == samples // world * world
    one = BatchOrder(torch.arange(samples), world * batch_size, 7)
    one.set_epoch(epoch)
    for step, together in list(zip(steps, one, strict=False))[:-1]:
        assert sorted(torch.cat(step).tolist()) == sorted(together.tolist())


def test_what_is_left_out_changes_from_epoch_to_epoch() -> None:
    orders, missed = [BatchOrder(torch.arange(11), 2, 0, rank, 3) for rank in range(3)], []
    for epoch in range(5):
        for order in orders:
            order.set_epoch(epoch)
        missed.append(frozenset(range(11)) - set(torch.cat([batch for order in orders for batch in order]).tolist()))
    assert {len(left) for left in missed} == {2}
    assert len(set(missed)) > 2


def test_fewer_samples_than_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="a split of 3 samples is too small for 4 processes"):
        BatchOrder(torch.arange(3), 8, world_size=4)


def _sources() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 3, 2, 4), dtype=np.uint8) for count in (5, 0, 4)]


@pytest.mark.parametrize("channels", [[0, 1, 2], [2], [0, 2]])
def test_streamed_images_are_those_in_memory(channels: list[int]) -> None:
    sources = _sources()
    streamed = StreamedImages(sources, channels)
    expected = torch.from_numpy(np.concatenate(sources)[:, channels])
    assert torch.equal(streamed.load(), expected)
    for index in ([8, 0, 4, 5, 3, 3], [7], [], list(range(9))):
        assert torch.equal(streamed[torch.tensor(index, dtype=torch.int64)], expected[index])


def test_loading_in_pieces_loses_nothing() -> None:
    source = np.random.default_rng(0).integers(0, 256, (2500, 2, 1, 1), dtype=np.uint8)
    assert (StreamedImages([source, source[:30]], [1]).load().numpy() == np.concatenate([source, source[:30]])[:, [1]]).all()


class _Counting(Batches):
    calls = 0

    def __getitem__(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        self.calls += 1
        return super().__getitem__(index)


def test_a_batch_is_one_call_and_takes_nothing_from_the_global_random_state() -> None:
    batches = _Counting({"image": torch.arange(20), "index": torch.arange(40).reshape(20, 2)})
    loader = batch_loader(batches, BatchOrder(torch.arange(20), 6, seed=0))
    before = torch.get_rng_state()
    first = list(loader)
    assert batches.calls == len(loader) == 4
    assert torch.equal(torch.get_rng_state(), before)
    for batch in first:
        assert torch.equal(batch["index"][:, 0], 2 * batch["image"])
