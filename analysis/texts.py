"""Values as a reader reads them. It knows no frame and no report."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.frames import SIZE, Objective

NOTHING = "–"


def text(value: Any) -> str:
    """A value for a reader: four significant digits, a dash for what is not there.

    >>> text(0.123456), text(3), text(1e-5), text(float("nan")), text(None), text(True)
    ('0.1235', '3', '1e-05', '–', '–', 'True')
    """
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def thousands(count: Any) -> str:
    """A whole number in groups of three digits.

    >>> thousands(64000), thousands(None)
    ('64\u202f000', '–')
    """
    return NOTHING if pd.isna(count) else f"{int(count):,}".replace(",", "\u202f")


def amount(objective: Objective, value: Any) -> str:
    """A value of an objective: the network's size is a whole number."""
    return thousands(value) if objective.metric == SIZE else text(value)


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(4.26), duration(42.4), duration(150), duration(7300), duration(float("nan"))
    ('4.3 s', '42 s', '2 min 30 s', '2 h 1 min', '–')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "trial"), counted(3, "trial")
    ('1 trial', '3 trials')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def listed(parts: list[str]) -> str:
    """Several things in a sentence.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
