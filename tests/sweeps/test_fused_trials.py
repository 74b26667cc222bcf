"""Trials that train as one in a process: each reports, ends, joins and leaves its files by itself, as it would alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout

from lhtx.checkpoints import load_checkpoint
from lhtx.trained import trained_config
from sweeps.fused_trials import FusedTrials
from sweeps.ledger import RUNNING, TrialFiles
from sweeps.process import TrialProcess
from sweeps.trial import Assignment, Listener, TrialStopped, run_trial


class Killed(BaseException):
    """What stands for SIGKILL."""


def files(trial: Assignment) -> TrialFiles:
    return TrialFiles(Path(trial.directory))


def is_free(trial: Assignment) -> bool:
    """Whether no process may write into a trial's directory."""
    lock = FileLock(files(trial).directory / RUNNING)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def message(trial: Assignment) -> dict[str, Any]:
    """How a driver names a trial."""
    return {"number": trial.number, "overrides": list(trial.overrides), "directory": trial.directory}


def together(*group: Assignment, answers: Callable[[int, dict[str, Any]], Any] = lambda index, message: None):
    """Train a group; its messages. Args: answers: the place of a message, and the message → what the answer says."""
    messages: list[dict[str, Any]] = []

    def exchange(message):
        messages.append(message)
        return {"go_on": True, **(answers(len(messages) - 1, message) or {})}

    trials = FusedTrials(group, exchange)
    try:
        trials.train()
    except Killed:
        for lock in trials._running.values():  # as the system does
            lock.release()
    assert all(set(each) == {"kind", "reports", "finished", "unfit"} and each["kind"] == "group" for each in messages)
    return messages


def epochs(messages) -> list[dict[int, tuple[int, bool]]]:
    """Of each message with reports: trial → epoch, and whether it is repeated."""
    told = [{each["number"]: (each["epoch"], each["repeated"]) for each in message["reports"]} for message in messages]
    return [each for each in told if each]


def heard(messages) -> dict[tuple[int, int], str]:
    """By trial and epoch, the metrics, as text, in which NaN equals NaN; repeated ones are what they were."""
    found: dict[tuple[int, int], str] = {}
    for each in (each for message in messages for each in message["reports"]):
        metrics = repr(sorted(each["metrics"].items()))
        assert found.setdefault((each["number"], each["epoch"]), metrics) == metrics
    return found


def by_itself(trial: Assignment, stop: int | None = None) -> list[Any]:
    """Train a trial in a process of its own, to its end or until it has reported the epoch `stop`; its reports."""
    reports: list[Any] = []

    class Reader(Listener):
        def hear(self, report):
            reports.append(report)

        def goes_on(self):
            return reports[-1].epoch != stop

    random = torch.random.get_rng_state()
    try:
        run_trial(trial, Reader())
    except TrialStopped:
        assert stop is not None
    finally:
        torch.random.set_rng_state(random)
    return reports


def distance(one: Assignment, other: Assignment) -> float:
    """The largest difference of any number of the last checkpoints' weights and optimizers' states."""
    a, b = (load_checkpoint(files(each).last_checkpoint) for each in (one, other))
    assert a["epoch"] == b["epoch"]
    states = [(a["state_dict"], b["state_dict"])]
    states += [(a["optimizer_states"][0]["state"][k], b["optimizer_states"][0]["state"][k]) for k in range(4)]
    return max(float((one[name] - other[name]).abs().max()) for one, other in states for name in one)


def test_a_group_tells_of_its_trials_and_each_leaves_the_files_of_a_trial(trial, capsys):
    group = [trial(0), trial(1)]
    messages = together(*group)
    assert epochs(messages) == [{0: (1, False), 1: (1, False)}, {0: (2, False), 1: (2, False)}]
    *_, last = messages
    assert [each["number"] for each in last["finished"]] == [0, 1]
    for each, finished, report in zip(group, last["finished"], messages[1]["reports"], strict=True):
        assert "test/avg_acc" in finished["metrics"]
        assert 0 < report["seconds"] < finished["seconds"]
        assert report["max_epochs"] == 2
        left = {path.relative_to(each.directory).as_posix() for path in Path(each.directory).rglob("*") if path.is_file()}
        assert {"config.yaml", "metrics.json", "checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= left
        assert is_free(each)
    assert files(group[1]).log.read_text() == "trial 1 trains with others: see the log of trial 0\n"
    assert "trial 0 begins\ntrial 1 begins" in capsys.readouterr().out


def test_who_is_stopped_is_let_go_with_the_next_message_and_who_joins_takes_the_orders_from_there(trial):
    first, stopped, joining = trial(0), trial(1), trial(2, "data.first_order=1")

    def answers(index, told):
        if index == 0:
            assert not is_free(stopped)
            assert not files(stopped).last_checkpoint.exists()
            return {"stop": [1], "join": [message(joining)]}
        assert is_free(stopped)
        assert load_checkpoint(files(stopped).last_checkpoint)["epoch"] == 0
        return None

    messages = together(first, stopped, answers=answers)
    assert epochs(messages) == [{0: (1, False), 1: (1, False)}, {0: (2, False), 2: (1, False)}, {2: (2, False)}]
    assert [[each["number"] for each in told["finished"]] for told in messages if told["finished"]] == [[0], [2]]
    assert trained_config(files(joining).last_checkpoint).data.first_order == 1
    assert not (files(stopped).directory / "metrics.json").exists()
    # Each comes to what it comes to in a process of its own; the one that was stopped goes on there.
    for each, reports in ((trial(0, name="alone"), 2), (trial(2, "data.first_order=1", name="alone"), 2)):
        assert len(by_itself(each)) == reports
        assert distance(each, trial(each.number)) < 1e-12
    goes_on, interrupted = by_itself(stopped), trial(1, name="alone")
    assert [(each.epoch, each.repeated) for each in goes_on] == [(1, True), (2, False)]
    assert repr(sorted(goes_on[0].metrics.items())) == heard(messages)[1, 1]
    by_itself(interrupted, stop=1)  # it goes on as one that was alone before: Lightning reads both in single precision
    by_itself(interrupted)
    assert distance(stopped, interrupted) < 1e-12


def test_a_trial_that_began_by_itself_goes_on_in_a_group_saying_first_what_it_holds(trial):
    early, other = trial(0), trial(1)
    (report,) = by_itself(early, stop=1)
    messages = together(other, answers=lambda index, told: {"join": [message(early)]} if index == 0 else None)
    assert epochs(messages) == [{1: (1, False)}, {0: (1, True)}, {0: (2, False), 1: (2, False)}]
    assert heard(messages)[0, 1] == repr(sorted(report.metrics.items()))
    assert messages[1]["reports"][0]["seconds"] == 0.0
    by_itself(straight := trial(0, name="alone"))
    assert distance(early, straight) < 1e-12


@pytest.mark.parametrize("with_the_last_message", [False, True])
def test_who_does_not_fit_is_named_and_the_others_go_on(trial, with_the_last_message):
    first, unlike = trial(0), trial(1, "model.net.lin1_size=13")
    at = 2 if with_the_last_message else 0
    free: list[bool] = []

    def answers(index, told):
        free.append(is_free(unlike))
        return {"join": [message(unlike)]} if index == at else None

    messages = together(first, answers=answers)
    (unfit,) = [each for told in messages for each in told["unfit"]]
    assert messages[at + 1]["unfit"] == [unfit]
    assert unfit["number"] == 1
    assert "model.net.lin1_size" in unfit["error"]
    assert all(free)
    assert epochs(messages) == [{0: (1, False)}, {0: (2, False)}]
    assert [each["number"] for told in messages for each in told["finished"]] == [0]
    assert [report.epoch for report in by_itself(unlike)] == [1, 2]


@pytest.mark.parametrize("killed", [1, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 2))])
def test_a_group_that_was_killed_goes_on_to_the_numbers_of_one_that_was_not(trial, killed):
    dropout = "model.net.dropout=0.2"

    def answers(index, told):
        if index == killed:
            raise Killed

    straight, again = ([trial(number, dropout, name=name) for number in range(2)] for name in ("straight", "again"))
    whole, first = together(*straight), together(*again, answers=answers)
    rest = together(*again)
    assert [each["repeated"] for each in rest[0]["reports"]] == [killed > 0] * 2
    assert heard(first + rest) == heard(whole)
    assert repr([each["metrics"] for each in rest[-1]["finished"]]) == repr([each["metrics"] for each in whole[-1]["finished"]])
    assert [distance(*pair) for pair in zip(straight, again, strict=True)] == [0.0, 0.0]


def test_a_group_whose_sweep_is_gone_leaves_the_checkpoints_of_all(trial):
    group = [trial(0), trial(1)]
    assert len(together(*group, answers=lambda index, told: {"go_on": False})) == 1
    for each in group:
        assert load_checkpoint(files(each).last_checkpoint)["epoch"] == 0
        assert is_free(each)


@pytest.mark.slow
def test_groups_in_real_processes(trial):
    process = TrialProcess(threads=1)
    lengthy = "trainer.max_epochs=500"
    try:
        group = [trial(number, name="whole") for number in range(2)]
        process.start(*map(message, group), fused=True)
        told = [process.next() for _ in range(4)]
        assert [each["kind"] for each in told] == ["group"] * 3 + ["over"]
        assert epochs(told[:3]) == [{0: (1, False), 1: (1, False)}, {0: (2, False), 1: (2, False)}]
        assert files(group[0]).log.read_text().startswith("trial 0 begins\ntrial 1 begins\n")

        group = [trial(number, lengthy, name="killed") for number in range(2)]
        process.start(*map(message, group), fused=True)
        process.next()
        os.kill(process._child, signal.SIGKILL)
        assert process.next()["error"].startswith("killed by SIGKILL")
        assert not files(group[0]).error.exists(), "nobody can say whose it is"

        process.start(*map(message, group), fused=True)
        process.next()
        process.change([1], [message(trial(2, lengthy, name="killed"))])
        assert epochs([process.next()])[0].keys() == {0, 2}
        assert is_free(group[1])
        process.end()
        assert [load_checkpoint(files(trial(number, name="killed")).last_checkpoint)["epoch"] for number in range(3)] == [
            1,
            0,
            0,
        ]
        assert all(is_free(trial(number, name="killed")) for number in range(3))

        group = [trial(0, name="raises"), trial(1, "model.net.lin1_size=13", name="raises")]
        process.start(*map(message, group), fused=True)
        failed = process.next()
        assert failed["kind"] == "failed"
        assert "cannot train as one" in failed["error"]
        assert "Traceback" in files(group[0]).log.read_text()
    finally:
        process.close()
