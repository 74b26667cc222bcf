"""How a sweep stands, seen from outside: what is read, what is printed, and that nothing is written."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from sweeps.creation import create_ledger
from sweeps.ledger import Ledger
from sweeps.overview import overview
from sweeps.status import show_list, show_status

FIFO = "search: {trials: 4, seed: 3}\nstopping: {scheduler: fifo}\n"


def session(ledger, ago=100.0, **end):
    """Note in the manifest a run that began so many seconds ago."""
    started = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="seconds")
    record = ledger.manifest()
    ledger.write_manifest({**record, "sessions": [*record["sessions"], {"started": started, **end}]})


def test_a_sweep_that_was_killed_is_interrupted_and_resumed_runs(make_ledger, open_study, run_trial, report_epoch):
    ledger = make_ledger(FIFO)
    session(ledger, ago=10_000)
    study = open_study(ledger)
    run_trial(study, [0.1, 0.5, 0.3])
    study.propose()
    study.fail(1, {"error": "ValueError: no"})
    study.propose()
    report_epoch(study, 2, 1, 0.25)
    seen = overview(ledger)
    assert (seen.state, seen.holder, seen.target, seen.best) == ("interrupted", None, 4, (0, 0.5))
    assert seen.ended == {"finished": 1, "failed": 1}
    assert [(trial.number, trial.epoch, trial.max_epochs, trial.values) for trial in seen.running] == [(2, 1, 3, (0.25,))]
    assert seen.left is None
    with ledger.lock():
        seen = overview(ledger)
        assert seen.state == "running"
        assert seen.holder.is_here
        assert seen.ended_now == 2
        assert seen.left.total_seconds() == pytest.approx(10_000, abs=300)  # two in 10 000 s, and two are left


@pytest.mark.parametrize(("end", "state"), [("hopeless", "failed"), ("budget", "interrupted"), ("interrupted", "interrupted")])
def test_how_the_last_run_ended_tells_a_hopeless_sweep_from_an_interrupted_one(make_ledger, end, state):
    ledger = make_ledger(FIFO)
    session(ledger, end=end)
    assert overview(ledger).state == state


def test_a_sweep_whose_trials_have_all_ended_is_complete_if_one_has_a_value(make_ledger, open_study, run_trial):
    for name, values in (("good", [0.5]), ("bad", None)):
        ledger = make_ledger(FIFO, name=name)
        study = open_study(ledger)
        for number in range(4):
            if values:
                run_trial(study, values)
            else:
                study = open_study(ledger)  # another driver each time: no driver sees three alike
                study.propose()
                study.fail(number, {"error": "ValueError: no"})
        assert overview(ledger).state == ("complete" if values else "failed")
    assert overview(Ledger("good", ledger.root)).best == (0, 0.5)  # of equals, the earlier


FEW = """
description: A space of two settings.
trial: [experiment=vimh]
objective: {metric: val/avg_acc, mode: max}
space:
  model.optimizer.lr: {choice: [0.1, 0.2]}
search: {trials: 20, sampler: random}
stopping: {scheduler: fifo, guard: {mode: off}}
"""


@pytest.fixture
def few(make_space, tmp_path):
    """A sweep of two settings that was asked for twenty trials."""
    ledger = Ledger("few", tmp_path / "runs")
    create_ledger(ledger, make_space(FEW, "few", base=False))
    session(ledger)
    return ledger


def test_a_sweep_that_has_tried_its_whole_space_is_complete(few, open_study, run_trial, console):
    study = open_study(few)
    run_trial(study, [0.5])
    assert overview(few).state == "interrupted"
    run_trial(study, [0.25])
    assert study.propose() is None
    assert study.complete
    seen = overview(few)  # killed before it was noted that it is complete
    assert (seen.state, seen.exhausted, seen.ended.total(), seen.target) == ("complete", True, 2, 20)
    with few.lock():
        seen = overview(few)
        assert (seen.state, seen.left) == ("running", None)  # nothing is to come
    show_status(few, console)
    assert "resume" not in console.file.getvalue()
    study.study.enqueue_trial({"model.optimizer.lr": 0.1}, user_attrs={"retries": 0})
    assert overview(few).state == "interrupted"


def test_a_whole_space_without_a_value_has_failed(few, open_study):
    for _ in range(2):
        study = open_study(few)
        study.fail(study.propose()["number"], {"error": "ValueError: no"})
    assert overview(few).state == "failed"


@pytest.mark.parametrize(("end", "state"), [("complete", "complete"), ("budget", "interrupted")])
def test_of_a_space_that_is_no_longer_accepted_the_last_end_tells(few, open_study, run_trial, end, state):
    run_trial(open_study(few), [0.5])
    session(few, end=end)
    few.space_file.write_text(few.space_file.read_text().replace("constraints: []", "unknown: 1"))
    assert overview(few).state == state


def test_a_complete_sweep_that_is_asked_for_more_can_be_resumed(make_ledger, open_study, run_trial):
    ledger = make_ledger("search: {trials: 1}\nstopping: {scheduler: fifo}\n")
    run_trial(open_study(ledger), [0.5])
    session(ledger, end="complete")
    assert overview(ledger).state == "complete"
    ledger.space_file.write_text(ledger.space_file.read_text().replace("  trials: 1\n", "  trials: 2\n"))
    assert overview(ledger).state == "interrupted"


def test_words_that_an_older_yaml_takes_for_truth_values_are_words(few):
    assert few.plain_space()["stopping"]["guard"] == {"mode": "off"}


def test_looking_writes_nothing_and_does_not_keep_a_driver_out(make_ledger, open_study, run_trial, console):
    ledger = make_ledger(FIFO)
    run_trial(open_study(ledger), [0.5])

    def files():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in ledger.root.rglob("*")}

    before = files()
    show_list(ledger.root, console)
    show_status(ledger, console)
    assert files() == before
    with ledger.lock():
        show_status(ledger, console)
    with ledger.lock():
        pass


@pytest.mark.parametrize("storage", ["sqlite"], indirect=True)
def test_the_list_has_a_line_for_every_sweep_and_says_what_cannot_be_read(make_ledger, open_study, run_trial, console, storage):
    ledger = make_ledger(FIFO, name="one")
    run_trial(open_study(ledger), [0.5])
    hurt = make_ledger(FIFO, name="hurt")
    (hurt.directory / "study.db").write_bytes(b"no database" * 100)
    show_list(ledger.root, console)
    header, *lines = console.file.getvalue().splitlines()
    assert header.split() == ["sweep", "state", "trials", "best", "last", "trial", "ends"]
    assert [line.split()[:3] for line in lines[:2]] == [["hurt", "unreadable", "–"], ["one", "interrupted", "1/4"]]
    assert lines[1].endswith("1 finished")
    assert lines[2].startswith("unreadable: ")
    assert "cannot be opened as an SQLite database" in lines[2]


def test_an_empty_list_says_how_to_begin(tmp_path, console):
    show_list(tmp_path, console)
    assert "start one with `make sweep NAME=…`" in console.file.getvalue()


def test_status_shows_progress_and_what_to_do_next(make_ledger, open_study, run_trial, report_epoch, console):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    run_trial(study, [0.5, 0.25])
    study.propose()
    report_epoch(study, 1, 1, 0.125, max_epochs=2)
    show_status(ledger, console)
    assert console.file.getvalue().splitlines() == [
        "test: interrupted, 1 of 4 trials ended",
        "  1 finished",
        f"  best val/avg_acc 0.5: trial 0, {ledger.trial(0).directory}",
        "  trial 1 was interrupted: ██████████░░░░░░░░░░ epoch 1/2  0.125",
        f"  go on with: make resume NAME=test RUNS={ledger.root}",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_watching_ends_with_the_sweep(make_ledger, open_study, run_trial, terminal):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    console = Console(file=io.StringIO(), width=150, force_terminal=terminal, color_system=None, highlight=False)
    lock = ledger.lock()
    lock.__enter__()
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 4:
            lock.__exit__(None, None, None)
        elif len(looks) % 2:
            run_trial(study, [0.5])

    show_status(ledger, console, watch=True, pause=pause)
    printed = console.file.getvalue()
    assert len(looks) == 4
    assert "test: interrupted, 2 of 4 trials ended" in printed
    if not terminal:
        assert [line.split()[0] for line in printed.splitlines()[:3]] == ["[0/4]", "[1/4]", "[2/4]"]


def test_a_session_is_opened_and_closed(make_ledger):
    from sweeps import manifest

    ledger = make_ledger(FIFO)
    manifest.open_session(ledger)
    assert "end" not in ledger.manifest()["sessions"][-1]
    manifest.close_session(ledger, "hopeless", 12.5)
    last = json.loads(ledger.manifest_file.read_text())["sessions"][-1]
    assert (last["end"], last["seconds"]) == ("hopeless", 12.5)
    assert last["ended"] >= last["started"]
