"""Channel labels and their selection."""

import pytest

from lhtx.data.channels import default_labels, derived_label, select
from lhtx.errors import ConfigError

LABELS = ("R", "G", "R_temporal_envelope", "R_spectral_envelope", "G_temporal_envelope")


@pytest.mark.parametrize(
    ("channels", "labels"),
    [
        (1, ("Gray",)),
        (3, ("R", "G", "B")),
        (4, ("R", "G", "B", "A")),
        (2, ("Ch0", "Ch1")),
        (5, ("Ch0", "Ch1", "Ch2", "Ch3", "Ch4")),
    ],
)
def test_default_labels(channels: int, labels: tuple[str, ...]) -> None:
    assert default_labels(channels) == labels


@pytest.mark.parametrize(
    ("patterns", "selected"),
    [
        (None, [0, 1, 2, 3, 4]),
        (["R*", "*_temporal_envelope"], [0, 2, 3, 4]),
        (["G", "R"], [0, 1]),
        (["?"], [0, 1]),
        (["[RG]_t*"], [2, 4]),
    ],
)
def test_select_keeps_the_stored_order(patterns: list[str] | None, selected: list[int]) -> None:
    assert select(LABELS, patterns) == selected


@pytest.mark.parametrize("pattern", ["B", "r*", "*_envelopes"])
def test_a_pattern_that_matches_nothing_lists_the_labels(pattern: str) -> None:
    with pytest.raises(ConfigError) as error:
        select(LABELS, ["R", pattern])
    assert repr(pattern) in str(error.value)
    assert ", ".join(LABELS) in str(error.value)


@pytest.mark.parametrize("patterns", [[], "R"])
def test_a_selection_is_a_list(patterns: object) -> None:
    with pytest.raises(ConfigError, match="expected a list of names or patterns"):
        select(LABELS, patterns)


def test_a_label_with_brackets_can_be_named_as_it_is() -> None:
    assert select(["a[0]", "a0"], ["a[0]"]) == [0, 1]  # as a name and, as the shell has it, as a pattern


def test_derived_label() -> None:
    assert derived_label("R", "temporal_envelope") == "R_temporal_envelope"
