"""An older copy of a study is put back beside the directories of the trials that it has not heard of."""

from __future__ import annotations

import shutil

import pytest

from sweeps import older_study, runner
from sweeps.ledger import Ledger, read_history
from sweeps.older_study import settle
from sweeps.recorded import recorded

FIFO = "search: {trials: 3, seed: 3, sampler: random}\nstopping: {scheduler: fifo}\n"


@pytest.fixture
def restored(make_ledger, open_study, run_trial, report_epoch, checkpoint):
    """A sweep whose study ends with the first epoch of trial 1, and whose directories have three and all of trial 2."""
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    run_trial(study, [0.5, 0.4])
    study.begin(study.propose()["number"])
    report_epoch(study, 1, 1, 0.1)
    shutil.copy(ledger.directory / "study.db", ledger.root / "older.db")
    for epoch in (2, 3):
        report_epoch(study, 1, epoch, epoch / 10)
    assert run_trial(study, [0.9, 0.8]) == 2
    for number in (1, 2):
        checkpoint(ledger.trial(number), 3)
    shutil.copy(ledger.root / "older.db", ledger.directory / "study.db")
    return Ledger(ledger.name, ledger.root)


def test_no_trial_is_taken_for_another_and_no_epoch_is_lost(restored, open_study, report_epoch, console, monkeypatch):
    seen = []

    def work(study, console, interruption):
        seen.extend([study.propose()["number"], study.propose()["number"]])
        report_epoch(study, 1, 3, 0.3, repeated=True)  # from its last checkpoint, which the study had not heard of
        study.finish(1, {"metrics": {}, "seconds": 1.0})
        return None

    monkeypatch.setattr(runner, "_work", work)
    runner.resume("test", restored.root, console)
    assert seen == [1, 2]
    assert recorded(restored.study().get_trials()[1]) == {1: (0.1,), 2: (0.2,), 3: (0.3,)}
    assert not restored.trial(2).last_checkpoint.exists(), "trial 2 is another one now, which begins at its beginning"
    aside = restored.orphans_directory / "0002"
    assert (aside / "checkpoints" / "last.ckpt").exists()
    assert [row["val/avg_acc"] for row in read_history(aside / "history.csv")] == [0.9, 0.8]
    said = console.file.getvalue()
    assert f"{restored.directory / 'study.db'} knows nothing of the trials 2, as an older copy of it would" in said
    assert "what" in said
    assert "lacked of the trials 1 was taken from their histories" in said


def test_what_is_settled_is_left_alone_and_a_second_loss_keeps_both(restored, open_study, console):
    settle(restored, restored.space(), console)
    first = console.file.getvalue()
    settle(restored, restored.space(), console)
    assert console.file.getvalue() == first
    restored.trial(2).directory.mkdir()
    settle(restored, restored.space(), console)
    assert sorted(path.name for path in restored.orphans_directory.iterdir()) == ["0002", "0002-2"]


@pytest.mark.parametrize("write", ["record", "_free"])
def test_a_kill_before_any_write_leaves_the_rest_to_the_next_driver(restored, console, monkeypatch, write):
    class Killed(BaseException):
        """What stands for SIGKILL."""

    def killed(*arguments):
        raise Killed

    shutil.copytree(restored.trial(2).directory, restored.trial(3).directory)
    original, calls = getattr(older_study, write), []

    def second(*arguments):
        calls.append(arguments)
        return killed() if len(calls) == 2 else original(*arguments)

    monkeypatch.setattr(older_study, write, second)
    with pytest.raises(Killed):
        settle(restored, restored.space(), console)
    monkeypatch.undo()
    settle(Ledger(restored.name, restored.root), restored.space(), console)
    assert recorded(restored.study().get_trials()[1]) == {1: (0.1,), 2: (0.2,), 3: (0.3,)}
    assert sorted(path.name for path in restored.orphans_directory.iterdir()) == ["0002", "0003"]


def test_a_sweep_that_was_only_killed_has_nothing_to_settle(make_ledger, open_study, run_trial, report_epoch, console):
    ledger = make_ledger(FIFO)
    study = open_study(ledger)
    run_trial(study, [0.5])
    study.begin(study.propose()["number"])
    report_epoch(study, 1, 1, 0.5)
    settle(Ledger(ledger.name, ledger.root), ledger.space(), console)
    assert console.file.getvalue() == ""
    assert not ledger.orphans_directory.exists()
