"""Warm-up and cosine decay against the formula, and what no schedule may do."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhtx.errors import ConfigError
from lhtx.schedules import warmup_cosine


def rates(total: int, steps: int, peak: float = 0.5, **options) -> list[float]:
    """The learning rate of each of `steps` optimizer steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler, seen = warmup_cosine(optimizer, total, **options), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_rate_follows_the_formula():
    rising, falling = np.arange(1, 11) / 11, np.arange(30) / 30
    expected = 0.5 * np.concatenate([rising, 0.1 + 0.9 * (1 + np.cos(np.pi * falling)) / 2, [0.1, 0.1]])
    np.testing.assert_allclose(rates(40, 42, warmup=0.25, final=0.1), expected, rtol=1e-12)


def test_without_warm_up_it_is_torchs_cosine():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20), []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates(20, 20, warmup=0.0), expected, rtol=1e-9)


@given(st.integers(1, 60), st.floats(0, 0.99), st.floats(0, 1))
def test_it_rises_to_the_peak_and_falls_to_the_final_rate(total, warmup, final):
    seen = rates(total, total + 2, peak=1.0, warmup=warmup, final=final)
    top = seen.index(max(seen))
    assert seen[top] == 1.0
    assert seen[: top + 1] == sorted(seen[: top + 1])
    assert seen[top:] == sorted(seen[top:], reverse=True)
    assert seen[-1] == pytest.approx(final)
    assert min(seen) >= min(final, seen[0]) - 1e-12
    assert seen[0] > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total_steps": 0}, "total_steps is 0; expected 1 or more"),
        ({"total_steps": 9, "warmup": 1.0}, "warmup is 1.0; expected a share"),
        ({"total_steps": 9, "final": -0.1}, "final is -0.1; expected a share"),
    ],
)
def test_senseless_options_are_refused(options, words):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    with pytest.raises(ConfigError, match=words):
        warmup_cosine(optimizer, **options)
