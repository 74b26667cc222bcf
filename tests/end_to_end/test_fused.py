"""Whole sweeps whose trials train as one: real Ray, real processes, real kills."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.process_tree import descendants
from lhtx.checkpoints import load_checkpoint
from sweeps.ledger import Ledger, read_history
from sweeps.manifest import cpus

SPACE = """
description: A sweep of small networks that train as one.
trial:
  - data=digits
  - model=digits_mlp
  - logger=none
  - model.net.lin1_size=12
  - trainer.limit_train_batches=4
  - trainer.max_epochs={epochs}
objective: {{metric: val/avg_acc, mode: max}}
space:
  model.optimizer.lr: {{log_uniform: [1.0e-4, 1.0e-1]}}
  model.net.dropout: {{uniform: [0.0, 0.4]}}
search: {{trials: {trials}, seed: 1, sampler: random}}
stopping: {stopping}
fuse: 3
"""
ASHA = "{scheduler: asha, grace_epochs: 1, reduction_factor: 2}"
FIFO = '{scheduler: fifo, guard: {mode: "off"}}'


@pytest.fixture
def space(tmp_path: Path) -> Callable[..., Path]:
    """A function: epochs, trials, the section `stopping`, and more of a search space → its file."""

    def write(epochs: int, trials: int, stopping: str = FIFO, more: str = "") -> Path:
        path = tmp_path / "fused.yaml"
        path.write_text(SPACE.format(epochs=epochs, trials=trials, stopping=stopping) + more)
        return path

    return write


def until(driver: subprocess.Popen[str], condition: Callable[[], object], seconds: float = 600) -> None:
    """Wait until a sweep that `driver` runs has come to a state."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)


def stopped_when(driver: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Stop the driver in a state of its sweep, until SIGCONT: what is to happen in that state does not come too late.

    It stands still while it is looked at, and so do trials that train as one: they wait for its answer after each epoch.
    """

    def holds() -> bool:
        driver.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, driver.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if condition():
            return True
        driver.send_signal(signal.SIGCONT)
        return False

    until(driver, holds)


def rows(ledger: Ledger) -> dict[int, list[int]]:
    """By trial, the epochs of its history."""
    histories = sorted(ledger.trials_directory.glob("*/history.csv"))
    return {int(path.parent.name): [row["epoch"] for row in read_history(path)] for path in histories}


def check(ledger: Ledger, epochs: int, trials: int) -> dict[int, str]:
    """Every trial has ended, once, and left what a trial leaves; how each of them ended."""
    found = ledger.study().get_trials()
    assert [trial.number for trial in found] == [*range(trials)]
    verdicts = {trial.number: trial.user_attrs["verdict"]["verdict"] for trial in found}
    for trial in found:
        files, told = ledger.trial(trial.number), rows(ledger)[trial.number]
        assert told == [*trial.intermediate_values] == [*range(1, len(told) + 1)]
        assert files.overrides.read_text().splitlines() == trial.user_attrs["overrides"]
        assert load_checkpoint(files.last_checkpoint)["epoch"] == len(told) - 1
        assert (files.directory / "metrics.json").exists() == (verdicts[trial.number] == "finished")
        if verdicts[trial.number] == "finished":
            assert len(told) == epochs
            assert "test/avg_acc" in trial.user_attrs["metrics"]
    return verdicts


def groups(ledger: Ledger, driver: int) -> list[int]:
    """The processes in which trials train: what a server has forked, and writes into the log of a trial."""
    servers = [pid for pid, name in descendants(driver).items() if "sweeps.process" in name]
    found = []
    for child in {child for server in servers for child in descendants(server)}:
        try:
            log = Path(os.readlink(f"/proc/{child}/fd/1"))
        except OSError:
            continue  # it has ended meanwhile
        if log.is_relative_to(ledger.trials_directory.resolve()):
            found.append(child)
    return found


@pytest.mark.slow
def test_trials_that_train_as_one_end_each_for_itself(command, space, tmp_path):
    two_at_a_time = f"resources: {{cpu: {max(1, cpus() // 2)}}}\n"
    status, output = command("sweeps", "run", space(3, 7, ASHA, two_at_a_time), "--runs", tmp_path)
    assert status == 0, output
    assert "groups of up to 3 at a time" in output
    assert "7 of 7 trials ended" in output
    ledger = Ledger("fused", tmp_path)
    verdicts = check(ledger, 3, 7)
    assert set(verdicts.values()) == {"finished", "outranked"}
    logs = [ledger.trial(number).log.read_text() for number in verdicts]
    assert sum("trains with others" in log for log in logs) >= 4, "at most three groups have a log of their own"


@pytest.mark.slow
def test_a_killed_driver_of_fused_trials_loses_nothing_and_repeats_nothing(start, command, space, tmp_path):
    ledger = Ledger("fused", tmp_path)
    driver = start("sweeps", "run", space(60, 8), "--runs", ledger.root)
    stopped_when(driver, lambda: sum(15 < len(epochs) < 60 for epochs in rows(ledger).values()) >= 2)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    number = next(number for number, epochs in rows(ledger).items() if 15 < len(epochs) < 60)
    status, output = command("sweeps", "resume", "fused", "--runs", ledger.root)
    assert status == 0, output
    assert set(check(ledger, 60, 8).values()) == {"finished"}
    assert f"trial {number} goes on from" in "".join(path.read_text() for path in ledger.trials_directory.glob("*/stdout.log"))
    status, output = command("sweeps", "reproduce", "fused", number, "--runs", ledger.root)
    assert (status, "reproduced" in output) == (0, True), output


@pytest.mark.slow
def test_when_the_process_of_a_group_is_killed_its_trials_go_on_one_by_one(start, space, tmp_path):
    ledger = Ledger("fused", tmp_path)
    driver = start("sweeps", "run", space(30, 3, more=f"resources: {{cpu: {cpus()}}}\n"), "--runs", ledger.root)
    stopped_when(driver, lambda: sum(5 < len(epochs) < 30 for epochs in rows(ledger).values()) == 3)
    (process,) = groups(ledger, driver.pid)
    os.kill(process, signal.SIGKILL)
    driver.send_signal(signal.SIGCONT)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, output
    assert set(check(ledger, 30, 3).values()) == {"finished"}
    for number in range(3):
        assert f"trial {number} leaves its group, and goes on by itself: killed by SIGKILL" in output
        assert f"trial {number} goes on from" in ledger.trial(number).log.read_text()


@pytest.mark.slow
def test_fused_trials_whose_files_are_copied_to_nodes(start, space, tmp_path):
    """Also when the actor that runs a group is lost, and with trials that join on the way."""
    ledger = Ledger("fused", tmp_path)
    more = "resources: {trial_files: node}\n"
    driver = start("sweeps", "run", space(40, 9, ASHA, more), "--runs", ledger.root)
    training: list[int] = []

    def find_training() -> bool:
        """The actors of groups that train: the trials of another may all have ended."""
        names = descendants(driver.pid) if any(len(epochs) > 4 for epochs in rows(ledger).values()) else {}
        training[:] = [pid for pid, name in names.items() if re.match(r"ray::(TrialActor|_Inner)\.train", name)]
        return bool(training)

    until(driver, find_training)
    os.kill(training[0], signal.SIGKILL)
    output, _ = driver.communicate(timeout=600)
    assert driver.returncode == 0, output
    assert "lost its process: it goes on from its last checkpoint" in output
    verdicts = check(ledger, 40, 9)
    assert set(verdicts.values()) == {"finished", "outranked"}
    for number, verdict in verdicts.items():
        assert str(ledger.trial(number).directory) in ledger.trial(number).config.read_text()
        if verdict == "finished":
            best = load_checkpoint(ledger.trial(number).checkpoints / "best.ckpt")["callbacks"]
            paths = [state["best_model_path"] for name, state in best.items() if name.startswith("ModelCheckpoint")]
            assert str(ledger.trial(number).checkpoints / "best.ckpt") in paths
