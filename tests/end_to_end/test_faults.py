"""Every fault of docs/reliability.md, under a real sweep each."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.faults import ports
from benchmarks.faults.__main__ import BEGIN, END, FAULTS, PAGE, made, row, table, written
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.gate import Gate
from benchmarks.faults.workshop import Check, Command, Workshop


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


@pytest.mark.parametrize(
    ("number", "epoch", "held"), [("0001", 9, False), ("0002", 3, False), ("0002", 4, True), ("0012-7_1", 9, True)]
)
def test_a_trial_is_held_in_mid_course_until_it_is_let_go(tmp_path: Path, number: str, epoch: int, held: bool):
    workshop = Workshop(tmp_path)
    workshop.hold("mine")
    trainer = SimpleNamespace(default_root_dir=f"/runs/trials/{number}", current_epoch=epoch)
    gate = Gate(str(tmp_path / "mine.gate"), 4)
    passing = threading.Thread(target=gate.on_train_epoch_start, args=(trainer, None), daemon=True)
    passing.start()
    passing.join(0.2 if held else None)
    assert passing.is_alive() == held
    workshop.release("mine")
    passing.join()


def test_a_fault_that_cannot_be_made_leaves_nothing_that_runs_or_is_held(tmp_path: Path):
    started = []

    def make(workshop: Workshop) -> Outcome:
        workshop.hold("mine")
        started.append(workshop.start("--help"))
        raise RuntimeError("the disk does not fill")

    outcome = made(Fault("name", "what", make), Workshop(tmp_path))
    assert (outcome.told, outcome.after, outcome.sound) == ("RuntimeError: the disk does not fill", "could not be made", False)
    assert started[0].process.poll() is not None
    assert not list(tmp_path.glob("*.gate"))


def test_a_command_that_ends_too_early_says_all_that_it_printed(tmp_path: Path):
    command = Command([sys.executable, "-c", "print('first', flush=True); input()"])
    command.wait_for(lambda: b"first" in command.heard())
    with pytest.raises(RuntimeError, match=r"(?s)too early.*first.*EOFError"):
        command.wait_for(lambda: False)


def test_ports_are_free_and_the_system_does_not_give_them_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ports, "EPHEMERAL", tmp_path / "range")
    (tmp_path / "range").write_text("20003\t65530\n")
    with socket.socket() as taken:
        found = ports.free_ports(3)
        taken.bind(("127.0.0.1", found[0]))
        assert found[0] not in ports.free_ports(3)
    assert set(found) <= {*range(20000, 20003), *range(65531, 65536)}
    with pytest.raises(OSError, match="not even 9 of 8 ports"):
        ports.free_ports(9)
