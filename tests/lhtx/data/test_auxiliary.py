"""Auxiliary features against an independent float64 fit, and against closed forms."""

import numpy as np
import pytest
import torch

from lhtx.data.auxiliary import FEATURES, check_features, compute, decay_time, feature_count, standardise
from lhtx.errors import ConfigError


def _images(envelopes: np.ndarray, channels: int = 1, height: int = 3) -> torch.Tensor:
    """Images whose first channel has the mean `envelopes` over its height, unevenly spread over it."""
    weights = np.linspace(0.5, 1.5, height)
    first = envelopes[:, None, :] * weights[None, :, None]
    others = np.random.default_rng(0).random((len(envelopes), channels - 1, height, envelopes.shape[1]))
    return torch.from_numpy(np.concatenate([first[:, None], others], axis=1)).float()


@pytest.mark.parametrize("frames", [0.7, 3.0, 10.0, 50.0])
def test_the_time_constant_of_an_exponential_decay(frames: float) -> None:
    envelope = 0.6 * np.exp(-np.arange(32) / frames)
    found = decay_time(_images(envelope[None], channels=3))[0, 0].item()
    assert found == pytest.approx(np.log10(frames), abs=1e-3)


def test_the_fit_is_the_weighted_least_squares_line() -> None:
    envelope = np.random.default_rng(1).uniform(0.05, 0.6, 20) * np.exp(-np.arange(20) / 8)
    slope = np.polyfit(np.arange(20), np.log(envelope), 1, w=envelope)[0]  # polyfit squares the weights
    assert decay_time(_images(envelope[None]))[0, 0].item() == pytest.approx(np.log10(-1 / slope), abs=1e-4)


def test_centroid_spread_and_ratio() -> None:
    envelope = np.array([[0.0, 0.4, 0.0, 0.2, 0.2]])
    centroid = (0.4 * 0.25 + 0.2 * 0.75 + 0.2 * 1.0) / 0.8
    spread = np.sqrt((0.4 * (0.25 - centroid) ** 2 + 0.2 * (0.75 - centroid) ** 2 + 0.2 * (1 - centroid) ** 2) / 0.8)
    _, *rest = decay_time(_images(envelope))[0].tolist()
    assert rest == pytest.approx([centroid, spread, 2.0], abs=1e-4)


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        (np.zeros(8), [np.log10(800), 0.5, np.sqrt(np.mean((np.arange(8) / 7 - 0.5) ** 2)), 255e-6]),
        (np.full(8, 0.5), [np.log10(800), 0.5, np.sqrt(np.mean((np.arange(8) / 7 - 0.5) ** 2)), 1.0]),
        (np.eye(8)[0], [np.log10(140 / 28 / np.log(1e6)), 0.0, 0.0, 255.0]),  # a line from 0 through the floor, 1e-6
    ],
)
def test_images_without_a_decay_give_finite_limits(envelope: np.ndarray, expected: list[float]) -> None:
    assert decay_time(_images(envelope[None])).tolist()[0] == pytest.approx(expected, abs=0.02)


def test_rising_sound_gives_the_longest_time_constant() -> None:
    assert decay_time(_images(np.linspace(0.1, 0.9, 8)[None]))[0, 0].item() == pytest.approx(np.log10(800))


def test_chunks_do_not_change_the_features() -> None:
    images = torch.randint(0, 256, (10, 2, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, parts = (compute(["decay_time"], images.split(size)) for size in (10, 3))
    assert whole.shape == (10, feature_count(["decay_time"])) == (10, 4)
    assert torch.equal(whole, parts)
    assert torch.allclose(whole, decay_time(images.float() / 255))


def test_every_feature_has_as_many_columns_as_names() -> None:
    images = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    for feature in FEATURES.values():
        columns = feature.function(images)
        assert columns.shape == (3, len(feature.columns))
        assert columns.dtype == torch.float32
        assert columns.isfinite().all()


def test_standardise_looks_at_the_train_rows_alone() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]])
    scaled = standardise(features, torch.tensor([0, 1]))
    assert scaled.tolist() == [[-1.0, 0.0], [1.0, 0.0], [98.0, 0.0]]


def test_names_are_checked() -> None:
    check_features(["decay_time"])
    with pytest.raises(ConfigError, match=r"unknown 'decaytime' \(did you mean decay_time\?\); accepted: decay_time"):
        check_features(["decaytime"])
    with pytest.raises(ConfigError, match="names one twice"):
        check_features(["decay_time", "decay_time"])
