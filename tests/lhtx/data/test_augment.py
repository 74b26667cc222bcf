"""Augmentation: each image is changed on its own, as documented, and the same seed changes it in the same way."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lhtx.data.augment import Augmentation, cutout, random_crop, random_flip
from lhtx.errors import ConfigError


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(batch: int, channels: int = 2, height: int = 6, width: int = 5) -> torch.Tensor:
    """Different bytes from 1 up, so that what was moved in, 0, is told from the rest."""
    return torch.randint(1, 256, (batch, channels, height, width), generator=_generator(9), dtype=torch.uint8)


@given(st.integers(0, 4), st.integers(0, 5), st.integers(0, 99))
def test_a_crop_is_the_image_moved_with_zeros_around(padding: int, batch: int, seed: int) -> None:
    images = _images(batch)
    cropped = random_crop(images, padding, _generator(seed))
    assert (cropped.shape, cropped.dtype) == (images.shape, images.dtype)
    shifts = range(-padding, padding + 1)
    for image, crop in zip(images, cropped, strict=True):
        assert any(torch.equal(crop, _moved(image, down, right)) for down in shifts for right in shifts)


def _moved(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    moved = torch.zeros_like(image)
    height, width = image.shape[1:]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[:, row, column] = image[:, row - down, column - right]
    return moved


def test_each_image_is_moved_for_itself_and_every_way() -> None:
    pixel = torch.zeros(2000, 1, 7, 7)
    pixel[:, :, 3, 3] = 1
    places = random_crop(pixel, 2, _generator()).sum(0)[0]
    assert (places[1:6, 1:6] > 40).all()  # 80 are expected at each of the 25 places
    assert places.sum() == places[1:6, 1:6].sum() == 2000


def test_about_half_of_the_images_are_mirrored() -> None:
    images = _images(1000)
    flipped = random_flip(images, _generator())
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (mirrored | (flipped == images).flatten(1).all(1)).all()
    assert 440 < mirrored.sum() < 560


@given(st.integers(1, 5), st.integers(0, 99))
def test_cutout_clears_one_square_in_all_channels(size: int, seed: int) -> None:
    images = _images(4)
    holes = cutout(images, size, _generator(seed)) == 0
    assert torch.equal(cutout(images, size, _generator(seed))[~holes], images[~holes])
    assert torch.equal(holes[:, 0], holes[:, 1])
    for hole in holes[:, 0]:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        height, width = (int(places[-1] - places[0] + 1) for places in (rows, columns))
        assert hole.sum() == height * width
        assert (size + 1) // 2 <= height <= size  # it may hang over the edge by half
        assert (size + 1) // 2 <= width <= size


@given(st.integers(0, 99))
def test_a_seed_decides_everything(seed: int) -> None:
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=3)

    def once(generator: torch.Generator | None) -> torch.Tensor:
        return augmentation.cover(augmentation.move(_images(8), generator).float(), generator)

    first = once(_generator(seed))
    assert torch.equal(first, once(_generator(seed)))
    torch.manual_seed(seed)
    assert torch.equal(first, once(None))  # without a generator it is the global random state that decides


def test_none_changes_nothing_and_draws_nothing() -> None:
    images, before = _images(3), torch.get_rng_state()
    for nothing in (None, {}, {"crop_padding": 0, "flip": False, "cutout": 0}):
        augmentation = Augmentation.parse(nothing)
        assert augmentation.cover(augmentation.move(images)) is images
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"crop_paddin": 4},
            "augmentation has no 'crop_paddin'. Did you mean crop_padding\\? Accepted: crop_padding, cutout, flip",
        ),
        ({"crop_padding": -1}, "augmentation.crop_padding is -1; expected a whole number of pixels, 0 or more"),
        ({"cutout": 1.5}, "augmentation.cutout is 1.5; expected a whole number of pixels"),
        ({"cutout": True}, "augmentation.cutout is True; expected a whole number of pixels"),
        ({"flip": 0.5}, "augmentation.flip is 0.5; expected true or false"),
        ("flip", "augmentation is 'flip'; expected null, or a mapping with crop_padding, flip, cutout"),
    ],
)
def test_bad_options_are_refused(options: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation.parse(options)


@pytest.mark.parametrize("key", ["crop_padding", "cutout"])
def test_what_leaves_nothing_of_an_image_is_refused(key: str) -> None:
    Augmentation(**{key: 7}).check(8, 9)
    with pytest.raises(ConfigError, match=f"augmentation.{key} is 8, and the images are 8x9; expected a number below 8"):
        Augmentation(**{key: 8}).check(8, 9)
