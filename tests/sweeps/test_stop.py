"""Stopping a sweep from another terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from sweeps.errors import LedgerError
from sweeps.ledger import Ledger
from sweeps.stop import stop

DRIVER = """
import sys, time
from sweeps.interruption import Interruption
from sweeps.ledger import Ledger
with Interruption() as interruption, Ledger("held", sys.argv[1]).lock():
    print("held", flush=True)
    while not interruption.requested:
        time.sleep(0.01)
    print("asked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def ledger(tmp_path):
    ledger = Ledger("held", tmp_path)
    ledger.directory.mkdir()
    ledger.write_manifest({"name": "held"})
    return ledger


@pytest.fixture
def driver(ledger):
    """A process that holds the sweep until it is asked to stop and then reads a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, ledger.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_running_sweep_is_asked_once_however_often_and_waited_for(ledger, driver, console):
    for _ in range(3):  # it is not hurried: the second and the third change nothing
        stop(ledger, console, wait=False)
    assert driver.stdout.readline() == "asked\n"
    stop(ledger, console, wait=True, pause=lambda seconds: driver.communicate("end\n") if driver.poll() is None else None)
    assert driver.returncode == 0
    printed = console.file.getvalue().splitlines()
    assert printed[0] == f"held: asked process {driver.pid} on {os.uname().nodename} to stop"
    assert printed[-1] == f"held has stopped. Go on with: make resume NAME=held RUNS={ledger.root}"
    stop(ledger, console)
    assert console.file.getvalue().splitlines()[-1] == "held is not running"


def test_a_holder_that_was_killed_runs_nothing(ledger, driver, console):
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert (ledger.directory / ".holder").exists()
    assert ledger.holder() is None
    stop(ledger, console)
    assert console.file.getvalue() == "held is not running\n"


def test_a_sweep_of_another_machine_is_stopped_there(ledger, console):
    with ledger.lock():
        (ledger.directory / ".holder").write_text("process 12 on elsewhere\n")
        with pytest.raises(LedgerError, match=r"run by process 12 on elsewhere, another machine .*run `make stop NAME=held"):
            stop(ledger, console)
