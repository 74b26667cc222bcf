"""Normalisation: what a config may say, which constant belongs to which channel, and what is measured."""

import numpy as np
import pytest
import torch

from lhtx.data.normalisation import Constants, measure, parse_normalisation
from lhtx.errors import ConfigError


def test_words_and_constants_are_read() -> None:
    assert parse_normalisation("train") == "train"
    assert parse_normalisation("none") == "none"
    assert parse_normalisation({"mean": 0.5, "std": [1, 2]}) == Constants(0.5, (1.0, 2.0))


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [
        ([0, 1, 2], [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]),
        ([2, 0], [0.3, 0.1], [3.0, 1.0]),  # a channel keeps its own when others are selected away
        ([1, 2, 3, 4], [0.2, 0.3, 0.5, 0.5], [2.0, 3.0, 0.5, 0.5]),  # and one beyond the list becomes −1 … 1
    ],
)
def test_a_list_belongs_to_the_first_stored_channels(channels: list[int], mean: list[float], std: list[float]) -> None:
    found = Constants((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)).of(channels)
    assert torch.allclose(found[0], torch.tensor(mean))
    assert torch.allclose(found[1], torch.tensor(std))


def test_a_number_belongs_to_every_channel() -> None:
    mean, std = Constants(0.25, (0.5, 1.0)).of([0, 1, 5])
    assert mean.tolist() == [0.25] * 3
    assert std.tolist() == [0.5, 1.0, 0.5]


def test_what_is_measured_is_mean_and_deviation_by_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 5), dtype=np.uint8)
    images[:, 2] = 7
    mean, deviation = measure(torch.from_numpy(images))
    expected = images.astype(np.float64) / 255
    assert np.allclose(mean, expected.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(deviation[:2], expected.std((0, 2, 3))[:2], atol=1e-6)
    assert deviation[2] == pytest.approx(1 / 255)  # of a constant channel, which then becomes 0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("standard", "normalisation is 'standard'; expected train .* none .* or {mean: …, std: …}"),
        (None, "normalisation is None; expected train"),
        (True, "normalisation is True; expected train"),
        ({"mean": 0.5}, "normalisation is {'mean': 0.5}; expected train"),
        ({"mean": [0.5], "std": [0.5], "max": 1}, "expected train"),
        ({"mean": "0.5", "std": 1}, "normalisation.mean holds '0.5'; expected a finite number"),
        ({"mean": float("nan"), "std": 1}, "normalisation.mean holds nan; expected a finite number"),
        ({"mean": [], "std": 1}, "normalisation.mean is empty"),
        ({"mean": 0, "std": [1, 0]}, "normalisation.std holds 0; expected a number above 0"),
        ({"mean": [0, 0], "std": [1, 1, 1]}, "normalisation has 2 means and 3 deviations"),
    ],
)
def test_anything_else_is_refused(setting: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_normalisation(setting)
