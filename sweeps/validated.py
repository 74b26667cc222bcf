"""What the deep validation of a search space has found, for a terminal, and as it is sent from the process that
validates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Sizes:
    """Parameter counts of one architecture over the composed settings that the constraints accept."""

    minimum: int
    median: int
    maximum: int


@dataclass(frozen=True)
class Validation:
    """What a sound search space would run."""

    parameters: int
    conditional: int
    """How many of the parameters have a condition."""
    constraints: int
    rejected: float
    """Estimated share of draws that the constraints reject."""
    sizes: Mapping[str, Sizes]
    """By the network's class."""
    composed: int
    """How many configs were composed."""
    seconds: float
    notes: tuple[str, ...] = ()
    """What a reader of the space should know before running it."""
    group_size: int = 1
    """At most so many trials train as one network."""

    def in_all(self, seconds: float) -> Validation:
        """The same, having taken `seconds`."""
        return replace(self, seconds=seconds)


def validation_of(fields: Mapping[str, Any]) -> Validation:
    """A validation from what `dataclasses.asdict` has made of it, by way of JSON."""
    sizes = {name: Sizes(**found) for name, found in fields["sizes"].items()}
    return Validation(**{**fields, "sizes": sizes, "notes": tuple(fields["notes"])})


def render(validation: Validation) -> RenderableType:
    """The validation for a terminal."""
    conditional = f" ({validation.conditional} conditional)" if validation.conditional else ""
    lines = [f"{validation.parameters} parameters{conditional}, {validation.composed} configs composed: all sound"]
    if validation.constraints:
        lines.append(f"{validation.constraints} constraints reject {validation.rejected:.0%} of draws")
    table = Table("network", "smallest", "median", "largest")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, sizes in validation.sizes.items():
        table.add_row(name, f"{sizes.minimum:,}", f"{sizes.median:,}", f"{sizes.maximum:,}")
    return Group(*lines, *(Text(f"note: {note}", style="yellow") for note in validation.notes), table)
