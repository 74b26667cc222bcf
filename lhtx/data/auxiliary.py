"""Auxiliary features: scalars computed from an image, for a separate branch of a network.

A feature is a function of a batch of images and the names of its columns; `FEATURES` is the registry. Knows no files.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from lhtx.errors import ConfigError

_FLOOR = 1.0 / 255.0  # one step of a stored image: what is below it cannot be told from silence


@dataclass(frozen=True)
class Feature:
    """`function` maps images (N, C, H, W), float in [0, 1], as stored (before channel selection and transforms), to
    (N, F) numbers; `columns` names the F of them."""

    columns: tuple[str, ...]
    function: Callable[[torch.Tensor], torch.Tensor]


def decay_time(images: torch.Tensor) -> torch.Tensor:
    """Four numbers on the decay of a spectrogram: (N, C, H, W) float in [0, 1], time along the width → (N, 4).

    From the temporal envelope e, the mean over frequency of the first channel: log10 of the time constant of an
    exponential decay, fitted to log e by least squares weighted with e² (the inverse variance of log e for equal noise
    on e), 100 widths at most; centroid and spread of e in time, as fractions of the width;
    and peak/end. The time constant is in frames, and, as an image in dB is its own logarithm, comparable between images
    of one dataset only.
    """
    envelope = images[:, 0].mean(dim=1).double().clamp_min(1e-6)  # (N, W)
    width = envelope.shape[1]
    frame = torch.arange(width, dtype=torch.float64, device=images.device)
    slope = _weighted_slope(frame, envelope.log(), envelope.square())
    time_constant = 1.0 / (-slope).clamp_min(1.0 / (100.0 * width))
    position = frame / max(width - 1, 1)
    mass = envelope / envelope.sum(dim=1, keepdim=True)
    centroid = mass @ position
    spread = (mass * (position - centroid[:, None]).square()).sum(dim=1).sqrt()
    ratio = envelope.amax(dim=1) / envelope[:, -1].clamp_min(_FLOOR)
    return torch.stack([time_constant.log10(), centroid, spread, ratio], dim=1).float()


FEATURES: dict[str, Feature] = {
    "decay_time": Feature(("log10_time_constant", "temporal_centroid", "temporal_spread", "peak_to_end"), decay_time),
}
"""Every auxiliary feature by the name that a config uses."""


def check_features(names: Sequence[str]) -> None:
    """Raise `ConfigError` for an unknown or repeated feature, naming those that there are."""
    for name in names:
        if name not in FEATURES:
            near = get_close_matches(str(name), FEATURES, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"auxiliary_features: unknown {name!r}{hint}; accepted: {', '.join(FEATURES)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"auxiliary_features names one twice: {', '.join(names)}")


def feature_count(names: Sequence[str]) -> int:
    """The number of columns that `names` give together."""
    return sum(len(FEATURES[name].columns) for name in names)


def compute(names: Sequence[str], chunks: Iterable[torch.Tensor]) -> torch.Tensor:
    """All features of all images, given in chunks (N, C, H, W) uint8: (total, F) float32, not standardised yet."""
    rows = [
        torch.cat([FEATURES[name].function(images) for name in names], dim=1)
        for images in (chunk.float().div_(255.0) for chunk in chunks)
    ]
    return torch.cat(rows).float()


def standardise(features: torch.Tensor, train: torch.Tensor) -> torch.Tensor:
    """Every column less its mean over the rows `train`, over its standard deviation there; a constant one becomes 0."""
    reference = features[train].double()
    deviation = reference.std(dim=0, correction=0)
    constant = deviation <= 1e-9 * reference.abs().amax(dim=0).clamp_min(1e-30)
    scaled = (features.double() - reference.mean(dim=0)) / torch.where(constant, torch.inf, deviation)
    return scaled.float()


def _weighted_slope(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The slope of the weighted least-squares line through (x, y): x (W,), y and weight (N, W) → (N,)."""
    total = weight.sum(dim=1, keepdim=True)
    x_centred = x - (weight @ x)[:, None] / total
    y_centred = y - (weight * y).sum(dim=1, keepdim=True) / total
    variance = (weight * x_centred.square()).sum(dim=1)
    return (weight * x_centred * y_centred).sum(dim=1) / variance.clamp_min(1e-30)
