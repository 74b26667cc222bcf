"""How stored bytes become the numbers that a network reads: scaled to [0, 1], then shifted and scaled by channel.

Pure functions of a config's setting and of images; knows no files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from lhtx.data.parameters import LEVELS
from lhtx.errors import ConfigError

TRAIN, NONE = "train", "none"
BEYOND = 0.5
"""Mean and deviation of channels that a list of constants says nothing of: they become [−1, 1]."""

_EXPECTED = (
    "expected train (mean 0 and deviation 1 over the train split), none ([0, 1]), or {mean: …, std: …} with a number for "
    "all channels or a list of one a stored channel, in units of [0, 1]"
)


@dataclass(frozen=True)
class Constants:
    """Fixed means and deviations, in units of [0, 1]: a number holds for every channel, a list for the first channels.

    Images may have other channels than the constants were measured for. A channel keeps its own constant when others are
    selected away, and one beyond the end of the list has the mean and the deviation `BEYOND`.
    """

    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]

    def of(self, channels: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the stored channels with these indices: float32 (C,) each."""
        return _take(self.mean, channels), _take(self.std, channels)


def parse_normalisation(setting: Any) -> str | Constants:
    """`TRAIN`, `NONE` or constants, from a config's `normalisation`. Raises `ConfigError`, saying what is accepted."""
    if setting in (TRAIN, NONE):
        return setting
    if not isinstance(setting, Mapping) or set(setting) != {"mean", "std"}:
        raise ConfigError(f"normalisation is {setting!r}; {_EXPECTED}")
    mean, std = (_constants(key, setting[key]) for key in ("mean", "std"))
    if isinstance(mean, tuple) and isinstance(std, tuple) and len(mean) != len(std):
        raise ConfigError(f"normalisation has {len(mean)} means and {len(std)} deviations; {_EXPECTED}")
    return Constants(mean, std)


def measure(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel of stored images (N, C, H, W) uint8, in units of [0, 1]: float32 (C,) each.

    The deviation of a constant channel is given as 1/255, so that it becomes 0 and nothing is divided by 0.
    """
    # Of how often each level occurs: exact, however many threads count, and nothing as large as the images is made.
    counts = torch.stack([torch.bincount(channel.reshape(-1), minlength=LEVELS + 1) for channel in images.unbind(1)]).double()
    shares, levels = counts / counts.sum(1, keepdim=True), torch.arange(LEVELS + 1, dtype=torch.float64)
    mean = shares @ levels
    deviation = (shares * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    return (mean / LEVELS).float(), (torch.where(deviation > 0, deviation, 1.0) / LEVELS).float()


def _take(constants: float | tuple[float, ...], channels: Sequence[int]) -> Tensor:
    if isinstance(constants, float):
        return torch.full((len(channels),), constants)
    return torch.tensor([constants[channel] if channel < len(constants) else BEYOND for channel in channels])


def _constants(key: str, value: Any) -> float | tuple[float, ...]:
    single = not isinstance(value, Sequence) or isinstance(value, str)
    numbers = [value] if single else list(value)
    for number in numbers:
        plain = isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number)
        if not plain or (key == "std" and number <= 0):
            wanted = "a number above 0" if key == "std" else "a finite number"
            raise ConfigError(f"normalisation.{key} holds {number!r}; expected {wanted}")
    if not numbers:
        raise ConfigError(f"normalisation.{key} is empty; {_EXPECTED}")
    return float(numbers[0]) if single else tuple(map(float, numbers))
