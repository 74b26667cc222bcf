"""Faults of disk and files under a driver: no finished trial lost, none counted twice, and a message that says what to do.

Ray's part is played by a loop over the study, so that the driver's own is all that runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from sweeps import runner
from sweeps.errors import LedgerError
from sweeps.ledger import read_history
from sweeps.overview import overview
from sweeps.process import TrialProcess

FIFO = "search: {trials: 4, seed: 3}\nstopping: {scheduler: fifo}\n"
PRELUDE = """
import os, resource, subprocess, sys
from pathlib import Path
from rich.console import Console
from sweeps import creation, runner
from sweeps.errors import LedgerError
from sweeps.ledger import Ledger, read_history
from sweeps.overview import overview
from sweeps.space import load_space

root, space = Path(sys.argv[1]), load_space(Path(sys.argv[2]))
console = Console(width=300)
broken = None


def work(study, console, interruption):
    while proposal := study.propose():
        number = proposal["number"]
        study.begin(number)
        for epoch in (1, 2):
            if broken and (number, epoch) == broken[0]:
                broken[1]()
            metrics = {"val/avg_acc": number + epoch / 10, **{f"train/metric_{index}": index + 0.5 for index in range(400)}}
            message = {"epoch": epoch, "max_epochs": 2, "parameters": 7, "seconds": 1.0, "metrics": metrics}
            study.report(number, {**message, "repeated": False})
        study.finish(number, {"metrics": {}, "seconds": 2.0})


runner._work = work
ledger = Ledger("mine", root)


def mount(*options):
    subprocess.run(["mount", *options, str(root)], check=True)
"""
FULL_TMPFS = """
mount("-t", "tmpfs", "-o", "size=2m", "tmpfs")
filler = root / "filler"


def fill():
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass


mend = filler.unlink
"""
FULL_LIMIT = """
def fill():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))


def mend():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
FULL = """
creation.create_ledger(ledger, space)
broken = (2, 2), fill
try:
    runner.resume("mine", root, console)
except LedgerError as error:
    print("REFUSED", error)
try:
    print("FINISHED", overview(ledger).ended["finished"])
except LedgerError as error:
    print("UNREAD", error)
broken = None
mend()
print("FINISHED", overview(ledger).ended["finished"])
runner.resume("mine", root, console)
for trial in ledger.study().get_trials():
    rows = read_history(ledger.trial(trial.number).history)
    print("TRIAL", trial.number, trial.state.name, trial.value, [row["epoch"] for row in rows])
"""
READ_ONLY = """
mount("-t", "tmpfs", "tmpfs")
creation.create_ledger(ledger, space)
runner.resume("mine", root, console)
mount("--bind", str(root))
mount("-o", "remount,bind,ro")
print("STATE", overview(ledger).state)
for call in (lambda: runner.resume("mine", root, console), lambda: creation.create_ledger(Ledger("other", root), space)):
    try:
        call()
    except LedgerError as error:
        print("REFUSED", error)
"""


@cache
def may_mount() -> bool:
    """Whether this user may mount a file system in a namespace of his own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def script(tmp_path: Path, make_space, *parts: str, mounts: bool) -> list[str]:
    """The lines that a script of these parts prints; with `mounts`, it may mount over its directory."""
    make_space(FIFO, "mine")
    (tmp_path / "script.py").write_text(PRELUDE + "".join(map(textwrap.dedent, parts)))
    (tmp_path / "runs").mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"] if mounts else []
    command = [*namespace, sys.executable, str(tmp_path / "script.py"), str(tmp_path / "runs"), str(tmp_path / "mine.yaml")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("kind", ["disk", pytest.param("limit", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_loses_nothing_and_the_sweep_goes_on_once_there_is_room(make_space, tmp_path, kind):
    """A small file system that is filled; and the largest size of a file, which needs no right to mount."""
    if kind == "disk":
        assert may_mount(), "this test needs `unshare --user --mount`, which this machine refuses: the other one ran instead"
    lines = script(tmp_path, make_space, FULL_TMPFS if kind == "disk" else FULL_LIMIT, FULL, mounts=kind == "disk")
    refused = " ".join(line for line in lines if line.startswith("REFUSED"))
    assert "runs/mine cannot be written" in refused or "runs/mine/study.db cannot be written" in refused
    assert "Nothing that has ended is lost; once that is mended, go on with: make resume NAME=mine RUNS=" in refused
    assert lines.count("FINISHED 2") == (2 if kind == "disk" else 1)
    if kind == "limit":  # where no file at all can be made, not that of the readers either
        unread = next(line for line in lines if line.startswith("UNREAD"))
        assert "study.db cannot be opened as an SQLite database (disk I/O error). To read it, SQLite must be able to" in unread
    assert [line for line in lines if line.startswith("TRIAL")] == [
        f"TRIAL {number} COMPLETE {number}.2 [1, 2]" for number in range(4)
    ]


@pytest.mark.slow
def test_a_directory_that_may_not_be_written_can_be_looked_at_and_nothing_else(make_space, tmp_path):
    assert may_mount(), "this test needs `unshare --user --mount`, which this machine refuses"
    lines = script(tmp_path, make_space, READ_ONLY, mounts=True)
    assert "STATE complete" in lines
    first, second = [line for line in lines if line.startswith("REFUSED")]
    assert first.endswith("runs/mine cannot be written (Read-only file system): nothing was started.")
    assert "runs/ cannot be written (Read-only file system): choose another place with RUNS=…" in second


@pytest.fixture
def ended(make_ledger, open_study, run_trial, report_epoch, monkeypatch):
    """A sweep in which two of four trials have finished and one was interrupted; resumed, it runs without Ray."""

    def work(study, console, interruption):
        while not study.complete:
            number = study.propose()["number"]
            study.begin(number)
            for epoch in (1, 2):
                report_epoch(study, number, epoch, 0.5, max_epochs=2)
            study.finish(number, {"metrics": {}, "seconds": 2.0})

    monkeypatch.setattr(runner, "_work", work)
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    for _ in range(2):
        run_trial(study, [0.5, 0.6])
    study.propose()
    report_epoch(study, 2, 1, 0.1)
    return ledger


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_study_is_named_and_left_as_it_is(ended, console, share):
    file = ended.directory / "study.db"
    content = file.read_bytes()
    ended.storage.engine.dispose()
    file.write_bytes(content[: int(share * len(content))])
    before = file.read_bytes()
    for act in (lambda: runner.resume("test", ended.root, console), lambda: overview(type(ended)("test", ended.root))):
        with pytest.raises(LedgerError, match=r"study\.db") as refused:
            act()
        assert "estore" in str(refused.value) or "holds no study" in str(refused.value)
    assert file.read_bytes() == before


def test_a_damaged_history_is_named_and_without_it_the_sweep_goes_on(ended, console):
    hurt = ended.trial(1).history
    hurt.write_text(hurt.read_text().replace("\n1,", "\none,"))
    with pytest.raises(LedgerError, match=r"0001/history\.csv: row 1 is damaged .* Mend it, or delete the file"):
        runner.resume("test", ended.root, console)
    for number in (1, 2):
        ended.trial(number).history.unlink()
    assert runner.resume("test", ended.root, console) == 0
    trials = ended.study().get_trials()
    assert [trial.value for trial in trials] == [0.6, 0.6, 0.5, 0.5]
    assert [len(read_history(ended.trial(number).history)) for number in range(4)] == [2, 0, 2, 2]


def test_a_truncated_checkpoint_fails_its_trial_alone_and_says_which_file(vimh_dataset, tmp_path):
    overrides = [
        "model=vimh_mlp",
        f"data.data_dir='{vimh_dataset}'",
        "data.generate=null",
        "logger=none",
        "trainer.max_epochs=3",
    ]
    message = {"number": 0, "overrides": [*overrides, "trainer.accelerator=cpu"], "directory": str(tmp_path)}
    process = TrialProcess(threads=1)
    try:
        process.start(message)
        process.next()
        process.end()
        last = tmp_path / "checkpoints" / "last.ckpt"
        last.write_bytes(last.read_bytes()[:1000])
        process.start(message)
        failed = process.next()
    finally:
        process.close()
    assert failed["kind"] == "failed"
    assert failed["error"].startswith(f"CheckpointError: {last} cannot be read as a checkpoint")


def test_a_clock_that_was_set_back_gives_no_nonsense(ended):
    started = (datetime.now(UTC) + timedelta(hours=5)).isoformat(timespec="seconds")
    ended.write_manifest({**ended.manifest(), "sessions": [{"started": started}]})
    with ended.lock():
        seen = overview(ended)
    assert (seen.state, seen.left, seen.ended_now) == ("running", None, 0)
