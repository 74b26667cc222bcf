"""The names of an image's channels, and their selection by name or shell pattern."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from lhtx.errors import ConfigError

_USUAL = {1: ("Gray",), 3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}


def default_labels(channels: int) -> tuple[str, ...]:
    """The labels of a dataset that gives none: Gray; R, G, B; R, G, B, A; else Ch0 … ChN-1."""
    return _USUAL.get(channels, tuple(f"Ch{channel}" for channel in range(channels)))


def derived_label(label: str, kind: str) -> str:
    """The label of a channel computed from another one, as `R_temporal_envelope` from `R`."""
    return f"{label}_{kind}"


def select(labels: Sequence[str], patterns: Sequence[str] | None) -> list[int]:
    """Indices of the channels that any pattern matches, in stored order; None selects all.

    Patterns are names or shell patterns (`R*`, `*_temporal_envelope`), and case counts. Raises `ConfigError`, listing the
    labels, where a pattern matches nothing or there is no pattern at all.
    """
    if patterns is None:
        return list(range(len(labels)))
    if isinstance(patterns, str) or not patterns:
        raise ConfigError(
            f"channel_selection is {patterns!r}; expected a list of names or patterns, or null for every channel "
            f"of {', '.join(labels)}"
        )
    for pattern in patterns:
        if not any(_matches(label, pattern) for label in labels):
            raise ConfigError(f"channel_selection: {pattern!r} matches no channel; the channels are {', '.join(labels)}")
    return [i for i, label in enumerate(labels) if any(_matches(label, pattern) for pattern in patterns)]


def _matches(label: str, pattern: str) -> bool:
    return label == pattern or fnmatchcase(label, pattern)
