"""Processes that are killed: the driver at random instants, a trial, the server that forks trials, a worker; two drivers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

from benchmarks.faults.fault import Fault, Outcome, line_with
from benchmarks.faults.process_tree import descendants
from benchmarks.faults.workshop import Command, Workshop, check, ended, epochs, trials
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
        command = workshop.start(*again())
        with suppress(subprocess.TimeoutExpired):
            command.process.wait(rng.uniform(0.5, 4 / 3 * workshop.start_seconds))
            raise RuntimeError(f"after {done} kills the sweep had come to its end:\n{command.end()[1]}")
        command.kill()
        now = ended(workshop.ledger("killed"))
        lost += sum(now.get(number) != facts for number, facts in before.items())
        before = now
    status, output = workshop.run(*again())
    found = check(workshop.ledger("killed"), before, truth)
    going = f"{kills} kills while {len(before)} of {len(truth)} trials ended, {lost} of them lost on the way"
    return Outcome.of(line_with(output, "trials ended", "have ended"), found, status == lost == 0, going)


def killed_trial(workshop: Workshop) -> Outcome:
    """One trial's process is killed; `retry` runs it again."""
    truth, command = workshop.truth(), workshop.start("run", workshop.space("trial"))
    ledger = workshop.ledger("trial")
    os.kill(command.wait_for(lambda: _trial_in_mid_course(command, ledger)), signal.SIGKILL)
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
    os.kill(
        command.wait_for(lambda: next((pid for pid, line in command.below().items() if what in line), None)), signal.SIGKILL
    )
    status, output = command.end()
    again = sum("goes on from" in file.read_text() for file in ledger.trials_directory.glob("*/stdout.log"))
    told = line_with(output, "lost its process", "goes on in another", "trials ended")
    return Outcome.of(told, check(ledger, before, truth), status == 0, f"{again} trial went on from its last checkpoint")


def _trial_in_mid_course(command: Command, ledger: Ledger) -> int | None:
    """The process of a trial that has reported some epochs: what a server has forked, and writes into its trial's log."""
    done = epochs(ledger)
    for server in (pid for pid, line in command.below().items() if "-m sweeps.process" in line):
        for child in descendants(server):
            with suppress(OSError):  # it has ended meanwhile
                log = Path(os.readlink(f"/proc/{child}/fd/1"))
                if log.name == "stdout.log" and 2 < done.get(int(log.parent.name), 0) < 9:
                    return child
    return None


def interrupted(workshop: Workshop) -> Outcome:
    """SIGTERM, as from Ctrl-C, a closed terminal or a scheduler that ends a job."""
    truth = workshop.truth()
    command, ledger = workshop.under_way("interrupted")
    command.process.send_signal(signal.SIGTERM)
    status, output = command.end()
    before = ended(ledger)
    again, _ = workshop.run("resume", "interrupted")
    return Outcome.of(line_with(output, "interrupted."), check(ledger, before, truth), (status, again) == (130, 0))


def two_drivers(workshop: Workshop) -> Outcome:
    """While a driver runs a sweep, another is started on it."""
    truth, command = workshop.truth(), workshop.start("run", workshop.space("held"))
    ledger = workshop.ledger("held")
    command.wait_for(lambda: epochs(ledger))
    refused, output = workshop.run("resume", "held")
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
