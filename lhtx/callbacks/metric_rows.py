"""Arranges the metrics of a run for people: the loss, one row a head, the average, the best, and the gradient's own line.

It reads metric names and nothing else; what a terminal can show is the business of `lhtx.callbacks.progress`.
"""

import math
from collections.abc import Mapping

SPLITS = ("train", "val", "test")
MEASURES = ("acc", "mae")
AVERAGE = "average"
BEST = "best"
GRADIENTS = ("epoch_mean", "snr", "evidence", "noise_scale", "cosine")
"""The gradient statistics that are shown, in this order, of those that were collected."""

Row = dict[str, dict[str, float]]
"""Split → measure → value. The measure of a plain number, such as the loss, is empty."""


def rows(metrics: Mapping[str, float]) -> dict[str, Row]:
    """Metrics by what they measure: `loss`, each head, `average`, `best`, then whatever else there is.

    With one head `acc`, `avg_acc` and the like repeat the head's own value and are left out. Those of `grad/` are for
    `gradients`.

    >>> rows({"val/loss": 1.0, "val/pitch_acc": 0.5, "val/pitch_mae": 2.0, "val/acc": 0.5, "val/avg_acc": 0.5})
    {'loss': {'val': {'': 1.0}}, 'pitch': {'val': {'acc': 0.5, 'mae': 2.0}}}
    """
    found: dict[str, Row] = {}
    heads: set[str] = set()
    for name, value in metrics.items():
        split, _, rest = name.partition("/")
        if split not in SPLITS:
            continue
        row, measure = _place(rest)
        if row not in (AVERAGE, BEST) and measure:
            heads.add(row)
        found.setdefault(row, {}).setdefault(split, {})[measure] = value
    repeated = {*MEASURES, AVERAGE} if len(heads) == 1 else set()
    order = {"loss": 0, AVERAGE: 2, BEST: 3}
    kept = [row for row in found if row not in repeated]
    return {row: found[row] for row in sorted(kept, key=lambda row: order.get(row, 1 if row in heads else 4))}


def _place(name: str) -> tuple[str, str]:
    """The row and the measure of a metric's name without its split."""
    head, _, measure = name.rpartition("_")
    if head and measure in MEASURES:
        return (AVERAGE if head == "avg" else head), measure
    if measure == BEST and head in MEASURES:
        return BEST, head
    return name, ""


def gradients(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of `GRADIENTS` that were collected and are defined; `finite` is added, as 0, where a gradient was not finite."""
    named = {name: metrics.get(f"grad/{name}", math.nan) for name in GRADIENTS}
    broken = {"finite": 0.0} if metrics.get("grad/finite") == 0 else {}
    return {name: value for name, value in named.items() if not math.isnan(value)} | broken


def number(value: float) -> str:
    """A value to four significant digits."""
    return f"{value:.4g}"


def cell(measures: Mapping[str, float]) -> str:
    """The measures of one row and split, as `acc 0.51  mae 2.3`."""
    return "  ".join(f"{measure} {number(value)}".strip() for measure, value in measures.items())


def line(metrics: Mapping[str, float]) -> str:
    """All of it in one line: split by split, each row by its name, the gradient last.

    >>> line({"train/loss": 2.0, "val/loss": 1.0, "val/pitch_acc": 0.5, "grad/snr": 3.25})
    'train: loss 2 | val: loss 1, pitch acc 0.5 | grad: snr 3.25'
    """
    table = rows(metrics)
    parts = []
    for split in SPLITS:
        shown = [f"{row} {cell(splits[split])}" for row, splits in table.items() if split in splits]
        if shown:
            parts.append(f"{split}: {', '.join(shown)}")
    if grad := gradients(metrics):
        parts.append(f"grad: {', '.join(f'{name} {number(value)}' for name, value in grad.items())}")
    return " | ".join(parts)
