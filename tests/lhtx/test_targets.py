"""Soft targets against their definition, written out in float64 NumPy, and the laws they keep."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhtx.errors import ConfigError
from lhtx.targets import SHAPES, gaussian_targets, log_triangular_targets, soft_targets, triangular_targets


def reference(index: list[int], classes: int, width: float, shape: str) -> np.ndarray:
    """The same by the formulas, one entry at a time."""
    rows = []
    for c in index:
        row = np.zeros(classes)
        for j in range(classes):
            d = abs(j - c)
            if shape == "gaussian":
                row[j] = float(d == 0) if width == 0 else np.exp(-(d**2) / (2 * width**2))
            elif d <= width:
                row[j] = width + 1 - d if shape == "triangular" else np.exp(-d)
        rows.append(row / row.sum())
    return np.array(rows)


shapes = st.sampled_from(sorted(SHAPES))
batches = st.integers(2, 40).flatmap(
    lambda classes: st.tuples(st.just(classes), st.lists(st.integers(0, classes - 1), min_size=1, max_size=6))
)


@given(shapes, batches, st.one_of(st.just(0.0), st.floats(0.05, 8)))
def test_shapes_follow_their_formulas(shape, batch, width):
    classes, index = batch
    targets = soft_targets(torch.tensor(index), classes, width, shape)
    assert targets.dtype == torch.float32
    np.testing.assert_allclose(targets.numpy(), reference(index, classes, width, shape), atol=2e-6)


@given(shapes, batches, st.floats(0, 1e6))
def test_every_row_is_a_distribution_that_peaks_at_the_class(shape, batch, width):
    classes, index = batch
    targets = soft_targets(torch.tensor(index), classes, width, shape)
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(len(index)))
    peak = targets.gather(1, torch.tensor(index)[:, None])[:, 0]
    assert torch.equal(peak, targets.amax(dim=1))


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("width", [0.0, 5e-324])
def test_width_zero_is_one_hot(shape, width):
    index = torch.tensor([0, 2, 4])
    assert torch.equal(soft_targets(index, 5, width, shape), torch.eye(5)[index])


def test_gaussian_support_cuts_the_tails():
    p = np.exp(-(np.arange(3) ** 2) / 2)
    targets = gaussian_targets(torch.tensor([0, 3]), 5, 1.0, support=2).numpy()
    np.testing.assert_allclose(targets[0], np.append(p, [0, 0]) / p.sum(), atol=1e-7)
    np.testing.assert_allclose(targets[1], np.array([0, p[2], p[1], p[0], p[1]]) / (p.sum() + p[1]), atol=1e-7)


def test_wider_is_flatter():
    rows = [gaussian_targets(torch.tensor([7]), 16, width)[0] for width in (0.0, 0.5, 1.0, 2.0, 4.0)]
    entropies = [float(torch.special.entr(row).sum()) for row in rows]
    assert entropies == sorted(entropies)
    assert entropies[0] == 0


@pytest.mark.parametrize("function", [gaussian_targets, triangular_targets, log_triangular_targets])
@pytest.mark.parametrize("width", [-0.5, float("nan"), float("inf")])
def test_a_senseless_width_is_refused(function, width):
    with pytest.raises(ConfigError, match=r"target width is .*; expected a finite number"):
        function(torch.tensor([1]), 3, width)


def test_an_unknown_shape_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown target shape 'square'\. Accepted: gaussian, triangular, log_triangular"):
        soft_targets(torch.tensor([1]), 3, 1.0, "square")
