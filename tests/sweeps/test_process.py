"""Processes for trials: clean forks of a warm server, whose end, however sudden, takes nothing else down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lhtx.checkpoints import load_checkpoint
from sweeps.channel import private_directory
from sweeps.continuation import copy
from sweeps.ledger import TrialFiles
from sweeps.process import ServerLost, TrialProcess


@pytest.fixture(scope="module")
def process():
    process = TrialProcess(threads=1)
    yield process
    process.close()


@pytest.fixture
def assignment(tmp_path, vimh_dataset):
    """A function: directory's name and more overrides → a trial that trains a tiny network on tiny data."""

    def make(name="trial", *overrides, epochs=3):
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        chosen = [
            "model=vimh_mlp",
            f"data.data_dir='{vimh_dataset}'",
            "data.generate=null",
            "logger=none",
            "trainer.accelerator=cpu",
            "threads=1",
            f"trainer.max_epochs={epochs}",
            *overrides,
        ]
        return {"number": 0, "overrides": chosen, "directory": str(directory)}

    return make


def messages_until_the_end(process):
    messages = [process.next()]
    while messages[-1]["kind"] == "report":
        messages.append(process.next())
    return messages


def alive(pid):
    """Whether `pid` runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_a_trial_reports_each_epoch_and_finishes(process, assignment):
    message = assignment()
    process.start(message)
    *reports, last = messages_until_the_end(process)
    assert [(report["epoch"], report["max_epochs"]) for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert {"val/avg_acc", "train/loss", "grad/evidence"} <= reports[0]["metrics"].keys()
    assert reports[0]["parameters"] > 1000
    assert last["kind"] == "finished"
    assert "test/avg_acc" in last["metrics"]
    assert 0 < reports[0]["seconds"] < reports[2]["seconds"] < last["seconds"]
    assert "trial 0 begins" in (Path(message["directory"]) / "stdout.log").read_text()


def test_a_trial_cannot_see_the_trial_before_it(process, assignment):
    """Whatever ran before on the same server, the same overrides give the same bits."""
    metrics = []
    for index, before in enumerate([["seed=5", "model=vimh_cnn", "trainer.precision=bf16-mixed"], ["seed=99"]]):
        process.start(assignment(f"before{index}", *before, epochs=1))
        assert messages_until_the_end(process)[-1]["kind"] == "finished"
        process.start(assignment(f"same{index}", "seed=7"))
        *_, last = messages_until_the_end(process)
        metrics.append(json.dumps(last["metrics"], sort_keys=True))
    assert metrics[0] == metrics[1]


def test_a_trial_that_is_told_to_stop_leaves_its_checkpoint_and_goes_on_from_it(process, assignment):
    message = assignment(epochs=4)
    process.start(message)
    first = [process.next(), process.next()]
    process.end()
    directory = Path(message["directory"])
    assert (directory / "checkpoints" / "last.ckpt").exists()
    assert not (directory / "metrics.json").exists()
    process.start(message)
    *rest, last = messages_until_the_end(process)
    assert [report["epoch"] for report in first + rest] == [1, 2, 2, 3, 4]
    assert [report["repeated"] for report in first + rest] == [False, False, True, False, False]
    assert json.dumps(rest[0]["metrics"]) == json.dumps(first[1]["metrics"])
    straight = assignment("straight", epochs=4)
    process.start(straight)
    *_, uninterrupted = messages_until_the_end(process)
    assert json.dumps(last["metrics"]) == json.dumps(uninterrupted["metrics"])


def test_a_finished_trial_that_is_trained_further_is_as_if_it_had_never_stopped(process, assignment):
    short, longer, straight = assignment("short", epochs=2), assignment("longer", epochs=4), assignment("straight", epochs=4)
    process.start(short)
    assert messages_until_the_end(process)[-1]["kind"] == "finished"
    Path(longer["directory"]).rmdir()
    assert copy(*(TrialFiles(Path(each["directory"])) for each in (short, longer))) == 2
    process.start(longer)
    *reports, last = messages_until_the_end(process)
    assert [(report["epoch"], report["max_epochs"], report["repeated"]) for report in reports] == [
        (2, 4, True),
        (3, 4, False),
        (4, 4, False),
    ]
    process.start(straight)
    *_, uninterrupted = messages_until_the_end(process)
    assert json.dumps(last["metrics"]) == json.dumps(uninterrupted["metrics"])  # the test of the best checkpoint among them
    best = load_checkpoint(TrialFiles(Path(longer["directory"])).checkpoints / "best.ckpt")
    assert best["epoch"] == load_checkpoint(TrialFiles(Path(straight["directory"])).checkpoints / "best.ckpt")["epoch"]


def test_a_trial_that_raises_fails_with_its_traceback_and_the_next_one_runs(process, assignment):
    message = assignment("raises", "trainer.max_epochs=-7")
    process.start(message)
    failed = messages_until_the_end(process)[-1]
    assert failed["kind"] == "failed"
    assert "max_epochs" in failed["error"]
    assert "Traceback" in (Path(message["directory"]) / "error.txt").read_text()
    process.start(assignment("next", epochs=1))
    assert messages_until_the_end(process)[-1]["kind"] == "finished"


def test_a_trial_that_is_killed_says_so_and_the_next_one_runs(process, assignment):
    process.start(assignment("killed", epochs=500))
    process.next()
    os.kill(process._child, signal.SIGKILL)
    assert messages_until_the_end(process)[-1] == {
        "kind": "failed",
        "error": "killed by SIGKILL: by hand, as memory did not run out",
    }
    process.start(assignment("next", epochs=1))
    assert messages_until_the_end(process)[-1]["kind"] == "finished"


def test_ending_within_an_epoch_kills_at_once(process, assignment, monkeypatch):
    monkeypatch.setattr("sweeps.process.GRACE_SECONDS", 600.0)
    process.start(assignment("long", epochs=500))
    process.next()
    process._answer({"go_on": True})  # it trains now, and nobody waits for its report
    child = process._child
    start = time.monotonic()
    process.end()
    assert time.monotonic() - start < 60
    assert not alive(child)


def test_a_server_that_is_lost_is_an_error_and_a_new_one_is_started(assignment):
    process = TrialProcess(threads=1)
    try:
        process.start(assignment("lost", epochs=500))
        process.next()
        child, server = process._child, process._server_pid
        os.kill(server, signal.SIGKILL)
        with pytest.raises(ServerLost, match="exit status -9"):
            messages_until_the_end(process)
        wait_until(lambda: not alive(child))
        process.start(assignment("after", epochs=1))
        assert messages_until_the_end(process)[-1]["kind"] == "finished"
    finally:
        process.close()
    assert not alive(server)


def test_when_the_client_is_killed_nothing_is_left_running(assignment):
    message = assignment("orphan", epochs=5000)
    code = textwrap.dedent(
        f"""
        from sweeps.process import TrialProcess
        process = TrialProcess(threads=1)
        process.start({message!r})
        process.next()
        print(process._server_pid, process._child, flush=True)
        while True:
            process.next()
        """
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    server, child = map(int, client.stdout.readline().split())
    assert alive(server)
    assert alive(child)
    client.kill()
    client.wait()
    client.stdout.close()
    wait_until(lambda: not alive(server) and not alive(child))


@pytest.mark.slow
def test_without_fork_each_trial_has_a_server_of_its_own(assignment, monkeypatch):
    """As on macOS: the same messages, another process each."""
    monkeypatch.setattr("sweeps.process.FORK", False)
    process = TrialProcess(threads=1)
    pids = []
    try:
        for name in ("one", "two"):
            process.start(assignment(name, epochs=1))
            assert process.next()["kind"] == "report"
            pids.append(process._child)
            assert process._child == process._server.pid
            assert process.next()["kind"] == "finished"
        process.start(assignment("killed", epochs=500))
        process.next()
        os.kill(process._child, signal.SIGKILL)
        assert process.next()["error"].startswith("killed by SIGKILL")
        process.start(assignment("ended", epochs=500))
        process.next()
        process._answer({"go_on": True})
        process.end()  # within an epoch
    finally:
        process.close()
    assert pids[0] != pids[1]


def test_an_answer_that_a_killed_trial_never_read_does_not_confuse_the_next(process, assignment):
    process.start(assignment("killed", epochs=500))
    process.next()
    os.kill(process._child, signal.SIGKILL)
    process._answer({"go_on": True})
    assert process.next()["kind"] == "failed"
    process.start(assignment("next", epochs=1))
    assert messages_until_the_end(process)[-1]["kind"] == "finished"


def test_clients_of_one_name_share_a_server_and_neither_sees_the_other_s_end(assignment):
    name = f"shared-by-test-{os.getpid()}"
    first, second = (TrialProcess(threads=1, server=name) for _ in range(2))
    try:
        first.start(assignment("first", epochs=500))
        second.start(assignment("second", epochs=2))
        first.next()
        second.next()
        assert first._server_pid == second._server_pid
        server, child = first._server_pid, first._child
        first.close()  # it was waiting for an answer: its trial ends, and the other's goes on
        assert not alive(child)
        assert messages_until_the_end(second)[-1]["kind"] == "finished"
        assert alive(server)
        second.close()
        wait_until(lambda: not alive(server))
        wait_until(lambda: not list(private_directory().glob(f"{name}*")))  # whoever starts a server now may look at it
    finally:
        first.close()
        second.close()


def test_what_killed_servers_have_left_is_removed_by_the_next(assignment):
    name = f"killed-in-test-{os.getpid()}"
    for suffix in ("lock", "socket"):  # whoever starts a server meanwhile removes both, or neither
        (private_directory() / f"{name}.{suffix}").touch()
    process = TrialProcess(threads=1)
    try:
        process.connect()
    finally:
        process.close()
    wait_until(lambda: not list(private_directory().glob(f"{name}*")))
