"""Processes that are killed: the driver at random instants, a trial, the server that forks trials, a worker; two drivers."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.faults.fault import Fault, Outcome, line_with
from benchmarks.faults.process_tree import descendants
from benchmarks.faults.workshop import HOLD_EPOCH, Command, Workshop, check, ended, epochs, trials
from sweeps.ledger import Ledger


def killed_drivers(workshop: Workshop, kills: int = 20, seed: int = 7) -> Outcome:
    """The driver is killed `kills` times over one sweep, at instants drawn evenly: while it starts, and for a third of that
    time while its trials run. After each, all that had ended must be as it was."""
    widths, rng = 12, random.Random(seed)
    truth, space, ledger = workshop.truth(widths), workshop.space("killed", widths), workshop.ledger("killed")

    def again() -> tuple[str, str | Path]:
        return ("resume", "killed") if ledger.exists() else ("run", space)

    before: dict = {}
    lost = 0
    for done in range(kills):
        workshop.hold("killed", 2 * (done + 1))  # of 48, so that the sweep outlives the kills wherever its trials are fast
        _kill_at(rng.uniform(0.1, 4 / 3), ledger, workshop.start(*again()), workshop.start_seconds)
        now = ended(workshop.ledger("killed"))
        lost += sum(now.get(number) != facts for number, facts in before.items())
        before = now
    workshop.release("killed")
    status, output = workshop.run(*again())
    found = check(workshop.ledger("killed"), before, truth)
    going = f"{kills} kills while {len(before)} of {len(truth)} trials ended, {lost} of them lost on the way"
    return Outcome.of(line_with(output, "trials ended", "have ended"), found, status == lost == 0, going)


def _kill_at(instant: float, ledger: Ledger, command: Command, start_seconds: float) -> None:
    """Kill a driver. Args: instant: in units of `start_seconds`; what lies beyond 1 is counted from its first epoch on."""
    if instant > 1:
        known = epochs(ledger)
        command.wait_for(lambda: epochs(ledger) != known)
    time.sleep((instant - (instant > 1)) * start_seconds)
    output = command.kill()
    if command.process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"it ended before it was killed:\n{output}")


def killed_trial(workshop: Workshop) -> Outcome:
    """One trial's process is killed; `retry` runs it again."""
    truth = workshop.truth()
    command, ledger = workshop.under_way("trial")
    os.kill(_held_trial(command, ledger), signal.SIGKILL)
    workshop.release("trial")
    command.end()
    told = next(trial.user_attrs["verdict"]["reason"] for trial in trials(ledger) if trial.state.name == "FAIL")
    before = ended(ledger)
    rest = check(ledger, {}, truth, except_for=1)
    status, output = workshop.run("retry", "trial")
    retried = line_with(output, "are run again")
    right = rest.sound and status == 0 and "(lost)" in retried and len(trials(ledger)) == len(truth) + 1
    return Outcome.of(f"{told}; `make retry`: {retried}", check(ledger, before, truth), right, "the killed one was run again")


def killed_server(workshop: Workshop) -> Outcome:
    """The process that forks a node's trials is killed, and its trial with it."""
    return _slot_killed(workshop, "server", "-m sweeps.process")


def killed_worker(workshop: Workshop) -> Outcome:
    """Ray's worker process that holds a slot is killed."""
    return _slot_killed(workshop, "worker", "ray::TrialActor")


def _slot_killed(workshop: Workshop, name: str, what: str) -> Outcome:
    truth = workshop.truth()
    command, ledger = workshop.under_way(name)
    before = ended(ledger)
    os.kill(next(pid for pid, line in command.below().items() if what in line), signal.SIGKILL)
    workshop.release(name)
    status, output = command.end()
    again = sum("goes on from" in file.read_text() for file in ledger.trials_directory.glob("*/stdout.log"))
    told = line_with(output, "lost its process", "goes on in another", "trials ended")
    went_on = f"{again} {'trial' if again == 1 else 'trials'} went on from the last checkpoint"
    return Outcome.of(told, check(ledger, before, truth), status == 0, went_on)


def _held_trial(command: Command, ledger: Ledger) -> int:
    """The process of a trial that is held: what a server has forked, and writes into its trial's log."""
    done = epochs(ledger)
    for server in (pid for pid, line in command.below().items() if "-m sweeps.process" in line):
        for child in descendants(server):
            with suppress(OSError):  # it has ended meanwhile
                log = Path(os.readlink(f"/proc/{child}/fd/1"))
                if log.name == "stdout.log" and done.get(int(log.parent.name)) == HOLD_EPOCH:
                    return child
    raise RuntimeError(f"no process holds a log of {ledger.name}: {command.below()}")


def interrupted(workshop: Workshop) -> Outcome:
    """SIGTERM, as from Ctrl-C, a closed terminal or a scheduler that ends a job."""
    truth = workshop.truth()
    ledger, status, output = workshop.interrupted("interrupted")
    before = ended(ledger)
    again, _ = workshop.run("resume", "interrupted")
    return Outcome.of(line_with(output, "interrupted."), check(ledger, before, truth), (status, again) == (130, 0))


def two_drivers(workshop: Workshop) -> Outcome:
    """While a driver runs a sweep, another is started on it."""
    truth = workshop.truth()
    command, ledger = workshop.under_way("held")
    refused, output = workshop.run("resume", "held")
    workshop.release("held")
    status, _ = command.end()
    return Outcome.of(line_with(output, "error"), check(ledger, {}, truth), (status, refused) == (0, 2))


def two_sweeps(workshop: Workshop) -> Outcome:
    """Two sweeps run at once on one machine, each with a Ray of its own."""
    truth = workshop.truth()
    both = [workshop.start("run", workshop.space(name)) for name in ("first", "second")]
    ends = [command.end() for command in both]
    found = [check(workshop.ledger(name), {}, truth) for name in ("first", "second")]
    told = " / ".join(line_with(output, "trials ended") for _, output in ends)
    bad = next((each for each in found if not each.sound), found[0])
    return Outcome.of(told, bad, all(status == 0 for status, _ in ends), "both of them")


FAULTS = (
    Fault("driver killed", "SIGKILL at 20 random instants over one sweep, each followed by `make resume`", killed_drivers),
    Fault("trial killed", "SIGKILL of one trial's process", killed_trial),
    Fault("process server killed", "SIGKILL of the process that forks a node's trials", killed_server),
    Fault("worker killed", "SIGKILL of the Ray worker that holds a slot", killed_worker),
    Fault("interrupted", "SIGTERM to the driver, then `make resume`", interrupted),
    Fault("two drivers", "a second driver on a sweep that runs", two_drivers),
    Fault("two sweeps", "two sweeps at once on one machine", two_sweeps),
)
