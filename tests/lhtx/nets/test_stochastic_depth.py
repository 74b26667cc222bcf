"""Stochastic depth drops whole branches of single images, as often as it says, and leaves the expectation as it is."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhtx.nets.stochastic_depth import StochasticDepth, linear_rates


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_branches_are_dropped_whole_and_as_often_as_p(p):
    torch.manual_seed(0)
    batch = 2.0 ** torch.randint(4, (20_000, 2, 1, 3))  # powers of 2, so that dividing by them is exact
    kept = StochasticDepth(p).train()(batch) / batch
    each = kept.flatten(1)
    assert torch.equal(each.amin(1), each.amax(1))  # all of an image or nothing of it
    torch.testing.assert_close(each[:, 0].unique(), torch.tensor([0, 1 / (1 - p)]))
    share = (each[:, 0] == 0).float().mean().item()
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / 20_000) ** 0.5)
    assert kept.mean().item() == pytest.approx(1, abs=4 * (p / (1 - p) / 20_000) ** 0.5)


def test_nothing_is_dropped_at_evaluation_or_at_zero():
    branch = torch.rand(4, 2, 3, 3)
    assert StochasticDepth(0.9).eval()(branch) is branch
    assert StochasticDepth(0.0).train()(branch) is branch


def test_a_dropped_branch_gets_no_gradient():
    torch.manual_seed(0)
    branch = torch.rand(50, 3, requires_grad=True)
    output = StochasticDepth(0.5).train()(branch)
    output.sum().backward()
    torch.testing.assert_close(branch.grad, (output != 0).float() * 2)


@given(st.floats(0, 0.99), st.integers(1, 60))
def test_rates_rise_linearly_from_zero_to_the_last(last, blocks):
    rates = linear_rates(last, blocks)
    assert len(rates) == blocks
    assert rates[0] == 0
    if blocks > 1:
        assert rates[-1] == pytest.approx(last)
        steps = [after - before for before, after in itertools.pairwise(rates)]
        assert steps == pytest.approx([last / (blocks - 1)] * (blocks - 1))
