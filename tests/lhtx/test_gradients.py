"""The gradient statistics against a plain float64 NumPy reference, and the laws they obey."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lhtx.gradients import (
    cosine,
    layers,
    network_statistics,
    noise_statistics,
    norm_statistics,
    scope_sums,
    tensor_norms,
)

SHAPES = [(4, 3, 3), (4,), (10, 7), (10,)]
SCOPES = {"network": [0, 1, 2, 3], "conv": [0, 1], "head": [2, 3]}


def sample(seed: int, steps: int, signal: float = 0.3, shapes=SHAPES) -> list[list[np.ndarray]]:
    """`steps` minibatch gradients: a fixed mean of size `signal` and unit noise, float32 values held in float64."""
    rng = np.random.default_rng(seed)
    mean = [signal * rng.standard_normal(shape) for shape in shapes]
    return [[(m + rng.standard_normal(m.shape)).astype(np.float32).astype(np.float64) for m in mean] for _ in range(steps)]


def reference(gradients: list[list[np.ndarray]], positions: list[int], batch_size: float) -> dict[str, float]:
    """Straight from the definitions, with the elementwise variance written out."""
    flat = np.stack([np.concatenate([step[p].ravel() for p in positions]) for step in gradients])
    steps = len(flat)
    mean, trace = flat.mean(0), flat.var(0, ddof=1).sum()
    norms = np.linalg.norm(flat, axis=1)
    signal = mean @ mean - trace / steps
    return {
        "snr": mean @ mean / (trace / steps),
        "evidence": 1 - steps * (mean @ mean) / trace,
        "noise_scale": batch_size * trace / signal if signal > 0 else np.nan,
        "epoch_mean": norms.mean(),
        "epoch_std": norms.std(),
        "stability": norms.std() / norms.mean(),
    }


def computed(gradients: list[list[np.ndarray]], batch_size: float) -> dict[str, torch.Tensor]:
    """The same through the functions under test, float32 gradients in."""
    tensors = [[torch.tensor(g, dtype=torch.float32) for g in step] for step in gradients]
    norms = torch.stack([tensor_norms(step) for step in tensors]).double()
    mean = [torch.stack(column).mean(0) for column in zip(*tensors, strict=True)]
    squares = scope_sums(tensor_norms(mean).double() ** 2, SCOPES)
    sums = scope_sums((norms**2).sum(0), SCOPES)
    noise = noise_statistics(squares, sums, len(gradients), batch_size)
    return noise | norm_statistics(scope_sums(norms**2, SCOPES).sqrt())


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_statistics_across_steps_match_float64_reference(steps):
    gradients = sample(seed=steps, steps=steps)
    values = computed(gradients, batch_size=32)
    for position, scope in enumerate(SCOPES.values()):
        for name, expected in reference(gradients, scope, 32).items():
            assert float(values[name][position]) == pytest.approx(expected, rel=2e-5, nan_ok=True), name


def test_statistics_across_network_match_float64_reference():
    step = sample(seed=1, steps=1)[0]
    values = network_statistics(tensor_norms([torch.tensor(g, dtype=torch.float32) for g in step]))
    norms = np.array([np.linalg.norm(g) for g in step])
    expected = [norms.mean(), norms.std(), norms.max(), norms.min(), norms.mean() / norms.std()]
    assert list(values) == ["norm_mean", "norm_std", "norm_max", "norm_min", "norm_ratio"]
    np.testing.assert_allclose([float(v) for v in values.values()], expected, rtol=1e-6)


@pytest.mark.parametrize("steps", [4, 16, 64])
def test_pooled_evidence_of_pure_noise_is_near_zero(steps):
    gradients = torch.randn(steps, 65_000, generator=torch.Generator().manual_seed(steps), dtype=torch.float64)
    values = noise_statistics(gradients.mean(0).square().sum(), gradients.square().sum(), steps, batch_size=1)
    assert abs(float(values["evidence"])) < 0.02
    assert float(values["snr"]) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("steps", "bias", "within"), [(4, -1.94, 0.1), (8, -0.4, 0.02)])
def test_elementwise_evidence_is_biased_as_documented_and_the_pooled_form_is_not(steps, bias, within):
    elements = 200_000
    gradients = np.random.default_rng(0).standard_normal((steps, elements))
    mean, variance = gradients.mean(0), gradients.var(0, ddof=1)
    elementwise = 1 - steps / elements * (mean**2 / variance).sum()
    assert elementwise == pytest.approx(bias, abs=within)  # 1 − (K−1)/(K−3), where 0 was meant
    pooled = noise_statistics(torch.tensor((mean**2).sum()), torch.tensor((gradients**2).sum()), steps, 1)
    assert abs(float(pooled["evidence"])) < 0.02


def test_noise_scale_recovers_the_ratio_of_per_sample_noise_to_signal():
    # Per-sample gradients with mean 0.5 and variance 4 in each element: noise scale 4/0.25 = 16 samples.
    batch_size, generator = 8, torch.Generator().manual_seed(3)
    samples = 0.5 + 2 * torch.randn(50, batch_size, 20_000, generator=generator)
    gradients = samples.mean(1).double()
    values = noise_statistics(gradients.mean(0).square().sum(), gradients.square().sum(), 50, batch_size)
    assert float(values["noise_scale"]) == pytest.approx(16, rel=0.03)


def test_fewer_than_two_steps_are_undefined_not_an_error():
    values = noise_statistics(torch.tensor([4.0, 0.0]), torch.tensor([4.0, 0.0]), steps=1, batch_size=8)
    assert all(torch.isnan(value).all() for value in values.values())
    norms = norm_statistics(torch.tensor([[2.0]]))
    assert float(norms["epoch_mean"]) == 2.0
    assert float(norms["epoch_std"]) == 0.0
    assert torch.isnan(norms["stability"]).all()


def test_limits_without_noise_and_without_gradient():
    noiseless = noise_statistics(torch.tensor(9.0), torch.tensor(36.0), steps=4, batch_size=8)
    assert float(noiseless["snr"]) == float("inf")
    assert float(noiseless["evidence"]) == -float("inf")
    assert float(noiseless["noise_scale"]) == 0.0
    dead = noise_statistics(torch.tensor(0.0), torch.tensor(0.0), steps=4, batch_size=8)
    assert all(torch.isnan(value) for value in dead.values())


def test_noise_scale_is_defined_exactly_where_evidence_is_below_zero():
    squares = torch.tensor([0.5, 1.0, 1.5, 8.0])
    values = noise_statistics(squares, torch.full((4,), 40.0), steps=4, batch_size=2)
    assert torch.equal(torch.isfinite(values["noise_scale"]), values["evidence"] < 0)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), steps=st.integers(2, 12), scale=st.floats(1e-3, 1e3))
def test_scaling_every_gradient_changes_only_the_norms(seed, steps, scale):
    gradients = sample(seed, steps, signal=2.0)
    plain = computed(gradients, 16)
    scaled = computed([[scale * g for g in step] for step in gradients], 16)
    for name, factor in {"snr": 1, "evidence": 1, "stability": 1, "epoch_mean": scale, "epoch_std": scale}.items():
        torch.testing.assert_close(scaled[name], plain[name] * factor, rtol=1e-3, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), steps=st.integers(2, 12))
def test_order_of_the_steps_does_not_matter_and_evidence_is_one_minus_snr(seed, steps):
    gradients = sample(seed, steps)
    forward, backward = computed(gradients, 16), computed(gradients[::-1], 16)
    for name in forward:
        torch.testing.assert_close(forward[name], backward[name], rtol=1e-4, atol=1e-9, equal_nan=True)
    torch.testing.assert_close(forward["evidence"], 1 - forward["snr"])


def test_layers_are_the_owning_modules_by_their_full_names():
    names = ["net.conv1.weight", "net.conv1.bias", "net.heads.note.weight", "_orig_mod.net.fc.weight", "temperature"]
    assert layers(names) == {"net.conv1": [0, 1], "net.heads.note": [2], "net.fc": [3], "temperature": [4]}


def test_scope_sums_keep_what_is_not_finite_in_its_own_scope():
    sums = scope_sums(torch.tensor([1.0, 2.0, torch.inf, torch.nan]), {"a": [0, 1], "b": [2], "c": [3, 0]})
    assert float(sums[0]) == 3.0
    assert float(sums[1]) == float("inf")
    assert torch.isnan(sums[2])


def test_cosine_matches_numpy_and_is_undefined_for_a_zero_vector():
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal(50), rng.standard_normal(50)
    expected = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    dots = torch.tensor([a @ b, a @ a, -(a @ a), 0.0])
    squares = torch.tensor([a @ a, a @ a, a @ a, 0.0])
    others = torch.tensor([b @ b, a @ a, a @ a, b @ b])
    values = cosine(dots, squares, others)
    np.testing.assert_allclose(values[:3].numpy(), [expected, 1.0, -1.0], rtol=1e-12)
    assert torch.isnan(values[3])


def test_norms_of_half_and_double_gradients_are_single():
    large = torch.full((100,), 1e4)  # whose squares half precision does not hold
    for dtype in (torch.float16, torch.float32, torch.float64):
        norms = tensor_norms([large.to(dtype), large[:1].to(dtype)])
        assert norms.dtype == torch.float32
        assert norms.tolist() == pytest.approx([1e5, 1e4])
