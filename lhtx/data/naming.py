"""The directory name of a VIMH dataset: what it claims, and how it is made. The name is a hint; it opens no file."""

import re
from dataclasses import dataclass

_SIZE = re.compile(r"(?:^|-)vimh-(?P<height>\d+)x(?P<width>\d+)(?:x(?P<channels>\d+))?(?=_|$)")
_PARTS = {
    "sample_rate": re.compile(r"(\d+)Hz"),
    "duration": re.compile(r"(\d+(?:p\d+)?)s"),
    "samples": re.compile(r"(\d+)dss"),
    "parameters": re.compile(r"(\d+)p"),
}


@dataclass(frozen=True)
class NameHint:
    """What a directory name says; None where it says nothing. `sample_rate` in Hz, `duration` in seconds."""

    height: int | None = None
    width: int | None = None
    channels: int | None = None
    samples: int | None = None
    parameters: int | None = None
    sample_rate: int | None = None
    duration: float | None = None


def parse_name(name: str) -> NameHint:
    """Read `[prefix-]vimh-{H}x{W}[x{C}]_{rate}Hz_{duration}s_{n}dss_{source}_{k}p`; a missing part stays None.

    A size of two numbers means one channel, and `1p0s` means 1.0 s. A name without the size says nothing at all.
    """
    size = _SIZE.search(name)
    if size is None:
        return NameHint()
    found: dict[str, float | int] = {key: int(value or 1) for key, value in size.groupdict().items()}
    for word in name[size.end() :].split("_"):
        for key, pattern in _PARTS.items():
            if match := pattern.fullmatch(word):
                text = match[1]
                found.setdefault(key, float(text.replace("p", ".")) if key == "duration" else int(text))
    return NameHint(**found)


def dataset_name(
    height: int, width: int, channels: int, sample_rate: int, duration: float, samples: int, source: str, parameters: int
) -> str:
    """The directory name that `parse_name` reads back, as `vimh-32x32x3_8000Hz_1p0s_256dss_simple_2p`."""
    seconds = repr(float(duration)).replace(".", "p")
    return f"vimh-{height}x{width}x{channels}_{sample_rate}Hz_{seconds}s_{samples}dss_{source}_{parameters}p"
