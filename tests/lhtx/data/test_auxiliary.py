"""Auxiliary features against an independent float64 fit, closed forms, and what generated sound was made with."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lhtx.data.auxiliary import FEATURES, check_features, compute, decay_time, feature_count, measure, standardise
from lhtx.data.dataset import open_dataset
from lhtx.data.recipe import Recipe, generate
from lhtx.errors import ConfigError


def _images(envelopes: np.ndarray, channels: int = 1, height: int = 3) -> torch.Tensor:
    """Images whose first channel has the mean `envelopes` over its height, unevenly spread over it."""
    weights = np.linspace(0.5, 1.5, height)
    first = envelopes[:, None, :] * weights[None, :, None]
    others = np.random.default_rng(0).random((len(envelopes), channels - 1, height, envelopes.shape[1]))
    return torch.from_numpy(np.concatenate([first[:, None], others], axis=1)).float()


def _falling(frames: float, start: int = 0, floor: float = 0.1) -> np.ndarray:
    """A log envelope (32,) that falls from 0.7 by 1/frames a frame, from `start` on, until it is lost at `floor`."""
    after = np.arange(32) - start
    return np.where(after < 0, 0.3, np.maximum(0.7 - after / frames, floor))


@pytest.mark.parametrize("frames", [3.0, 10.0, 50.0, 300.0])
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_time_constant_of_an_exponential_decay(frames: float, start: int, floor: float) -> None:
    found = decay_time(_images(_falling(frames, start, floor)[None], channels=3))[0, 0].item()
    assert found == pytest.approx(np.log10(frames), abs=1e-3)


def test_the_fit_is_the_least_squares_line_from_the_peak_to_above_the_floor() -> None:
    generator = np.random.default_rng(1)
    envelope = _falling(30.0, floor=0.2) + generator.uniform(-0.01, 0.01, 32)
    tail = envelope[-8:]
    high = np.sort(tail)[3] + 0.25 * (envelope.max() - np.sort(tail)[3])
    above = np.arange(int(np.argmax(envelope)), int(np.argmax(envelope < high)))
    slope = np.polyfit(above, envelope[above], 1)[0]
    assert 8 < len(above) < 14
    assert decay_time(_images(envelope[None]))[0, 0].item() == pytest.approx(np.log10(-1 / slope), abs=1e-4)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_noise_neither_inverts_nor_hides_the_decay_time(tmp_path: Path, noise: float) -> None:
    options = yaml.safe_load((resources.files("lhtx") / "configs/data/vimh.yaml").read_text(encoding="utf-8"))["generate"]
    assert options["noise"] == 0.02  # what this is measured for first of all
    generate(Recipe.from_options(options | {"size": 300, "noise": noise}), tmp_path / "set")
    samples = open_dataset(tmp_path / "set", test=False).train
    found = decay_time(torch.from_numpy(samples.images[:].copy()).float() / 255)[:, 0].numpy()
    true = samples.labels([1])[:, 0]
    assert _rank_correlation(found, true) > 0.95


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: the correlation of the ranks, ties sharing their mean rank."""
    ranks = []
    for values in (one, other):
        _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[group])
    return float(np.corrcoef(*ranks)[0, 1])


def test_centroid_spread_and_ratio() -> None:
    envelope = np.array([[0.0, 0.4, 0.0, 0.2, 0.2]])
    centroid = (0.4 * 0.25 + 0.2 * 0.75 + 0.2 * 1.0) / 0.8
    spread = np.sqrt((0.4 * (0.25 - centroid) ** 2 + 0.2 * (0.75 - centroid) ** 2 + 0.2 * (1 - centroid) ** 2) / 0.8)
    _, *rest = decay_time(_images(envelope))[0].tolist()
    assert rest == pytest.approx([centroid, spread, 2.0], abs=1e-4)


@pytest.mark.parametrize(
    ("envelope", "ratio"),
    [
        (np.zeros(8), 255e-6),
        (np.full(8, 0.5), 1.0),
        (0.6 * np.eye(8)[0], 153.0),  # a click
        (np.linspace(0.1, 0.9, 8), 1.0),
    ],
)
def test_images_without_a_decay_get_the_shortest_time_constant(envelope: np.ndarray, ratio: float) -> None:
    mass = (envelope + 1e-6) / (envelope + 1e-6).sum()  # silence is spread evenly
    centroid = mass @ np.arange(8) / 7
    spread = np.sqrt(mass @ (np.arange(8) / 7 - centroid) ** 2)
    assert decay_time(_images(envelope[None])).tolist()[0] == pytest.approx([0.0, centroid, spread, ratio], abs=0.01)


def test_noise_alone_gets_the_shortest_time_constant_nine_times_in_ten() -> None:
    envelopes = 0.5 + np.random.default_rng(0).normal(0, 0.01, (200, 32))
    found = decay_time(_images(envelopes))[:, 0]
    assert (found == 0).float().mean() > 0.9


def test_the_longest_time_constant_is_a_hundred_widths() -> None:
    held = np.where(np.arange(32) < 16, 0.5, 0.1)  # no fall before the end
    assert decay_time(_images(held[None]))[0, 0].item() == pytest.approx(np.log10(3200))


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


def test_features_are_standardised_by_what_was_measured_on_others() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0], [100.0, 7.0]])
    scaled = standardise(features, *measure(features[:2]))
    assert scaled.tolist() == [[-1.0, 0.0], [1.0, 0.0], [98.0, 0.0]]


def test_names_are_checked() -> None:
    check_features(["decay_time"])
    with pytest.raises(ConfigError, match=r"unknown 'decaytime' \(did you mean decay_time\?\); accepted: decay_time"):
        check_features(["decaytime"])
    with pytest.raises(ConfigError, match="names one twice"):
        check_features(["decay_time", "decay_time"])
