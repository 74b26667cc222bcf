"""What can happen to a sweep's files: a full disk, a directory that may not be written, damage, an edited search space, a clock
that was set back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import libfaketime

from benchmarks.faults.fault import Fault, Outcome, line_with
from benchmarks.faults.workshop import Command, Workshop, check, ended, epochs
from lhtx.files import write_atomically
from sweeps.ledger import Ledger

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def full_disk(workshop: Workshop) -> Outcome:
    """The sweep's file system runs full; room is made, the sweep resumed, its failures retried."""
    truth = workshop.truth()
    script = [*NAMESPACE, sys.executable, "-m", "benchmarks.faults.full_disk", str(workshop.directory), "full"]
    _, output = Command(script).end()
    seen = json.loads(output.splitlines()[-1])
    ledger = Ledger("full", workshop.directory / "kept")
    kept = {number: facts for number, facts in ended(ledger).items() if number in seen["before"]}
    told = line_with(seen["output"], "cannot be written", "No space left")
    right = seen["status"] == 2 and len(kept) == len(seen["before"]) and all(status == 0 for status, _ in seen["again"])
    return Outcome.of(told, check(ledger, kept, truth), right)


def read_only(workshop: Workshop) -> Outcome:
    """The sweep's directory may not be written: it can be looked at, and nothing else."""
    truth, ledger = workshop.truth(), _stopped(workshop, "locked")
    before = ended(ledger)
    bind = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'
    inside = [*NAMESPACE, "sh", "-c", bind, "sh", str(workshop.runs), sys.executable, "-m", "sweeps"]
    refused, output = Command([*inside, "resume", "locked", "--runs", str(workshop.runs)]).end()
    looked, seen = Command([*inside, "status", "locked", "--runs", str(workshop.runs)]).end()
    status, _ = workshop.run("resume", "locked")
    right = (refused, looked, status) == (2, 0, 0) and "interrupted" in seen
    return Outcome.of(line_with(output, "error"), check(ledger, before, truth), right, "`make status` works meanwhile")


def truncated_study(workshop: Workshop) -> Outcome:
    """Half of the study's file is gone: nothing goes on, and nothing is written over it."""
    truth, ledger = workshop.truth(), _stopped(workshop, "halved")
    before, study = ended(ledger), ledger.directory / "study.db"
    content = study.read_bytes()
    study.write_bytes(content[: len(content) // 2])
    refused, output = workshop.run("resume", "halved")
    left = study.read_bytes() == content[: len(content) // 2]
    study.write_bytes(content)
    status, _ = workshop.run("resume", "halved")
    found = check(workshop.ledger("halved"), before, truth)
    return Outcome.of(line_with(output, "error"), found, (refused, left, status) == (2, True, 0), "once the file was restored")


def damaged_history(workshop: Workshop) -> Outcome:
    """A row of a finished trial's history is not a row: refused; without the file the sweep goes on."""
    truth, ledger = workshop.truth(), _stopped(workshop, "scratched")
    before = ended(ledger)
    history = ledger.trial(min(before)).history
    text = history.read_text()
    history.write_text(text.replace("\n3,", "\nthree,", 1))
    refused, output = workshop.run("resume", "scratched")
    history.write_text(text)
    status, _ = workshop.run("resume", "scratched")
    found = check(workshop.ledger("scratched"), before, truth)
    return Outcome.of(line_with(output, "error"), found, (refused, status) == (2, 0), "once the row was mended")


def truncated_checkpoint(workshop: Workshop) -> Outcome:
    """The last checkpoint of an interrupted trial is cut short: that trial alone fails, and can be retried."""
    truth, ledger = workshop.truth(), _stopped(workshop, "cut")
    before = ended(ledger)
    files = next(ledger.trial(number) for number in sorted(epochs(ledger)) if number not in before)
    files.last_checkpoint.write_bytes(files.last_checkpoint.read_bytes()[:1000])
    workshop.run("resume", "cut")
    told = next(trial for trial in workshop.ledger("cut").study().get_trials() if trial.state.name == "FAIL")
    status, output = workshop.run("retry", "cut")
    found = check(workshop.ledger("cut"), before, truth)
    reason = told.user_attrs["verdict"]["reason"]
    return Outcome.of(f"{reason}; `make retry`: {line_with(output, 'are run again')}", found, status == 0)


def edited_space(workshop: Workshop) -> Outcome:
    """A range is edited between run and resume, which is refused; the number of trials is, which is taken over."""
    truth, ledger = workshop.truth(), _stopped(workshop, "edited")
    before, space = ended(ledger), workshop.directory / "edited.yaml"
    text = space.read_text()
    space.write_text(text.replace("[0.5, 0.75]", "[0.5, 0.85]"))
    refused, output = workshop.run("resume", "edited")
    space.write_text(text.replace("description: A small grid", "description: A grid"))
    status, shown = workshop.run("resume", "edited")
    found = check(workshop.ledger("edited"), before, truth)
    told = f"{line_with(output, 'error')} {line_with(output, '→')} / {line_with(shown, 'changed')}"
    return Outcome.of(told, found, (refused, status) == (2, 0))


def clock_set_back(workshop: Workshop) -> Outcome:
    """The machine's clock is set back by an hour in mid-sweep."""
    truth = workshop.truth()
    clock = workshop.directory / "clock"
    clock.write_text("+0\n")
    command, _ = workshop.under_way(
        "clock",
        {
            "LD_PRELOAD": str(next(Path(libfaketime.__file__).parent.rglob("libfaketime.so.1"))),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )
    write_atomically(clock, "-3600\n")
    workshop.release("clock")
    status, output = command.end()
    shown, seen = workshop.run("status", "clock")
    right = (status, shown) == (0, 0) and "-" not in line_with(seen, "left")
    return Outcome.of(line_with(output, "trials ended"), check(workshop.ledger("clock"), {}, truth), right)


def _stopped(workshop: Workshop, name: str) -> Ledger:
    """A sweep that was interrupted after some trials had ended, while others were in mid-course."""
    ledger, _, _ = workshop.interrupted(name)
    return ledger


FAULTS = (
    Fault("disk full", "the file system of `runs/` is filled to the last byte", full_disk),
    Fault("read-only directory", "`runs/` is mounted read-only", read_only),
    Fault("study truncated", "half of `study.db` is cut off", truncated_study),
    Fault("history damaged", "a row of a `history.csv` is overwritten", damaged_history),
    Fault("checkpoint truncated", "an interrupted trial's `last.ckpt` is cut short", truncated_checkpoint),
    Fault("search space edited", "a range, then the description, between run and resume", edited_space),
    Fault("clock set back", "by an hour, in mid-sweep", clock_set_back),
)
