"""Whether the trials of a search space can train as one network, and how many of them do. Part of `validation.py`: it composes
configs and builds networks."""

from __future__ import annotations

from collections.abc import Sequence

from lhtx.compose import compose
from lhtx.fused import can_fuse
from sweeps.hydra_overrides import Scalar
from sweeps.located_yaml import KeyPath
from sweeps.proposals import assemble
from sweeps.schema import SearchSpace
from sweeps.space_checks import unfusable

AUTO = 16
"""How many `fuse: auto` puts together: more gained little (docs/fused.md)."""
AUTO_PARAMETERS = 100_000
"""Networks up to this size do so under `fuse: auto`: a step of larger ones is mostly arithmetic, which nothing is gained by."""


def refused(space: SearchSpace, settings: Sequence[dict[str, Scalar]]) -> list[tuple[KeyPath, str]]:
    """Why trials cannot train as one: the place in the space, and the reason.

    Args: settings: some that the space holds, together with all ends of its parameters.

    Raises:
        ConfigError, DatasetError: one of them does not compose.
    """
    if found := list(unfusable(space.stopping.scheduler, space.parameters)):
        return found
    configs = [compose(assemble(space, setting, number)) for number, setting in enumerate(settings)]
    return [(_place(space, reason), reason) for reason in can_fuse(configs)]


def _place(space: SearchSpace, reason: str) -> KeyPath:
    """The parameter that a reason begins with, if it does."""
    key = reason.split(" ", 1)[0].rstrip(",")
    return ("space", key) if key in space.parameters else ("fuse",)


def size(space: SearchSpace, reasons: Sequence[tuple[KeyPath, str]], parameters: int) -> tuple[int, str]:
    """How many train as one under `fuse: auto`, and why. Args: reasons: against it. parameters: of the largest network."""
    if reasons:
        return 1, f"fuse: every trial has a process of its own: {reasons[0][1]}"
    if parameters > AUTO_PARAMETERS:
        return 1, (
            f"fuse: every trial has a process of its own: networks have up to {parameters:,} parameters, and more than "
            f"{AUTO_PARAMETERS:,} gain little (set `fuse: {AUTO}` to have it all the same)"
        )
    return AUTO, f"fuse: up to {AUTO} trials train as one network"
