"""Amounts of memory as people write them, `4 GiB`, and as computers count them. It knows nothing of who asks for them."""

from __future__ import annotations

import re

UNITS: dict[str, int] = {
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", start=1)},
    **{f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)},
}
"""Bytes of each unit: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024."""


def parse_size(text: object) -> int:
    """The bytes that `text` says.

    >>> parse_size("4 GiB"), parse_size("1.5 GB")
    (4294967296, 1500000000)

    Raises:
        ValueError: it is not a number with a unit.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text) if isinstance(text, str) else None
    unit = next((unit for unit in UNITS if found and unit.lower() == found[2].lower()), None)
    if found is None or unit is None:
        raise ValueError(f"found {text!r}: a number with its unit is expected, as 4 GiB or 500 MB; units: {', '.join(UNITS)}")
    return round(float(found[1]) * UNITS[unit])


def size_text(size: float) -> str:
    """`size` bytes in the largest unit of 1024 that they fill.

    >>> size_text(4.3 * 2**30), size_text(4 * 2**30)
    ('4.3 GiB', '4 GiB')
    """
    unit = next((unit for unit in ("TiB", "GiB", "MiB") if size >= UNITS[unit]), "KiB")
    return f"{round(size / UNITS[unit], 1):g} {unit}"
