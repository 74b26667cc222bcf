"""A whole sweep whose study is in a PostgreSQL database: a server that stops and starts, and a password that nobody sees."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults.process_tree import descendants
from sweeps.ledger import Ledger

SPACE = """
space:
  model.optimizer.lr: {log_uniform: [1.0e-4, 1.0e-2]}
search: {trials: 4, sampler: random}
stopping: {scheduler: fifo, guard: {mode: "off"}}
"""
EPOCHS = 8


def told_by(process: int) -> bytes:
    """What a process shows of itself: its environment and its arguments."""
    try:
        return b" ".join((Path("/proc") / str(process) / name).read_bytes() for name in ("environ", "cmdline"))
    except (FileNotFoundError, ProcessLookupError):
        return b""


def reported(postgresql, ledger: Ledger) -> int:
    """How many epochs the study of a sweep holds; the database has the studies of other tests, too."""
    if not ledger.exists():
        return 0
    tables = "trial_intermediate_values JOIN trials USING (trial_id) JOIN studies USING (study_id)"
    return postgresql.execute(f"SELECT count(*) FROM {tables} WHERE study_name = '{ledger.study_name}'")[0][0]


@pytest.fixture
def ray_files(environment) -> Iterator[Path]:
    """Where the Ray of this test's commands, and no other that runs meanwhile, keeps its files."""
    # Not pytest's own directory: the path of a Unix socket has at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    environment["RAY_TMPDIR"] = str(directory)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
def test_a_sweep_outlives_its_server_and_nobody_sees_the_password(
    start, command, brake, write_space, environment, postgresql, ray_files, tmp_path
):
    environment["SWEEPS_STORAGE"] = postgresql.secret_url
    environment["PGPASSWORD"] = postgresql.password
    space, runs = write_space(SPACE, f"trainer.max_epochs={EPOCHS}"), tmp_path / "runs"
    brake(1, 2, 3)  # there is something left to report when the server is gone
    driver = start("sweeps", "run", space, "--runs", runs)
    try:
        deadline = time.monotonic() + 600
        while reported(postgresql, Ledger("tiny", runs)) < EPOCHS + 2:
            assert driver.poll() is None, driver.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        started = descendants(driver.pid)
        assert len(started) > 3, "Ray, and the processes of trials"
        assert not any(secret in told_by(process) for process in started for secret in postgresql.secrets)
        postgresql.stop(signal.SIGKILL)
        output = ""
        while "does not answer" not in output and (line := driver.stdout.readline()):
            output += line
        time.sleep(3)  # it asks in vain some times
        postgresql.start()
        brake(0, 2, 3)
        output += driver.stdout.read()
        driver.wait(600)
    finally:
        driver.send_signal(signal.SIGINT)  # where it has not ended
        driver.wait(600)
    assert driver.returncode == 0, output
    assert f"the study will be in {postgresql.url}" in output
    assert output.count("does not answer") == output.count("answers again after") == 1
    assert "tiny: 4 of 4 trials ended (4 finished" in output
    os.environ["SWEEPS_STORAGE"] = postgresql.secret_url
    try:
        trials = Ledger("tiny", runs).study().get_trials()
    finally:
        del os.environ["SWEEPS_STORAGE"]
    assert [(trial.number, trial.state.name) for trial in trials] == [(number, "COMPLETE") for number in range(4)]
    assert all(list(trial.intermediate_values) == list(range(1, EPOCHS + 1)) for trial in trials)
    files = [file for root in (runs, ray_files) for file in root.rglob("*") if file.is_file()]
    assert any(file.is_relative_to(ray_files) for file in files)
    for file in files:
        content = file.read_bytes()
        assert not any(secret in content for secret in postgresql.secrets), file
    assert not any(secret in output.encode() for secret in postgresql.secrets)

    del environment["PGPASSWORD"]
    environment["SWEEPS_STORAGE"] = postgresql.url
    for arguments in (("resume", "tiny"), ("status", "tiny"), ("dashboard", "tiny")):
        status, output = command("sweeps", *arguments, "--runs", runs)
        assert status == 2
        assert "no password supplied. Its password is given by SWEEPS_STORAGE=" in " ".join(output.split())
    status, output = command("sweeps", "list", "--runs", runs)
    assert status == 0
    assert re.search(r"tiny +unreadable", output)


@pytest.mark.slow
def test_the_dashboard_ends_with_ctrl_c(start, write_space, tmp_path, make_space_ledger):
    ledger = make_space_ledger(write_space(SPACE))
    shown = start("sweeps", "dashboard", ledger.name, "--runs", ledger.root, "--port", "0")
    line = shown.stdout.readline()
    found = re.fullmatch(r"tiny: (http://127\.0\.0\.1:\d+/dashboard/studies/\d+) \(Ctrl-C ends it\)\n", line)
    assert found, line
    assert urllib.request.urlopen(found[1]).status == 200
    shown.send_signal(signal.SIGINT)
    output, _ = shown.communicate(timeout=600)
    assert (shown.returncode, output.strip()) == (0, "")


@pytest.fixture
def make_space_ledger(tmp_path):
    """A function: a space's file → the ledger of a sweep in which nothing has run."""
    from sweeps.creation import create_ledger
    from sweeps.space import load_space

    def make(file: Path) -> Ledger:
        ledger = Ledger(file.stem, tmp_path / "runs")
        create_ledger(ledger, load_space(file))
        return ledger

    return make
