"""What a run says of itself while it trains. Knows nothing of who listens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochReport:
    """One epoch of a run.

    `epoch` counts from 1, `seconds` from the run's (last) start, `parameters` is the network's size. A run that goes on from a
    checkpoint says first, `repeated`, what that holds.
    """

    epoch: int
    max_epochs: int
    parameters: int
    seconds: float
    metrics: dict[str, float]
    repeated: bool = False
