"""The checks of sizes and inputs that the networks share: errors that name the network, what it got and what it takes.

They look at numbers of a config and at shapes, never at the values in a tensor.
"""

from collections.abc import Sequence

from torch import Tensor

from lhtx.errors import ConfigError


def require_sizes(network: str, **sizes: int) -> None:
    """Raise a `ConfigError` that names the first of `sizes` that is no whole number of 1 or more."""
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigError(f"{network}: {name} is {size!r}; expected a whole number, 1 or more")


def require_probabilities(network: str, **probabilities: float) -> None:
    """Raise a `ConfigError` that names the first of `probabilities` (of dropping something) outside [0, 1)."""
    for name, value in probabilities.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ConfigError(f"{network}: {name} is {value!r}; expected a probability, 0 or more and below 1")


def require_positive(network: str, **numbers: float) -> None:
    """Raise a `ConfigError` that names the first of `numbers` that is not above 0 and finite."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ConfigError(f"{network}: {name} is {value!r}; expected a number above 0")


def height_and_width(network: str, name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """The two sides that `size` means: of a square if it is one number, else height and width.

    Raises:
        ConfigError: that calls it `name`, for anything but one or two whole numbers of 1 or more.
    """
    sides = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(sides) != 2:
        raise ConfigError(f"{network}: {name} is {size!r}; expected one number for a square, or height and width")
    require_sizes(network, **{f"{name} (height)": sides[0], f"{name} (width)": sides[1]})
    return sides


def require_images(network: str, image: Tensor, channels: int, smallest: int) -> None:
    """Raise a `ValueError` unless `image` is (B, channels, H, W), `smallest` pixels a side or more."""
    if image.ndim != 4 or image.shape[1] != channels or min(image.shape[2:]) < smallest:
        raise ValueError(
            f"{network} takes images (B, {channels}, H, W) of {smallest} pixel{'s' if smallest > 1 else ''} a side or more, "
            f"and got {tuple(image.shape)}"
        )


def require_features(network: str, image: Tensor, features: int) -> None:
    """Raise a `ValueError` where a batch of images does not flatten to `features` numbers each."""
    if image.shape[1:].numel() != features:
        raise ValueError(
            f"{network} was built for input_size={features} numbers an image, and got images of shape "
            f"{tuple(image.shape[1:])}, {image.shape[1:].numel()} numbers; set input_size to that"
        )
