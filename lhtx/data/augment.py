"""Random changes to a whole batch of training images, one operation for all of them, on the device that they are on.

Pure functions of a tensor and a generator; without one they draw from torch's global random state, which the run seeds
anew for each epoch. Knows no dataset and no labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from lhtx.config_errors import near
from lhtx.errors import ConfigError


def random_crop(images: Tensor, padding: int, generator: Generator | None = None) -> Tensor:
    """Each image moved by its own −padding … +padding pixels along both axes; what moves in from outside is 0.

    It is a crop of the image's own size out of the image padded on all sides. images (B, C, H, W), any dtype → the same.
    """
    batch, _, height, width = images.shape
    padded = pad(images, (padding,) * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view (B, C, 2·padding + 1, 2·padding + 1, H, W)
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator, device=images.device)
    return crops[torch.arange(batch, device=images.device), :, top, left]


def random_flip(images: Tensor, generator: Generator | None = None) -> Tensor:
    """Each image mirrored left to right with probability ½. images (B, C, H, W), any dtype → the same."""
    flipped = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, size: int, generator: Generator | None = None) -> Tensor:
    """A square of `size` pixels a side set to 0 in each image, in all channels (DeVries & Taylor 2017, arXiv 1708.04552).

    Its centre is any pixel, so it may hang over the edge. images (B, C, H, W), any dtype → the same.
    """
    batch, _, height, width = images.shape
    draw = {"generator": generator, "device": images.device}
    rows = _covered(torch.randint(height, (batch,), **draw), size, height)
    columns = _covered(torch.randint(width, (batch,), **draw), size, width)
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images; 0 or false leaves a step out.

    Attributes:
        crop_padding: the pixels of `random_crop`.
        flip: whether to `random_flip`.
        cutout: the side of the square of `cutout`, in pixels.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    @classmethod
    def parse(cls, options: Mapping[str, Any] | None) -> "Augmentation":
        """From a config's mapping, None being nothing at all. Raises `ConfigError`."""
        if options is None:
            return cls()
        names = [field.name for field in fields(cls)]
        if not isinstance(options, Mapping):
            raise ConfigError(f"augmentation is {options!r}; expected null, or a mapping with {', '.join(names)}")
        for key, value in options.items():
            if key not in names:
                raise ConfigError(f"augmentation has no {key!r}. {near(str(key), names)}")
            if key == "flip" and not isinstance(value, bool):
                raise ConfigError(f"augmentation.flip is {value!r}; expected true or false")
            if key != "flip" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigError(f"augmentation.{key} is {value!r}; expected a whole number of pixels, 0 or more")
        return cls(**options)

    def check(self, height: int, width: int) -> None:
        """Raise `ConfigError` where a step could leave nothing of images of this size."""
        for key in ("crop_padding", "cutout"):
            if getattr(self, key) >= min(height, width):
                raise ConfigError(
                    f"augmentation.{key} is {getattr(self, key)}, and the images are {height}x{width}; expected a number below "
                    f"{min(height, width)}"
                )

    def move(self, stored: Tensor, generator: Generator | None = None) -> Tensor:
        """Crop and flip images as they are stored, so that a stored 0 (black, silence) moves in: (B, C, H, W) → the same."""
        if self.crop_padding:
            stored = random_crop(stored, self.crop_padding, generator)
        return random_flip(stored, generator) if self.flip else stored

    def cover(self, normalised: Tensor, generator: Generator | None = None) -> Tensor:
        """Cut out of normalised images, so that the square is what normalises to 0, the mean: (B, C, H, W) → the same."""
        return cutout(normalised, self.cutout, generator) if self.cutout else normalised


def _covered(centre: Tensor, size: int, length: int) -> Tensor:
    """Which of `length` places the `size` around each centre (B,) cover: bool (B, length)."""
    offset = torch.arange(length, device=centre.device) - centre[:, None] + size // 2
    return (offset >= 0) & (offset < size)
