"""Auxiliary features: scalars computed from an image, for a separate branch of a network.

A feature is a function of a batch of images and the names of its columns; `FEATURES` is the registry. Knows no files.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from lhtx.errors import ConfigError

_STEP = 1.0 / 255.0  # one step of a stored image


@dataclass(frozen=True)
class Feature:
    """`function` maps images (N, C, H, W), float in [0, 1], as stored (before channel selection and transforms), to
    (N, F) numbers; `columns` names the F of them."""

    columns: tuple[str, ...]
    function: Callable[[torch.Tensor], torch.Tensor]


def decay_time(images: torch.Tensor) -> torch.Tensor:
    """Four numbers on the decay of a sound: log-magnitude (dB) images (N, C, H, W) in [0, 1], time along the width → (N, 4).

    The envelope e, the mean over the height of the first channel, is the log envelope of the sound already, so a sound
    that decays exponentially falls along a straight line until it is lost in noise or silence. The columns:

    - log10 of the time constant: the frames in which that line falls by the whole range of the image, 1. The line is
      the least-squares one through the frames from the peak down to a quarter of the way above the floor, where bands
      that are lost already do not bend it yet. The floor is the median of the last quarter of the frames, and what is
      within three of that quarter's robust standard deviations (1.4826 × the median absolute deviation), or one step of
      a stored image, counts as floor. The shortest constant, one frame, where fewer than two frames stand out: a click,
      silence, what falls nowhere, and noise alone but for the few images in which two neighbouring frames stand out by
      chance; the longest is 100 widths.
    - centroid and spread of e in time, as fractions of the width; peak/end.

    The constant is proportional to seconds within one dataset, whose frame and dB range are fixed. Images of linear
    magnitude are not for this feature.
    """
    envelope = images[:, 0].mean(dim=1).double()  # (N, W)
    width = envelope.shape[1]
    frame = torch.arange(width, dtype=torch.float64, device=images.device)
    time_constant = 1.0 / _decay_slope(envelope, frame).clamp(1.0 / (100.0 * width), 1.0)
    position = frame / max(width - 1, 1)
    mass = envelope.clamp_min(1e-6)
    mass = mass / mass.sum(dim=1, keepdim=True)
    centroid = mass @ position
    spread = (mass * (position - centroid[:, None]).square()).sum(dim=1).sqrt()
    ratio = envelope.amax(dim=1) / envelope[:, -1].clamp_min(_STEP)
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


def measure(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of every column of features (N, F): float64 (F,) each.

    The deviation of a constant column is given as infinite, so that the column becomes 0.
    """
    reference = features.double()
    deviation = reference.std(dim=0, correction=0)
    constant = deviation <= 1e-9 * reference.abs().amax(dim=0).clamp_min(1e-30)
    return reference.mean(dim=0), torch.where(constant, torch.inf, deviation)


def standardise(features: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
    """Every column of features (N, F) less its mean, over its deviation, as `measure` gives them: float32 (N, F)."""
    return ((features.double() - mean) / deviation).float()


def _decay_slope(envelope: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """The fall per frame of log envelopes (N, W) from their peak to their floor, (N,); 1 where fewer than two frames tell."""
    peak, first = envelope.max(dim=1, keepdim=True)
    tail = envelope[:, -max(len(frame) // 4, 1) :]
    floor = tail.median(dim=1, keepdim=True).values
    deviation = 1.4826 * (tail - floor).abs().median(dim=1, keepdim=True).values
    margin = torch.maximum(0.25 * (peak - floor), (3.0 * deviation).clamp_min(_STEP))
    before = frame < first
    down = (before | (envelope > floor + margin)).cumprod(dim=1).bool() & ~before  # from the peak, without a gap
    count = down.sum(dim=1)
    return torch.where(count < 2, 1.0, -_slope(frame, envelope, down.double()))


def _slope(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The slope of the weighted least-squares line through (x, y): x (W,), y and weight (N, W) → (N,); 0 without weight."""
    total = weight.sum(dim=1, keepdim=True).clamp_min(1e-30)
    x_centred = x - (weight @ x)[:, None] / total
    y_centred = y - (weight * y).sum(dim=1, keepdim=True) / total
    variance = (weight * x_centred.square()).sum(dim=1)
    return (weight * x_centred * y_centred).sum(dim=1) / variance.clamp_min(1e-30)
