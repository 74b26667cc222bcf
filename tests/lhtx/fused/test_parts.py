"""The parts of fused training by themselves: the noise of dropout, clipping, numbers of members, metrics."""

import pytest
import torch

from lhtx.fused.clipping import Clipping
from lhtx.fused.noise import CHUNK, Noise, drop
from lhtx.fused.per_member import NotTheSame, PerMember


def noise(*seeds: int) -> Noise:
    made = Noise(torch.device("cpu"))
    made.begin([[seed, 0] for seed in seeds])
    return made


def test_each_member_draws_its_own_numbers_whoever_draws_beside_it():
    three, one = noise(1, 2, 3), noise(2)
    for shape in ((4, 5), (CHUNK - 10,), (7,), (CHUNK + 1,), (3, 3)):
        numbers = three.draw(shape)
        assert torch.equal(numbers[1], one.draw(shape)[0])
        assert not torch.equal(numbers[0], numbers[1])
    skipping = noise(1, 2)
    assert torch.equal(skipping.draw((4, 5), [False, True])[0], torch.zeros(4, 5))
    assert torch.equal(skipping.draw((3,))[0], noise(1).draw((3,))[0])


def test_each_member_drops_at_its_own_rate():
    rates = torch.tensor([0.0, 0.25, 0.5])
    values = torch.ones(3, 100_000)
    kept = drop(values, noise(1, 2, 3).draw((100_000,)), rates[:, None])
    assert (kept != 0).float().mean(1) == pytest.approx((1 - rates).tolist(), abs=0.01)
    for row, rate in zip(kept, rates.tolist(), strict=True):
        assert row.max() == pytest.approx(1 / (1 - rate))
        assert torch.equal(row, (row > 0) * row.max())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_each_member_is_clipped_by_its_own_limit(algorithm):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((4, 5), (6,))]
    limits = [0.1, None, 100.0]
    expected = []
    for member, limit in enumerate(limits):
        parameters = [torch.nn.Parameter(each[member].clone()) for each in gradients]
        for parameter in parameters:
            parameter.grad = parameter.detach().clone()
        if limit is not None:
            clip = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}[algorithm]
            clip(parameters, limit)
        expected.append([parameter.grad for parameter in parameters])
    settings = [{"gradient_clip_val": limit, "gradient_clip_algorithm": algorithm} for limit in limits]
    Clipping(settings, torch.device("cpu"))(gradients)
    for member in range(3):
        for found, own in zip(gradients, expected[member], strict=True):
            assert torch.allclose(found[member], own, rtol=1e-14, atol=0)


def test_a_number_of_each_member_calculates_and_says_little_else():
    number = PerMember(torch.tensor([0.0, 2.0]), (0.0, 2.0))
    values = torch.tensor([1.0, 3.0])
    for found, expected in (
        (number * values, [0.0, 6.0]),
        (values * number, [0.0, 6.0]),
        (1 - number, [1.0, -1.0]),
        (number - 1, [-1.0, 1.0]),
        (number + values, [1.0, 5.0]),
        (values + number, [1.0, 5.0]),
        (number / 2, [0.0, 1.0]),
        (values / (number + 1), [1.0, 1.0]),
    ):
        assert found.tolist() == expected
    assert number
    assert number != 0
    assert not PerMember(torch.zeros(2), (0.0, 0.0))
    for ask in (float, lambda n: n > 1, lambda n: n == 2.0):
        with pytest.raises(NotTheSame):
            ask(number)
