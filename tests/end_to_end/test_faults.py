"""Every fault of docs/reliability.md, under a real sweep each."""

from __future__ import annotations

import pytest

from benchmarks.faults.__main__ import BEGIN, END, FAULTS, PAGE, made, row, table, written
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.workshop import Check, Workshop


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("faults").resolve())


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost(fault: Fault, workshop: Workshop):
    outcome = made(fault, workshop)
    assert outcome.sound, f"{outcome.after}\n{outcome.told}"
    assert outcome.told


def test_the_page_has_a_row_for_every_fault():
    rows = written(PAGE.read_text())
    assert list(rows) == [fault.name for fault in FAULTS]
    assert not any("NOT WHAT" in row or "could not be made" in row for row in rows.values())


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (Check(0, 0, 0, 0), "complete; every value as without the fault"),
        (Check(1, 2, 3, 4), "1 lost, 2 counted twice, 3 with other values, 4 missing"),
    ],
)
def test_what_was_not_kept_is_said(check: Check, text: str):
    outcome = Outcome.of("what | it said", check)
    assert (outcome.after, outcome.sound) == (text, check.sound)
    assert not Outcome.of("told", check, as_expected=False).sound
    shown = row(Fault("name", "what", lambda workshop: outcome), outcome)
    assert shown == f"| name | what | what \\| it said | {text} |"
    assert written(f"{BEGIN}\n{table([shown])}{END}") == {"name": shown}
