"""Imports of what training needs without what it does not: for a process that everything waits for."""

from __future__ import annotations

import sys
from types import ModuleType


def import_torchmetrics() -> None:
    """Import torchmetrics, as Lightning would, without scipy.signal: a quarter of all that a trial imports.

    torchmetrics imports that only to give it a `hamming` for the package SRMRpy; it would have to be there before that metric
    is used. Who imports scipy.signal himself gets the real one.
    """
    if "scipy.signal" in sys.modules or "torchmetrics" in sys.modules:
        return
    stand_in = ModuleType("scipy.signal")
    stand_in.hamming = None  # type: ignore[attr-defined]
    sys.modules["scipy.signal"] = stand_in
    try:
        import torchmetrics  # noqa: F401
    finally:
        del sys.modules["scipy.signal"]
